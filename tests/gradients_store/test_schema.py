"""Headers: strict, complete, and readable in the schema of each shard."""

import dataclasses
import json
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients_store import (
    FORMAT_VERSION,
    BadHeader,
    Header,
    UnreadableVersion,
    arrow_schema,
    differences,
    header_from_json,
    to_json,
)
from gradients_store.schema import HEADER_KEY, check_same

_TEXT = st.text(max_size=8)
_COUNT = st.integers(1, 10**6)
PLAIN_HEADERS = st.builds(
    Header,
    model=_TEXT,
    tokenizer=_TEXT,
    corpus=_TEXT,
    layers=st.lists(_TEXT, max_size=4).map(tuple),
    curvature=_TEXT,
    curvature_kind=_TEXT,
    damping=st.one_of(st.floats(allow_nan=False, allow_infinity=False), _TEXT),
    sketch=_TEXT,
    sketch_size=st.integers(),
    sketch_seed=st.one_of(st.none(), st.integers(0, 2**63)),
    sketch_coordinates=st.one_of(st.none(), _TEXT),
    dtype=st.sampled_from(["float32", "float16", "int8", "int4", "int2"]),
    dimension=_COUNT,
    n_documents=_COUNT,
    shard_documents=_COUNT,
)
_FACTOR = st.tuples(st.integers(0, 3), st.integers(1, 99), st.integers(1, 99))


def with_factors(header, factors):
    """The header of factor rows where there are numbers to store."""
    size = sum(rank * (out + inputs) for rank, out, inputs in factors)
    layers = tuple(f"h.{layer}" for layer in range(len(factors)))
    changes = {"factors": tuple(factors), "dimension": size, "layers": layers}
    return dataclasses.replace(header, **changes) if size else header


HEADERS = st.builds(with_factors, PLAIN_HEADERS, st.lists(_FACTOR, max_size=4))


@settings(deadline=None)
@given(HEADERS)
def test_header_round_trips_through_json_and_the_arrow_schema(header):
    assert header_from_json(to_json(header)) == header
    reread = pa.ipc.read_schema(arrow_schema(header).serialize())
    assert header_from_json(reread.metadata[HEADER_KEY]) == header
    assert differences(header, header) == []


@settings(deadline=None)
@given(HEADERS)
def test_rows_of_shards_add_up_to_the_documents(header):
    last = header.rows_of_shard(header.n_shards - 1)
    assert (header.n_shards - 1) * header.shard_documents + last == header.n_documents
    assert last >= 1
    assert header.rows_of_shard(header.n_shards) == header.rows_of_shard(-1) == 0


def test_header_refuses_an_unknown_key_and_names_the_nearest(make_header):
    values = json.loads(to_json(make_header())) | {"sketch_sed": 1}
    with pytest.raises(BadHeader, match=r"unknown header key 'sketch_sed'.*mean 'sketch_seed'"):
        header_from_json(json.dumps(values))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Header)])
