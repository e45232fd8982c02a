"""Per-document gradients on disk, in Arrow: one row a document. It knows nothing of models."""

from gradients_store.checks import verify
from gradients_store.errors import (
    AlreadySealed,
    BadHeader,
    BadQuery,
    BadRows,
    ChecksumMismatch,
    Damaged,
    HeaderMismatch,
    Incomplete,
    MissingShard,
    NoSpace,
    NotAStore,
    StoreError,
    Truncated,
    UnknownName,
    UnreadableVersion,
)
from gradients_store.exports import export
from gradients_store.group_sums import group_sums, size_of
from gradients_store.histogram import Histogram
from gradients_store.quantise import rounded
from gradients_store.reader import Store, open_store, shard_vectors
from gradients_store.results import GroupSums, Moments, SearchResult, Top
from gradients_store.rows import Rows
from gradients_store.schema import (
    FORMAT_VERSION,
    METADATA_COLUMNS,
    Header,
    arrow_schema,
    differences,
    header_from_json,
    to_json,
)
from gradients_store.search import all_scores, search
from gradients_store.writer import ShardInfo, seal, sealed_shards, write_shard

__all__ = [
    # what a store holds
    "FORMAT_VERSION",
    "METADATA_COLUMNS",
    "Header",
    "arrow_schema",
    "differences",
    "header_from_json",
    "to_json",
    # write: shards in any order, the manifest last
    "Rows",
    "ShardInfo",
    "rounded",
    "seal",
    "sealed_shards",
    "write_shard",
    # read, check, hand over
    "Store",
    "export",
    "open_store",
    "shard_vectors",
    "verify",
    # search
    "GroupSums",
    "Histogram",
    "Moments",
    "SearchResult",
    "Top",
    "all_scores",
    "group_sums",
    "search",
    "size_of",
    # what can go wrong
    "AlreadySealed",
    "BadHeader",
    "BadQuery",
    "BadRows",
    "ChecksumMismatch",
    "Damaged",
    "HeaderMismatch",
    "Incomplete",
    "MissingShard",
    "NoSpace",
    "NotAStore",
    "StoreError",
    "Truncated",
    "UnknownName",
    "UnreadableVersion",
]
