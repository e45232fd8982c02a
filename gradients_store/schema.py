"""What a row and a header of a gradient store are, and how both look in Arrow and in JSON."""

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gradients_store.errors import BadHeader, HeaderMismatch, UnreadableVersion

FORMAT_VERSION = 2
"""The version of the files that this release writes, and the newest that it reads.

1: plain vectors in float32, float16 or int8. 2: also int4, int2 and factor rows (`factors`)."""
READABLE_FROM = "0.1.0"
"""The first release of this project that reads FORMAT_VERSION; written into every header."""
HEADER_KEY = b"gradients_store"
"""The key of the header's JSON in the metadata of an Arrow schema."""

PACKED_BITS = {"int4": 4, "int2": 2}
"""Bits of a number in the types that hold several numbers in a byte."""
_ELEMENTS = {
    "float32": pa.float32(),
    "float16": pa.float16(),
    "int8": pa.int8(),
    **dict.fromkeys(PACKED_BITS, pa.uint8()),
}
_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("id", pa.string(), "the document's id, unique in the store"),
    ("source", pa.string(), "where the document comes from"),
    ("language", pa.string(), "the language of the document"),
    ("n_tokens", pa.int32(), "tokens of the document that count in its loss"),
    ("loss", pa.float32(), "loss of the document in nats, summed over its tokens"),
    (
        "self_influence",
        pa.float32(),
        "influence of the document on itself, whitened units, exact unless the run says so",
    ),
    ("gradient_norm", pa.float32(), "length of the document's raw gradient, nats per unit"),
)
_SCALE_ABOUT = "vector * scale is the whitened gradient; 1 for float32 and float16"
_VECTOR_ABOUT = "whitened gradient / scale: influence is the inner product of two rows"
_FACTOR_SCALE_ABOUT = (
    "one for each of a row's factors, in their order: factor * factor_scale * scale; 1 for float32 "
    "and float16"
)
_FACTORS_ABOUT = (
    "low-rank factors of the whitened gradient, layer after layer as the header's `factors` "
    "(r, O, I) say: r vectors u of O numbers, then r vectors v of I numbers; the layer's matrix is "
    "the sum of the outer products u v^T"
)
_PACKED_ABOUT = (
    "{dimension} numbers of {bits} bits in uint8, {per} in a byte, lowest bits first: code = "
    "(byte >> {bits} * (i % {per})) & {mask} of byte i // {per}, number = code - {middle}"
)
METADATA_COLUMNS: tuple[str, ...] = (*(name for name, _, _ in _COLUMNS), "scale")
"""Every column but the vector and its `factor_scale`."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything that changes the bytes of a store; two stores with one header are the same."""

    model: str
    """Fingerprint of the model's weights."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    corpus: str
    """Hash of the documents, in their order."""
    layers: tuple[str, ...]
    """Names of the layers whose gradients are stored, in the order of the vector."""
    curvature: str
    """Hash of the curvature that whitened the gradients."""
    curvature_kind: str
    """Kind of that curvature, such as "ekfac"."""
    damping: float | str
    """Damping: a factor of each layer's mean eigenvalue, or a rule in words."""
    sketch: str
    """How a gradient became a vector: "full", "top-eigen", ..."""
    sketch_size: int
    """How many coordinates the sketch was asked to keep."""
    sketch_seed: int | None
    """Seed of the sketch's random numbers; None where it draws none."""
    sketch_coordinates: str | None
    """Hash of the kept coordinates; None where all are kept."""
    dtype: str
    """Element type of a stored vector: "float32", "float16", "int8", "int4" or "int2"."""
    dimension: int
    """Length P of a vector."""
    factors: tuple[tuple[int, int, int], ...] | None = None
    """Rank r and shape (O, I) of each layer's factors in a row; None: rows are plain vectors."""
    n_documents: int
    """Number N of documents in the whole store."""
    shard_documents: int
    """Documents in each shard; the last one holds the rest."""

    def __post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            BadHeader: If a field has a value of the wrong type or out of range.
        """
        for name, (kinds, expected) in _FIELD_KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise BadHeader(f"Header: {name} is {value!r}, expected {expected}. Correct it.")
        if not all(isinstance(layer, str) for layer in self.layers):
            raise BadHeader(f"Header: layers is {self.layers!r}, expected names. Correct it.")
        if isinstance(self.damping, float) and not math.isfinite(self.damping):
            raise BadHeader(f"Header: damping is {self.damping}, expected a number. Correct it.")
        if self.dtype not in _ELEMENTS:
            raise BadHeader(
                f"Header: dtype is {self.dtype!r}, expected one of {', '.join(_ELEMENTS)}."
                f"{nearest(self.dtype, _ELEMENTS)} Correct it."
            )
        for name in ("dimension", "n_documents", "shard_documents"):
            if getattr(self, name) < 1:
                raise BadHeader(
                    f"Header: {name} is {getattr(self, name)}, expected at least 1. Correct it."
                )
        if self.factors is not None:
            _check_factors(self.factors, self.layers, self.dimension)

    @property
    def query_dimension(self) -> int:
        """Length of a query: P, or the sum of all O I where rows are factors."""
        if self.factors is None:
            return self.dimension
        return sum(out * inputs for _, out, inputs in self.factors)

    @property
    def stored_length(self) -> int:
        """Elements of a stored vector: P, or the bytes that hold P packed numbers."""
        return -(-self.dimension * PACKED_BITS.get(self.dtype, 8) // 8)

    @property
    def stored_bytes(self) -> int:
        """Bytes of a stored vector."""
        return self.stored_length * _ELEMENTS[self.dtype].bit_width // 8

    @property
    def vector_columns(self) -> tuple[str, ...]:
        """The columns that make a row's vector."""
        return ("scale", "vector") if self.factors is None else ("scale", "factor_scale", "vector")

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole store."""
        return -(-self.n_documents // self.shard_documents)

    def rows_of_shard(self, index: int) -> int:
        """Return how many documents shard `index` holds (0 outside the store)."""
        if not 0 <= index < self.n_shards:
            return 0
        return min(self.shard_documents, self.n_documents - index * self.shard_documents)


_TEXT, _WHOLE = (str, "a string"), (int, "a whole number")
_FIELD_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("model", "tokenizer", "corpus", "curvature", "curvature_kind"), _TEXT),
    **dict.fromkeys(("sketch", "dtype"), _TEXT),
    "layers": (tuple, "a tuple of names"),
    "damping": ((int, float, str), "a number or a rule in words"),
    **dict.fromkeys(("sketch_size", "dimension", "n_documents", "shard_documents"), _WHOLE),
    "sketch_seed": ((int, type(None)), "a whole number or None"),
    "sketch_coordinates": ((str, type(None)), "a string or None"),
    "factors": ((tuple, type(None)), "a tuple of (rank, O, I) or None"),
}
_FIELDS = tuple(field.name for field in dataclasses.fields(Header))
_FIELDS_1 = tuple(name for name in _FIELDS if name != "factors")  # of format 1


def _check_factors(factors: tuple[Any, ...], layers: tuple[str, ...], dimension: int) -> None:
    for factor in factors:
        whole = isinstance(factor, tuple) and all(type(number) is int for number in factor)
        if not whole or len(factor) != 3 or factor[0] < 0 or min(factor[1:]) < 1:
            raise BadHeader(
                f"Header: factors has {factor!r}, expected (rank, O, I) with a rank from 0 and "
                "sizes from 1. Correct it."
            )
    if len(factors) != len(layers):
        raise BadHeader(
            f"Header: factors of {len(factors)} layers, expected {len(layers)} as in `layers`. "
            "Correct it."
        )
    total = sum(rank * (out + inputs) for rank, out, inputs in factors)
    if total != dimension:
        raise BadHeader(
            f"Header: dimension is {dimension}, expected {total}, the sum of r (O + I) of the "
            "factors. Correct it."
        )


def to_json(header: Header) -> str:
    """Return a header as one line of JSON, with the format version first."""
    return json.dumps(header_to_dict(header))


def header_to_dict(header: Header) -> dict[str, Any]:
    """Return a header as a plain dict that JSON can hold."""
    versions = {"format_version": FORMAT_VERSION, "readable_from": READABLE_FROM}
    return versions | dataclasses.asdict(header) | {"layers": list(header.layers)}


def header_from_json(text: str | bytes, where: str = "header") -> Header:
    """Read a header back from `to_json`, strictly.

    Args:
        text: The JSON.
        where: Which file it came from, for messages.

    Returns:
        The header.

    Raises:
        BadHeader: If it is not JSON, or a key is unknown, missing or has an impossible value.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadHeader(f"{where}: not JSON ({error}), expected a header. Rebuild it.") from error
    return header_from_dict(values, where)


