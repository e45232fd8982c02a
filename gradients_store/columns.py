"""Columns of numbers as numpy arrays, without a copy.

pyarrow's own `to_numpy` imports pandas where that is installed: a fifth of a second.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(array: pa.Array) -> NDArray[Any]:
    """Return the numbers ``[n]`` of a primitive array without nulls; not to be written to."""
    kind = np.dtype(array.type.to_pandas_dtype())
    start = array.offset * kind.itemsize
    return np.frombuffer(array.buffers()[1], dtype=kind, count=len(array), offset=start)


def lists(array: pa.FixedSizeListArray) -> NDArray[Any]:
    """Return the numbers ``[n, k]`` of fixed-size lists without nulls; not to be written to."""
    return numbers(array.flatten()).reshape(len(array), array.type.list_size)


def joined(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return the numbers of a column, lists or not; copied where it has several chunks."""
    read = lists if pa.types.is_fixed_size_list(column.type) else numbers
    parts = [read(chunk) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
