"""What a user can get wrong about a dataset, and how to name what they may have meant."""

import difflib
from collections.abc import Iterable


class DatasetError(ValueError):
    """A dataset cannot be used as it stands; the message says where, why and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the known word closest to a mistyped one.

    Args:
        name: What the user wrote.
        known: What could have been written.

    Returns:
        A hint such as `` Did you mean `text`?``, or an empty string if nothing is close.
    """
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean `{found[0]}`?" if found else ""