def header_from_dict(values: Any, where: str = "header") -> Header:
    """Read a header back from `header_to_dict`, strictly.

    Args:
        values: The plain dict.
        where: Which file it came from, for messages.

    Returns:
        The header.

    Raises:
        BadHeader: If a key is unknown, missing or has an impossible value.
    """
    if not isinstance(values, Mapping):
        raise BadHeader(
            f"{where}: the header is {type(values).__name__}, expected an object. Rebuild it."
        )
    _check_version(values, where)
    fields = _FIELDS if values["format_version"] > 1 else _FIELDS_1
    known = ("format_version", "readable_from", *fields)
    for key in values:
        if key not in known:
            raise BadHeader(
                f"{where}: unknown header key {key!r}, expected only known ones."
                f"{nearest(key, known)} Remove it, or rebuild the store."
            )
    missing = [key for key in known if key not in values]
    if missing:
        raise BadHeader(
            f"{where}: header without {', '.join(missing)}, expected every key. Rebuild the store."
        )
    return Header(**{name: _as_tuples(values[name]) for name in fields})


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value


def _check_version(values: Mapping[str, Any], where: str) -> None:
    version = values.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise BadHeader(
            f"{where}: format_version is {version!r}, expected a number from 1 to "
            f"{FORMAT_VERSION}. Rebuild the store."
        )
    if version > FORMAT_VERSION:
        raise UnreadableVersion(
            f"{where}: written in format {version}, this release reads up to {FORMAT_VERSION}. "
            f"Install release {values.get('readable_from', '(unknown)')} or newer to read it."
        )


