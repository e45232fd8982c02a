r"""The documents whose words are nearest: cosines of rare words, in blocks of documents.

A document is a vector over words, :math:`(1 + \log c) \, \mathrm{idf}^2`, with c how often the word
stands in it and :math:`\mathrm{idf} = \log(N / n)`, n the documents that hold it. The square makes two
documents that share a rare name neighbours, rather than two that share a phrase.

Axes: N documents, K neighbours, W words, B documents of a block.
Source: Salton & Buckley (1988), doi:10.1016/0306-4573(88)90021-0, with idf in both vectors squared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from influence.documents.methods.bm25 import words

BLOCK = 512
COMMON = 0.2
"""Words of more than this share of the documents are left out: they say little and cost most."""


def nearest_in_words(
    texts: Sequence[str], cluster_N: np.ndarray, neighbours: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Find the documents of other clusters whose words are nearest.

    Args:
        texts: N texts.
        cluster_N: Cluster of near-duplicates of each; members of one are no neighbours.
        neighbours: K.

    Returns:
        Rows ``[N, K]`` and similarities ``[N, K]`` between 0 and 1, nearest first; a similarity of 0
        says that there is no neighbour, whatever the row.
    """
    vectors_NW = word_vectors(texts)
    count = min(neighbours, len(texts))
    rows_NK = np.zeros((len(texts), neighbours), np.int64)
    words_NK = np.zeros((len(texts), neighbours))
    for start in range(0, len(texts), BLOCK):
        own = slice(start, start + BLOCK)
        near_BN = (vectors_NW[own] @ vectors_NW.T).toarray()
        near_BN[cluster_N[own, None] == cluster_N] = 0.0
        best_BK = np.argsort(-near_BN, axis=1, kind="stable")[:, :count]
        rows_NK[own, :count] = best_BK
        words_NK[own, :count] = np.take_along_axis(near_BN, best_BK, axis=1)
    return rows_NK, words_NK


def word_vectors(texts: Sequence[str]) -> csr_array:
    """Texts as vectors of length 1 over their words.

    Args:
        texts: N texts.

    Returns:
        ``[N, W]``; a text without a telling word is 0.
    """
    number: dict[str, int] = {}
    starts: list[int] = [0]
    columns: list[int] = []
    counts: list[int] = []
    for text in texts:
        found = Counter(words(text))
        columns += [number.setdefault(word, len(number)) for word in found]
        counts += found.values()
        starts.append(len(columns))
    shape = (len(texts), max(1, len(number)))
    data = 1 + np.log(np.array(counts, np.float64))
    documents_W = np.bincount(columns, minlength=shape[1]) if columns else np.ones(1)
    telling_W = (documents_W > 1) & (documents_W <= max(2.0, COMMON * len(texts)))
    idf_W = np.where(telling_W, np.log(len(texts) / documents_W), 0.0)
    vectors_NW = csr_array((data * idf_W[columns] ** 2, columns, starts), shape=shape)
    vectors_NW.eliminate_zeros()
    length_N = np.sqrt(vectors_NW.multiply(vectors_NW).sum(axis=1))
    scale_N = np.divide(1.0, length_N, out=np.zeros(len(texts)), where=length_N > 0)
    return csr_array(vectors_NW.multiply(scale_N[:, None]))
