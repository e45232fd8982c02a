r"""BM25: words that query and document share, the rare ones first.

.. math:: s(q, m) = \sum_{w \in q} \log\Big(1 + \frac{N - n_w + \frac12}{n_w + \frac12}\Big)
    \frac{c_{w,m}}{c_{w,m} + k_1 (1 - b + b \, |m| / \overline{|m|})}

:math:`c_{w,m}` counts of word w in m, :math:`n_w` documents with w, :math:`k_1 = 1.5`, :math:`b = 0.75`.
Words are lower-cased runs of letters, marks and digits; in scripts without spaces between words
(Chinese, Japanese, Thai, ...) every character is a word.
Sign: positive is taken as a proponent; there are no opponents.
Known weaknesses: blind to meaning, word order and the model; finds statements of a fact very well all
the same.
Source: Robertson & Zaragoza (2009), Foundations and Trends in IR 3(4); Lucene's variant in the library
bm25s, Lu (2024), arXiv:2407.03618.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from unicodedata import category

import numpy as np

from influence.documents.methods.families import TextMethod
from influence.errors import InfluenceError

# Thai and Lao, Burmese, Khmer, kana, Han with extensions, compatibility ideographs, rare Han
SPACELESS = (
    "\u0e00-\u0e4f\u0e5a-\u0ecf\u1000-\u103f\u1050-\u109f\u1780-\u17d3\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


@cache
def word_pattern() -> re.Pattern[str]:
    """What a word is, of either case.

    Returns:
        A pattern without groups.
    """
    # A run of letters and digits, or one character of a spaceless script; each with its marks,
    # which are part of words in Indian scripts but not of \w.
    points = (chr(i) for i in range(sys.maxunicode + 1))
    marks = f"[{''.join(x for x in points if category(x).startswith('M'))}]"
    letter = rf"[^\W_{SPACELESS}]"
    return re.compile(rf"{letter}+(?:{marks}+{letter}*)*|(?=[{SPACELESS}])\w{marks}*")


def words(text: str) -> list[str]:
    """The words of a text.

    Args:
        text: Any text.

    Returns:
        Lower-cased words; single characters in scripts without spaces between words.
    """
    return word_pattern().findall(text.lower())


def scores(queries: Sequence[str], documents: Sequence[str], _seed: int) -> np.ndarray:
    """BM25 of every document for every query.

    Args:
        queries: Texts of the queries; a word said twice counts twice.
        documents: Texts of all documents.
        _seed: Not needed.

    Returns:
        ``[Q, N]`` in float64, never negative; 0 where no word is shared.

    Raises:
        InfluenceError: If the library is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise InfluenceError(
            "Method bm25: the package bm25s is not installed. Run `pip install bm25s`, or leave "
            "this method out."
        ) from error
    found_QN = np.zeros((len(queries), len(documents)))
    corpus = [words(text) for text in documents]
    known = {word for document in corpus for word in document}
    if not known:
        return found_QN
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    for row, text in enumerate(queries):
        shared = [word for word in words(text) if word in known]
        if shared:
            found_QN[row] = index.get_scores(shared)
    return found_QN


METHOD = TextMethod(
    name="bm25",
    title="BM25",
    about="Shared words, weighted by rarity (Robertson & Zaragoza 2009); knows nothing of the "
    "model.",
    unit="BM25 points",
    scores=scores,
)
