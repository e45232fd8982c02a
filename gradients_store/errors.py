"""Everything that can go wrong with a gradient store, as one family of errors.

A message reads `<where>: <what came>, <what was expected>. <what to do>`.
"""


class StoreError(ValueError):
    """A gradient store, or what was asked of it, is wrong; the message says what to do."""


class NotAStore(StoreError):
    """The folder holds no finished gradient store, or its manifest cannot be read."""


class BadHeader(StoreError):
    """A header has an unknown, a missing or an impossible field."""


class UnreadableVersion(StoreError):
    """The store was written in a newer format than this release reads."""


class HeaderMismatch(StoreError):
    """The store was made with other settings than the run wants."""


class BadRows(StoreError):
    """Rows that cannot be stored: wrong shape, not finite, overflow, a repeated id."""


class Incomplete(StoreError):
    """A store cannot be sealed yet: shards are missing, or are not the ones on disk."""


class AlreadySealed(StoreError):
    """The store has its manifest; its shards do not change any more."""


class NoSpace(StoreError):
    """The disk is full, or a quota is used up."""


class Damaged(StoreError):
    """A file of the store is not what was written."""


class MissingShard(Damaged):
    """A shard that the manifest names is not there."""


class Truncated(Damaged):
    """A shard has another number of bytes than the manifest says."""


class ChecksumMismatch(Damaged):
    """A shard has the right size and other bytes than were written."""


class UnknownName(StoreError):
    """A document id, a column or a file type that the store does not know."""


class BadQuery(StoreError):
    """A query that cannot be compared with the rows of the store."""
