"""Libraries that only some attribution methods need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from influence.errors import InputError


def needed(name: str) -> Any:
    """Import a library of the extra `inputs`.

    Args:
        name: Of the module, such as `sklearn.tree`.

    Returns:
        The module.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.partition('.')[0]} is not installed ({error}). Run "
            "`pip install 'whydidit[inputs]'`, or choose a method that does not need it."
        ) from error
