"""Where words, phrases, sentences, paragraphs and sections of a text begin.

Every function takes a text and gives its pieces, which joined are the text. Between two pieces,
white space up to the last line break ends the piece before, and the rest begins the piece after: so
a space goes with the word after it, as in most tokenizers, and a blank line with the paragraph
before it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from influence.inputs.extras import needed

LONG_PHRASE = 8
"""Words; a longer phrase is divided."""
WRAPPED_LINE = 50
"""Characters; a line at least so long, without an end mark, goes on in the next one."""
FUNCTION_WORDS = frozenset(
    "about after against although and as at because before between but by during for from how if "
    "in into like nor of on onto or over since so than that though through to toward under unless "
    "until upon what when where whether which while who whom whose why with within without".split()
)
"""English words before which a long phrase is divided."""
LABEL = re.compile(
    r"^[ \t]*[*_#>]*[ \t]*(?P<label>[^\W\d_][\w'’./-]*(?:[ \t][\w'’./()#-]+){0,2}"
    r"|\[?[^\W\d_][\w-]*[ \t]?#?\d+\]?)[*_]*[ \t]?[:：]",
    re.MULTILINE,
)
"""At the beginning of a line, such as `Context:`, `Question 3:` or `**Final answer**:`."""
_HEADINGS = (
    re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE),  # Markdown
    re.compile(r"^\S.*\n(?:=+|-+)[ \t]*$", re.MULTILINE),  # underlined
    re.compile(r"(?:\A|(?<=\n\n))\d+(?:\.\d+)*[.)]?[ \t]+[^\W\d].{0,60}(?<![.!?;,])(?=\n\n)"),
    re.compile(r"^<[A-Za-z][^<>\n]*>[ \t]*$", re.MULTILINE),  # opening tag on a line of its own
    re.compile(r"(?<=^)\[[^\]\n]{1,40}\][ \t]*$", re.MULTILINE),  # such as [Document 2]
)
_RULE = re.compile(r"^(?:-{3,}|\*{3,}|_{3,}|={3,}|</[A-Za-z][^<>\n]*>)[ \t]*$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n+")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•|>]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]")
_SEPARATOR = re.compile(r"(?:[,;:—–][\"'”’»)\]]*|[,;:]|\s-|^\s*[-—–])$")
_FULL_WIDTH = re.compile(r"[，、；：。！？…・،؛]$")
_OPENING = ("Ps", "Pi", "Sc")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]$")
