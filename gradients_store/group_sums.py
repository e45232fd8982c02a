"""Sums of the vectors of groups of documents: one row a group, made once and kept beside the store.

A score is linear in the document's vector, so the inner product of a query with a group's sum is
the sum of its documents' scores. With the sums at hand a further set of queries costs as many
products as there are groups, however many documents there are.

Rows of factors stand for matrices of low rank, but a sum of them has any rank: their sums are held
as whole matrices, layer after layer, as queries of such a store are. `size_of` says how large the sums
are before anything is read.

Axes: N rows of the store, K groups, M numbers of a query, b rows of a block.
"""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from gradients_store import storage
from gradients_store.errors import BadRows
from gradients_store.reader import Store
from gradients_store.schema import Header
from gradients_store.writer import MANIFEST


def size_of(header: Header, groups: int) -> int:
    """Return the bytes that the sums of some groups take in memory while they are made."""
    return 8 * groups * header.query_dimension


def group_sums(
    store: Store, group_N: ArrayLike, advance: Callable[[int], None] = lambda _rows: None
) -> NDArray[np.float32]:
    """Sum the vectors of each group, or read the sums that were made before.

    They are kept in the folder ``<store>-sums``, under a hash of the store's manifest and of the
    groups, with a checksum; a file that fails it is made again. Local ones are memory-mapped.

    Args:
        store: The store.
        group_N: Group of each row, from 0, as many as there are rows; every number up to the
            largest is a group, and one without rows has the sum 0.
        advance: Told of the rows that were read.

    Returns:
        Sums ``[K, M]``, as queries are multiplied with them: float64 sums rounded to float32.

    Raises:
        BadRows: If there is not one group a row.
    """
    own_N = np.asarray(group_N, dtype=np.int64)
    if own_N.shape != (len(store),) or own_N.min() < 0:
        raise BadRows(
            f"Gradient store {store.root}: groups of shape {own_N.shape}, the smallest "
            f"{own_N.min(initial=0)}; ({len(store)},) and numbers from 0 were expected. Give each row "
            "of the store a group."
        )
    folder, name = _place(store, own_N)
    found = _read(folder, name)
    if found is None:
        found = _summed(store, own_N, advance).astype(np.float32)
        _write(folder, name, found)
    return found


def _summed(
    store: Store, group_N: NDArray[np.int64], advance: Callable[[int], None]
) -> NDArray[np.float64]:
    header = store.header
    sum_KM = np.zeros((int(group_N.max()) + 1, header.query_dimension))
    for start, vector_bP in store.blocks():
        group_b = group_N[start : start + len(vector_bP)]
        order_b = np.argsort(group_b, kind="stable")
        own_k, first_k = np.unique(group_b[order_b], return_index=True)
        if header.factors is None:
            sorted_bP = vector_bP[order_b].astype(np.float64)
            sum_KM[own_k] += np.add.reduceat(sorted_bP, first_k, axis=0)
        else:
            for k, own_b in zip(own_k, np.split(order_b, first_k[1:]), strict=True):
                _add_matrices(sum_KM[k], vector_bP[own_b], header)
        advance(len(vector_bP))
    return sum_KM


def _add_matrices(
    sum_M: NDArray[np.float64], vector_bP: NDArray[np.float32], header: Header
) -> None:
    # Adds the matrices that rows of factors stand for, layer after layer.
    place = number = 0
    for rank, out, inputs in header.factors or ():
        middle = number + rank * out
        end = middle + rank * inputs
        left_fO = vector_bP[:, number:middle].reshape(-1, out).astype(np.float64)
        right_fI = vector_bP[:, middle:end].reshape(-1, inputs).astype(np.float64)
        sum_M[place : place + out * inputs] += (left_fO.T @ right_fI).reshape(-1)
        place, number = place + out * inputs, end


# -- on disk --------------------------------------------------------------------------------------


def _place(store: Store, group_N: NDArray[np.int64]) -> tuple[storage.Folder, str]:
    # The file's name hashes all that changes the sums: the manifest names every shard's checksum.
    digest = hashlib.blake2b(digest_size=8)
    digest.update(storage.read_bytes(storage.folder_of(store.root), MANIFEST))
    digest.update(np.ascontiguousarray(group_N).tobytes())
    return storage.folder_of(f"{store.root.rstrip('/')}-sums"), digest.hexdigest()


def _read(folder: storage.Folder, name: str) -> NDArray[np.float32] | None:
    present = storage.sizes(folder)
    if not {f"{name}.float32", f"{name}.json"} <= set(present):
        return None
    shape = _shape(storage.read_bytes(folder, f"{name}.json"), folder, name)
    if shape is None or present[f"{name}.float32"] != 4 * shape[0] * shape[1]:
        return None
    if folder.local:
        return np.memmap(folder.join(f"{name}.float32"), "<f4", mode="r", shape=shape)
    data = storage.read_bytes(folder, f"{name}.float32")
    return np.frombuffer(data, "<f4").reshape(shape)


def _shape(content: bytes, folder: storage.Folder, name: str) -> tuple[int, int] | None:
    # None where the description, or the file that it describes, is not what was written.
    try:
        values = json.loads(content)
        groups, size = values["shape"]
        if values["checksum"] != storage.checksum_of(folder, f"{name}.float32"):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return int(groups), int(size)


def _write(folder: storage.Folder, name: str, sums_KM: NDArray[np.float32]) -> None:
    data = pa.py_buffer(np.ascontiguousarray(sums_KM, dtype="<f4"))
    storage.write_whole(folder, f"{name}.float32", data)
    about = {"checksum": storage.checksum(data), "shape": list(sums_KM.shape)}
    storage.write_whole(folder, f"{name}.json", json.dumps(about).encode())
