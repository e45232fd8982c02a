"""Errors of the pipelines; each is a user's to mend and ends a command with exit code 2."""

from __future__ import annotations


class RunError(ValueError):
    """A run can't go on as asked; the message says what came, what was expected, what to do."""
