"""Untrusted text made safe to look at: characters that hide or reorder text become visible marks.

Documents come from anywhere. A right-to-left override can make a page read backwards, a zero-width
space can split a word unseen, an escape character can drive a terminal. Here each of them turns
into a mark that names it. Escaping for HTML is separate and always done as well.
"""

import unicodedata

from markupsafe import Markup, escape

HIDING_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of control, format, lone surrogate and line/paragraph separator characters."""

BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that Unicode calls letters, marks or symbols and that draw nothing."""

DRAWN_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
"""Format characters that fonts do draw (Arabic number signs and the like)."""

JOINERS = frozenset("\u200c\u200d")
"""Zero-width (non-)joiners: needed inside Persian, Indic and emoji sequences, suspect elsewhere."""

FIRST_JOINED = "\u0590"
"""Joiners are kept after characters from here on: no Latin, Greek or Cyrillic word needs one."""


def is_hiding(char: str, previous: str = "") -> bool:
    """Whether a character draws nothing, or changes how its neighbours are drawn.

    Args:
        char: One character.
        previous: The character before it, or "" at the start.

    Returns:
        True for what must be shown as a mark. Newline and tab are layout and stay.
    """
    if char in "\n\t" or char in DRAWN_FORMATS:
        return False
    if char in JOINERS and previous >= FIRST_JOINED:
        return False
    if "\U000e0100" <= char <= "\U000e01ef" or char in BLANK_LETTERS:
        return True
    return unicodedata.category(char) in HIDING_CATEGORIES


NAMES = {"\0": "NUL", "\r": "CR", "\x1b": "ESC"}
"""Short names of the commonest control characters."""


def mark(char: str) -> str:
    """Return the visible name of a hidden character, such as [ESC] or [U+202E]."""
    return f"[{NAMES.get(char) or f'U+{ord(char):04X}'}]"


def pieces(text: str) -> list[tuple[str, bool]]:
    """Cut a text into (piece, hidden) pairs; a hidden piece is one character.

    Args:
        text: Any string, lone surrogates included.

    Returns:
        Pairs whose pieces join back to the text.
    """
    if text.isascii() and text.isprintable():
        return [(text, False)] if text else []
    found: list[tuple[str, bool]] = []
    start, previous = 0, ""
    for position, char in enumerate(text):
        if is_hiding(char, previous):
            if start < position:
                found.append((text[start:position], False))
            found.append((char, True))
            start = position + 1
        previous = char
    if start < len(text):
        found.append((text[start:], False))
    return found


def visible(value: object) -> str:
    """Return a value as plain text with hidden characters named, for attributes and terminals."""
    return "".join(mark(piece) if hidden else piece for piece, hidden in pieces(str(value)))


def marked(value: object) -> Markup:
    """Return a value as escaped HTML, each hidden character in a ``<span class="ctl">``."""
    parts = [
        Markup('<span class="ctl" title="hidden character U+{}">{}</span>').format(
            f"{ord(piece):04X}", mark(piece)
        )
        if hidden
        else escape(piece)
        for piece, hidden in pieces(str(value))
    ]
    return Markup("").join(parts)


def shortened(text: str, limit: int) -> str:
    """Return the text on one line, cut to at most ``limit`` characters with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
