"""Where the words, phrases, sentences, paragraphs and sections of a text begin.

Every function takes a text and gives its pieces, which joined are the text. Between two pieces,
white space up to the last line break ends the piece before, and the rest begins the piece after: so
a space goes with the word after it, as in most tokenizers, and a blank line with the paragraph
before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate, pairwise
from unicodedata import category

from influence.inputs.extras import needed

LONG_PHRASE = 8
"""Words; a longer phrase is divided."""
WRAPPED_LINE = 50
"""Characters; a line of at least so many, without an end mark, goes on in the next line."""
FUNCTION_WORDS = frozenset(
    "about after against although and as at because before between but by during for from how if "
    "in into nor on onto or over since than that though through to toward under unless until upon "
    "what when where whether which while who whom whose why with within without".split()
)
"""English words before which a long phrase is divided."""
LABEL = re.compile(
    r"^[ \t]*[*_]*(?P<label>[^\W\d_a-z][\w'’./-]*(?:[ \t][\w'’./()#-]+){0,2}"
    r"|\[[^\W\d_][\w -]{0,30}\])[*_]*[ \t]?(?:：|:(?=[*_\s]|$))",
    re.MULTILINE,
)
"""At the beginning of a line, such as `Context:`, `Question 3:` or `**Final answer**:`."""
HEADINGS = (
    re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE),  # Markdown
    re.compile(r"(?:\A|(?<=\n\n))[^\s-][^\n]{0,60}(?<![.!?;,])\n(?:==+|--+)[ \t]*$", re.MULTILINE),
    re.compile(r"(?:\A|(?<=\n\n))\d+(?:\.\d+)*[.)]?[ \t]+[^\W\d][^\n]{0,60}(?<![.!?;,])(?=\n\n)"),
    re.compile(r"^\[[^\]\n]{1,40}\][ \t]*$", re.MULTILINE),  # such as [Document 2]
    re.compile(r"^<[A-Za-z][^<>\n]*>[ \t]*$", re.MULTILINE),  # an opening tag on its own line
)
"""Where they match, a section begins."""
ENDINGS = re.compile(r"^(?:-{3,}|\*{3,}|_{3,}|={3,}|</[A-Za-z][^<>\n]*>)[ \t]*$", re.MULTILINE)
"""Rules and closing tags: the section ends after them."""
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
END_MARK = re.compile(r"[.!?:;。！？：；…।؟։።。][\"'”’»)\]」』）]*$")
LIST_MARK = re.compile(r"\s*(?:[-*+•|>]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s")
SEPARATOR = re.compile(r"[,;:—–][\"'”’»)\]]*$|(?:^|\s)-+$|[)\]}]$")
WIDE_SEPARATOR = re.compile(r"[，、；：。！？…・،؛—）】》」』][」』）”’]*$")
OPENING = re.compile(r"\s+[(\[{]|\s*[（【《「『]")
QUOTES = ("'", '"', "`", "*", "_")
"""Open something where white space stands before them."""
WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]$")
SENTENCE_LANGUAGES = (("ru", "[\u0400-\u04ff]"), ("hy", "[\u0530-\u058f]"), ("en", ""))
"""Rules for sentences, and a letter of the texts that they are for; English ones know the end marks
of most scripts."""


def cut(text: str, places: Iterable[int]) -> list[str]:
    """Divide a text, giving white space between two pieces to one of them.

    Args:
        text: Any text.
        places: Where pieces begin, in any order; those in the white space at an end of the text,
            and those in the same white space, make no piece.

    Returns:
        Pieces with something else than white space each; the text itself if it has nothing else.
    """
    starts = {0, len(text)}
    for place in places:
        left = right = place
        while left > 0 and text[left - 1].isspace():
            left -= 1
        while right < len(text) and text[right].isspace():
            right += 1
        if 0 < left and right < len(text):
            line_break = text.rfind("\n", left, right)
            starts.add(left if line_break < 0 else line_break + 1)
    return [text[start:end] for start, end in pairwise(sorted(starts))]


def sections(text: str) -> list[str]:
    """Divide a text before headings, labels and tags, and after rules and closing tags.

    Args:
        text: Any text.

    Returns:
        Its sections.
    """
    found = [match.span() for heading in (*HEADINGS, LABEL) for match in heading.finditer(text)]
    underlined = {end for _, end in found}
    ended = [match.end() for match in ENDINGS.finditer(text) if match.end() not in underlined]
    return cut(text, [*(start for start, _ in found), *ended])


def paragraphs(text: str) -> list[str]:
    """Divide a text at blank lines.

    Args:
        text: Any text.

    Returns:
        Its paragraphs.
    """
    return cut(text, (match.end() for match in BLANK_LINE.finditer(text)))


def sentences(text: str) -> list[str]:
    """Divide a text into sentences, which end at line breaks too, unless a long line is wrapped.

    Args:
        text: Any text.

    Returns:
        Its sentences; an abbreviation or the number of a list's item ends none.
    """
    found = []
    for block in _unwrapped(text):
        plain = re.sub(r"\s", " ", block)  # the library breaks off at some kinds of white space
        language = next(name for name, letter in SENTENCE_LANGUAGES if re.search(letter, plain))
        parts = needed("sentencex").segment(language, plain)
        ends = _ends(block, parts)
        mark = LIST_MARK.match(block)
        found += cut(block, [end for end in ends if not mark or end > mark.end()])
    return found


def words(text: str) -> list[str]:
    """Divide a text into words, those of scripts without spaces by a dictionary.

    Punctuation goes with the word before it; with the word after it if it opens something or begins
    a line.

    Args:
        text: Any text.

    Returns:
        Its words.
    """
    parts = list(needed("icu4py.breakers").WordBreaker(text, "en"))
    ends = _ends(text, parts)
    starts = []
    has_word, done = False, 0  # of the piece that has begun; end of what is not white space
    for part, end in zip(parts, ends, strict=False):
        if part.isspace():
            continue
        start = end - len(part)
        is_word = any(category(character)[0] in "LNSM" for character in part)
        opens = category(part[0]) in ("Ps", "Pi", "Sc") or (part in QUOTES and start > done)
        if has_word and (is_word or opens or "\n" in text[done:start]):
            starts.append(start)
            has_word = False
        has_word = has_word or (is_word and not opens)
        done = end
    return cut(text, starts)


def phrases(text: str) -> list[str]:
    r"""Divide a sentence into phrases.

    They end after `, ; : —` and their wide forms, after a closing bracket and before an opening
    one; in scripts that write no spaces between words, also at a space. A phrase of more than
    `LONG_PHRASE` words is halved until none is: before the function word nearest to its middle, if
    one stands in the middle half, else in the middle.

    Args:
        text: A sentence.

    Returns:
        Its phrases, of whole words.
    """
    parts = words(text)
    begun = [0]
    for number, (before, after) in enumerate(pairwise(parts), start=1):
        stripped = before.rstrip()
        spaced = before != stripped or after[0].isspace()
        if (
            WIDE_SEPARATOR.search(stripped)
            or OPENING.match(after)
            or (spaced and (SEPARATOR.search(stripped) or WITHOUT_SPACES.search(stripped)))
        ):
            begun.append(number)
    groups = [parts[start:end] for start, end in pairwise([*begun, len(parts)])]
    return ["".join(half) for group in groups for half in _halved(group)]


def _halved(parts: list[str]) -> list[list[str]]:
    count = len(parts)
    if count <= LONG_PHRASE:
        return [parts]
    inner = range(count // 4, count - count // 4 + 1)
    places = [i for i in inner if parts[i].strip().lower() in FUNCTION_WORDS]
    middle = min(places or inner, key=lambda i: abs(2 * i - count))
    return [*_halved(parts[:middle]), *_halved(parts[middle:])]


def _unwrapped(text: str) -> list[str]:
    # Lines, with those that only the width of the page divides put together.
    lines = text.splitlines(keepends=True)
    starts = []
    for end, (line, following) in zip(
        accumulate(len(line) for line in lines), pairwise(lines), strict=False
    ):
        bare = line.rstrip()
        is_wrapped = len(bare) >= WRAPPED_LINE and not END_MARK.search(bare)
        if not is_wrapped or LIST_MARK.match(following) or LABEL.match(following):
            starts.append(end)
    return cut(text, starts)


def _ends(text: str, parts: list[str]) -> list[int]:
    # Where a library's pieces end; if it changed the text's length, only the text's own end.
    ends = list(accumulate(len(part) for part in parts))
    return ends if ends and ends[-1] == len(text) else [len(text)]
