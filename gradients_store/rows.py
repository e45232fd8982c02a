"""The rows of one shard: what a caller passes, checked and turned into Arrow.

Axes: n rows of a shard, P coordinates of a vector.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyarrow import ipc

from gradients_store.errors import BadRows
from gradients_store.quantise import quantise
from gradients_store.schema import Header, arrow_schema

_TEXT = ("id", "source", "language")
_NUMBERS = {
    "n_tokens": np.int32,
    "loss": np.float32,
    "self_influence": np.float32,
    "gradient_norm": np.float32,
}
_BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one shard, one document each, in the order of the corpus."""

    id: Sequence[str] | NDArray[Any]
    """Ids ``[n]``, unique in the store."""
    source: Sequence[str] | NDArray[Any]
    """Where each document comes from ``[n]``."""
    language: Sequence[str] | NDArray[Any]
    """Language of each document ``[n]``."""
    n_tokens: ArrayLike
    """Loss tokens of each document ``[n]``."""
    loss: ArrayLike
    """Loss of each document ``[n]``, in nats, summed over its tokens."""
    self_influence: ArrayLike
    """Exact self-influence of each document ``[n]``, in whitened units."""
    gradient_norm: ArrayLike
    """Length of each document's raw gradient ``[n]``, in nats per parameter unit."""
    vector: ArrayLike
    """Whitened gradients ``[n, P]``, finite; factor rows: each row's factors, one after the other,
    in the order that `Header.factors` says, u and v of any lengths."""


def to_ipc(rows: Rows | Mapping[str, Any], index: int, header: Header, where: str) -> pa.Buffer:
    """Check the rows of a shard and return the bytes of its Arrow file.

    The cut into record batches depends on the header alone, so the same rows give the same bytes.

    Args:
        rows: The rows, or a mapping with the same names.
        index: Which shard, from 0.
        header: What the store holds.
        where: Which shard this is, for messages.

    Returns:
        An Arrow IPC file in memory.
    """
    schema = arrow_schema(header)
    columns = _columns(
        rows if isinstance(rows, Rows) else _named(rows, where), index, header, where
    )
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // header.stored_bytes))
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()


def _named(rows: Mapping[str, Any], where: str) -> Rows:
    names = set(Rows.__dataclass_fields__)
    if set(rows) != names:
        raise BadRows(
            f"{where}: columns {sorted(rows)}, expected {sorted(names)}. Pass exactly these."
        )
    return Rows(**rows)


def _columns(rows: Rows, index: int, header: Header, where: str) -> dict[str, pa.Array]:
    vector_nP = np.asarray(rows.vector, dtype=np.float32)
    expected = (header.rows_of_shard(index), header.dimension)
    if vector_nP.shape != expected or not len(vector_nP):
        raise BadRows(
            f"{where}: vectors of shape {vector_nP.shape}, expected {expected} from the header. "
            "Pass every document of this shard and no other."
        )
    columns = {name: _strings(name, getattr(rows, name), len(vector_nP), where) for name in _TEXT}
    ids = columns["id"].to_pylist()
    if len(set(ids)) != len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        raise BadRows(
            f"{where}: document id {repeated!r} stands twice, expected unique ids. Rename one."
        )
    for name, kind in _NUMBERS.items():
        columns[name] = _numbers(name, getattr(rows, name), kind, ids, where)
    _check_good("vector", np.logical_and.reduce(np.isfinite(vector_nP), axis=1), ids, where)
    stored_nW, scale_n, factor_scale_nF = quantise(vector_nP, header, ids, where)
    columns |= {"scale": pa.array(scale_n), "vector": _lists(stored_nW)}
    return (
        columns if factor_scale_nF is None else columns | {"factor_scale": _lists(factor_scale_nF)}
    )


def _lists(number_nk: NDArray[Any]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(number_nk).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, number_nk.shape[1])


def _strings(name: str, values: Any, count: int, where: str) -> pa.Array:
    try:
        array = pa.array([str(v) if isinstance(v, str) else v for v in values], pa.string())
    except (pa.ArrowException, UnicodeError) as error:
        raise BadRows(
            f"{where}: column {name} is not text ({error}), expected strings. Convert it."
        ) from error
    if len(array) != count or array.null_count:
        raise BadRows(
            f"{where}: column {name} has {len(array) - array.null_count} values, expected {count} "
            "and none missing. Fill it, with an empty string where nothing is known."
        )
    return array


def _numbers(name: str, values: Any, kind: type[Any], ids: list[str], where: str) -> pa.Array:
    array = np.asarray(values)
    if array.shape != (len(ids),) or array.dtype.kind not in "iuf":
        raise BadRows(
            f"{where}: column {name} has shape {array.shape} and type {array.dtype}, expected "
            f"{len(ids)} numbers. Correct it."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        stored = array.astype(kind)
    whole = kind is np.int32
    good_n: NDArray[np.bool_] = np.asarray(stored == array if whole else np.isfinite(stored))
    _check_good(name, good_n, ids, where)
    return pa.array(stored)


def _check_good(name: str, good_n: NDArray[np.bool_], ids: list[str], where: str) -> None:
    if not good_n.all():
        bad = ids[int(np.argmin(good_n))]
        raise BadRows(
            f"{where}: document {bad!r} has a {name} that is not finite or does not fit its "
            f"column ({int((~good_n).sum())} such documents), expected a finite number. Leave "
            "the document out, or compute its gradient in a wider type."
        )