def arrow_schema(header: Header) -> pa.Schema:
    """Return the Arrow schema of a shard, with the header's JSON in its metadata."""
    columns = [*_COLUMNS, ("scale", pa.float32(), _SCALE_ABOUT)]
    if header.factors is not None:
        scales = pa.list_(pa.float16(), sum(2 * rank for rank, _, _ in header.factors))
        columns.append(("factor_scale", scales, _FACTOR_SCALE_ABOUT))
    columns.append(("vector", pa.list_(_ELEMENTS[header.dtype], header.stored_length), ""))
    fields = [
        pa.field(name, kind, nullable=False, metadata={"about": about})
        for name, kind, about in columns
    ]
    fields[-1] = fields[-1].with_metadata(vector_metadata(header, packed=True))
    return pa.schema(fields, metadata={HEADER_KEY: to_json(header)})


def vector_metadata(header: Header, packed: bool) -> dict[str, str]:
    """Say what the column `vector` holds.

    Args:
        header: What the store holds.
        packed: Whether several numbers still stand in a byte, where the header's dtype is such.

    Returns:
        "about": what the numbers are; "packing": how to get them out of the bytes.
    """
    about = {"about": _VECTOR_ABOUT if header.factors is None else _FACTORS_ABOUT}
    bits = PACKED_BITS.get(header.dtype)
    if bits is None or not packed:
        return about
    layout = {"bits": bits, "per": 8 // bits, "mask": (1 << bits) - 1}
    middle = (1 << (bits - 1)) - 0.5
    packing = _PACKED_ABOUT.format(dimension=header.dimension, middle=middle, **layout)
    return about | {"packing": packing}


def differences(stored: Header, wanted: Header) -> list[str]:
    """Name each field in which two headers differ, with both values.

    Args:
        stored: The header of a store.
        wanted: The header that a run wants.

    Returns:
        One text per differing field, such as "sketch_seed: store has 0, run wants 1".
    """
    return [
        f"{name}: {_difference(name, getattr(stored, name), getattr(wanted, name))}"
        for name in _FIELDS
        if getattr(stored, name) != getattr(wanted, name)
    ]


def check_same(stored: Header, wanted: Header, where: str) -> None:
    """Refuse a store whose header is not the wanted one.

    Raises:
        HeaderMismatch: If any field differs; names each.
    """
    if found := differences(stored, wanted):
        raise HeaderMismatch(
            f"Gradient store {where} was made with other settings ({'; '.join(found)}). Use "
            "another folder, or rebuild this one: delete it and run again."
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _difference(name: str, stored: Any, wanted: Any) -> str:
    if not (isinstance(stored, tuple) and isinstance(wanted, tuple)):
        return f"store has {stored!r}, run wants {wanted!r}"
    if name == "factors":
        pairs = itertools.zip_longest(stored, wanted)
        other = [(i, was, wants) for i, (was, wants) in enumerate(pairs) if was != wants]
        first, was, wants = other[0]
        return (
            f"(rank, O, I) of {len(other)} layers differ, of layer {first} store has {was}, run "
            f"wants {wants}"
        )
    only_stored = [name for name in stored if name not in wanted]
    only_wanted = [name for name in wanted if name not in stored]
    if not only_stored and not only_wanted:
        return f"the same {len(stored)} in another order"
    return f"only in the store {only_stored}, only in the run {only_wanted}"
