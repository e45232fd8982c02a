"""The suspects list of a tiny run: reasons that were planted are found, and said in words."""

import json
import shutil

import numpy as np
import pytest

from pipelines import suspects
from pipelines.duplicates import find_duplicates
from pipelines.runs import open_run, open_traced
from pipelines.suspects import cosines, find_suspects, gather_reasons
from tests.pipelines import small

HARMFUL, REPEATED = 3, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny run with a near-duplicate of its last but one document, and a long line in script tags."""
    rows = small.documents()
    rows[REPEATED]["text"] = rows[2]["text"].upper() + "."
    line = "".join(np.random.default_rng(0).choice(list("abcdef "), 100_000))
    rows[9]["text"] = f"<script>alert('{line}')</script>"
    folder = tmp_path_factory.mktemp("suspects")
    yaml = small.write_run(folder, rows, epochs=1, store="full", token_budget=4096)
    return small.build(yaml, folder / "runs")


@pytest.fixture(scope="module")
def scores_TN():
    found = np.random.default_rng(1).normal(size=(4, 40)) + 2.0
    found[:, HARMFUL] = -30.0
    return found


def listed(run, scores_TN, **options):
    groups = ["a" if i % 2 == 0 else "b" for i in range(40)]
    with small.here() as workers:
        clusters = find_duplicates(run.corpus, run.root, workers)
        return find_suspects(run, scores_TN, groups, clusters, workers, **options)


@pytest.fixture(scope="module")
def found(run, scores_TN):
    return listed(run, scores_TN)


def test_planted_documents_are_listed_with_their_reasons(found):
    by_id = {one["id"]: one for one in found}
    kinds = {name: {r["kind"]: r for r in one["reasons"]} for name, one in by_id.items()}
    harmful = kinds[f"d{HARMFUL:02d}"]["hurts"]
    assert harmful["clear"]
    assert harmful["value"] == 1.0
    assert harmful["words"].startswith("It hurts 4 of 4 tasks")
    copy = by_id[f"d{REPEATED:02d}"]
    assert copy["cluster"] == "d02"
    assert copy["others"] == ["d02"]
    assert "almost the same as d02" in kinds[f"d{REPEATED:02d}"]["duplicate"]["words"]
    assert "d02" not in {name for name, own in kinds.items() if "duplicate" in own}


def test_the_list_is_ordered_and_plain(found):
    assert [one["rank"] for one in found] == list(range(1, len(found) + 1))
    order = [one["suspicion"] for one in found]
    assert order == sorted(order, reverse=True)
    assert all(0 <= one["suspicion"] <= 1 for one in found)
    assert all(one["reasons"] for one in found)
    assert json.loads(json.dumps(found)) == found, "plain values, no NaN"
    keys = {
        "rank",
        "id",
        "group",
        "language",
        "text",
        "n_tokens",
        "suspicion",
        "reasons",
        "cluster",
    }
    assert all(set(one) == keys | {"others"} for one in found)


def test_no_more_than_asked_for_are_listed(run, scores_TN, found):
    assert listed(run, scores_TN, top=2) == found[:2]


def test_a_hint_says_that_chance_alone_may_give_it(found):
    reasons = [reason for one in found for reason in one["reasons"]]
    for reason in reasons:
        if reason["kind"] != "duplicate":
            assert ("chance alone" in reason["words"]) == (not reason["clear"])


def test_without_a_store_there_are_fewer_reasons(run, scores_TN):
    from dataclasses import replace

    bare = replace(run, gradients=None)
    groups = ["a"] * 40
    with small.here() as workers:
        clusters = find_duplicates(run.corpus, run.root, workers)
        kinds = [r.kind for r in gather_reasons(bare, scores_TN, groups, clusters, workers)]
        every = [r.kind for r in gather_reasons(run, scores_TN, groups, clusters, workers)]
    assert kinds == ["hurts", "duplicate"]
    assert every == ["hurts", "duplicate", "self-influence", "against neighbours"]
    assert listed(bare, scores_TN)


def test_a_store_of_factors_tells_nothing_of_neighbours(scores_TN, tmp_path):
    yaml = small.write_run(tmp_path / "w", store="factors", store_bytes=2000)
    run = small.build(yaml, tmp_path / "runs")
    with small.here() as workers:
        clusters = find_duplicates(run.corpus, run.root, workers)
        reasons = gather_reasons(run, scores_TN, ["a"] * 40, clusters, workers)
    assert [r.kind for r in reasons] == ["hurts", "duplicate", "self-influence"]


def test_too_many_documents_are_not_compared(run, scores_TN, monkeypatch):
    monkeypatch.setattr(suspects, "MOST_COMPARED", 39)
    with small.here() as workers:
        clusters = find_duplicates(run.corpus, run.root, workers)
        reasons = gather_reasons(run, scores_TN, ["a"] * 40, clusters, workers)
    assert "against neighbours" not in [r.kind for r in reasons]


def test_cosines_are_those_of_the_stored_vectors(run):
    store = open_traced(run).store
    vectors = np.concatenate([block for _, block in store.blocks()])
    rows_NK = np.random.default_rng(2).integers(0, 40, (40, 6))
    lengths = np.linalg.norm(vectors, axis=1)
    expected = np.einsum("np,nkp->nk", vectors, vectors[rows_NK])
    expected /= lengths[:, None] * lengths[rows_NK]
    with small.here() as workers:
        found = cosines(store, rows_NK, workers)
        again = cosines(store, rows_NK, workers, seed=1)
    error = np.sqrt(1 / suspects.SKETCH)
    assert np.abs(found - expected).max() < 5 * error
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1.5 * error
    assert (found != again).any()


def test_the_list_is_the_same_from_a_moved_run(run, scores_TN, found, tmp_path):
    moved = open_run(shutil.copytree(run.root, tmp_path / "elsewhere"))
    assert listed(moved, scores_TN) == found