def test_header_refuses_a_missing_key_and_names_it(make_header, field):
    values = json.loads(to_json(make_header()))
    del values[field]
    with pytest.raises(BadHeader, match=rf"header without {field}, expected every key"):
        header_from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 3}, "model is 3, expected a string"),
        ({"layers": ["a"]}, r"layers is \['a'\], expected a tuple"),
        ({"layers": (1,)}, r"layers is \(1,\), expected names"),
        ({"damping": None}, "damping is None, expected a number or a rule"),
        ({"damping": float("nan")}, "damping is nan, expected a number"),
        ({"sketch_seed": True}, "sketch_seed is True, expected a whole number or None"),
        ({"dtype": "float61"}, "dtype is 'float61', expected one of float32, .*mean 'float16'"),
        ({"dimension": 0}, "dimension is 0, expected at least 1"),
        ({"n_documents": 0}, "n_documents is 0, expected at least 1"),
        ({"shard_documents": -1}, "shard_documents is -1, expected at least 1"),
        (
            {"factors": [(1, 2, 1)]},
            r"factors is \[\(1, 2, 1\)\], expected a tuple of \(rank, O, I\)",
        ),
        ({"factors": ((1, 2), (1, 2, 1))}, r"factors has \(1, 2\), expected \(rank, O, I\)"),
        ({"factors": ((1, 2, True), (1, 2, 1))}, r"factors has \(1, 2, True\), expected \(rank"),
        (
            {"factors": ((-1, 2, 1), (3, 2, 1))},
            r"factors has \(-1, 2, 1\).*a rank from 0 and sizes",
        ),
        ({"factors": ((0, 0, 1), (2, 2, 1))}, r"factors has \(0, 0, 1\).*sizes from 1"),
        ({"factors": ((2, 2, 1),)}, "factors of 1 layers, expected 2 as in `layers`"),
        ({"factors": ((1, 2, 1), (1, 2, 2))}, "dimension is 6, expected 7, the sum of r"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_header_refuses_an_impossible_value(make_header, change, message):
    with pytest.raises(BadHeader, match=message):
        make_header(**change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"header: not JSON \(.*\), expected a header"),
        ("[]", "the header is list, expected an object"),
        ("{}", "format_version is None, expected a number from 1"),
        ('{"format_version": 0}', "format_version is 0, expected a number from 1"),
        ('{"format_version": "1"}', "format_version is '1', expected a number from 1"),
    ],
)
def test_header_refuses_what_is_not_one(text, message):
    with pytest.raises(BadHeader, match=message):
        header_from_json(text)


def test_header_of_a_newer_format_names_the_release_that_reads_it(make_header):
    newer = {"format_version": FORMAT_VERSION + 1, "readable_from": "7.8.9", "new_key": 1}
    with pytest.raises(
        UnreadableVersion, match=r"written in format 3, this release reads up to 2.*release 7\.8\.9"
    ):
        header_from_json(json.dumps(json.loads(to_json(make_header())) | newer))


OTHER = {
    "damping": 0.2,
    "sketch_size": 7,
    "sketch_seed": None,
    "dtype": "int8",
    "dimension": 7,
    "n_documents": 24,
    "shard_documents": 11,
    "layers": ("h.0", "h.2"),
    "factors": ((1, 2, 1), (1, 2, 1)),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Header)])
def test_differences_name_the_field_and_both_values(make_header, field):
    stored = make_header()
    wanted = dataclasses.replace(stored, **{field: OTHER.get(field, "other")})
    (found,) = differences(stored, wanted)
    was, wants = getattr(stored, field), getattr(wanted, field)
    if field == "layers":
        assert found == "layers: only in the store ['h.1'], only in the run ['h.2']"
    else:
        assert found == f"{field}: store has {was!r}, run wants {wants!r}"


def test_differences_of_reordered_layers_say_so(make_header):
    found = differences(make_header(), make_header(layers=("h.1", "h.0")))
    assert found == ["layers: the same 2 in another order"]


def test_differences_of_factors_name_the_first_layer_and_how_many(make_header):
    stored = make_header(factors=((1, 2, 1), (1, 2, 1)))
    wanted = make_header(factors=((1, 2, 1), (1, 1, 2)))
    (found,) = differences(stored, wanted)
    expected = (
        "(rank, O, I) of 1 layers differ, of layer 1 store has (1, 2, 1), run wants (1, 1, 2)"
    )
    assert found == f"factors: {expected}"


def test_header_of_format_1_is_read_as_plain_vectors(make_header):
    values = json.loads(to_json(make_header())) | {"format_version": 1, "readable_from": "0.1.0"}
    del values["factors"]
    assert header_from_json(json.dumps(values)) == make_header()
    with pytest.raises(BadHeader, match="unknown header key 'factors'"):
        header_from_json(json.dumps(values | {"factors": None}))


def test_check_same_names_every_difference_at_once(make_header):
    message = "sketch_seed: store has 0, run wants 1; dtype: store has 'float32', run wants 'int8'"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same(make_header(), make_header(sketch_seed=1, dtype="int8"), "x")
