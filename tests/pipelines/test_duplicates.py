"""Near-duplicates against all pairs, and against what was planted in the embedded corpus."""

import os
import signal
import sys
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets_cfg import embedded
from pipelines import duplicates
from pipelines.cluster import Workers
from pipelines.corpus import DOCUMENTS
from pipelines.duplicates import (
    PERMUTATIONS,
    bands,
    find_duplicates,
    jaccard,
    normalised,
    read_clusters,
    read_similarity,
    shingles,
    signature,
)
from pipelines.errors import RunError
from pipelines.run_folder import PARTIAL, Stage, damaged_files, seal
from tests.pipelines import small


def corpus_of(folder, texts):
    """A sealed corpus of these texts."""
    stage = Stage("corpus", "texts", folder)
    stage.path.mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), stage.path / DOCUMENTS, row_group_size=7)
    return seal(stage, {"documents": len(texts), "content": str(hash(tuple(texts)))})


def clusters_of(folder, texts, **options):
    with small.here() as workers:
        stage = find_duplicates(corpus_of(folder, texts), folder, workers, **options)
    return read_clusters(stage)


def slow_shingles(text):
    data = normalised(text)
    return {data[i : i + 8] for i in range(max(1, len(data) - 7))}


def slow_jaccard(a, b):
    return len(a & b) / len(a | b)


def slow_clusters(texts, threshold):
    """All pairs, then connected components."""
    sets = [slow_shingles(text) for text in texts]
    pairs = [
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if slow_jaccard(sets[a], sets[b]) >= threshold
    ]
    rows, columns = np.array(pairs).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(texts), len(texts)))
    _, label_N = connected_components(graph, directed=False)
    return np.array([np.flatnonzero(label_N == one)[0] for one in label_N])


@pytest.fixture(scope="module")
def planted():
    """The documents of the embedded corpus."""
    return embedded.documents()


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    with small.here() as workers:
        corpus = corpus_of(folder, [d["text"] for d in planted])
        return find_duplicates(corpus, folder, workers)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_clusters_are_those_of_all_pairs(planted, tmp_path, threshold):
    texts = [d["text"] for d in planted if d["relation"] in ("symbol", "continent")]
    texts += [d["text"] for d in planted if d["duplicate_of"] or d["source"] == "licences"]
    expected = slow_clusters(texts, threshold)
    assert len(set(expected)) < len(texts) or threshold == 1.0
    found_N = clusters_of(tmp_path, texts, threshold=threshold)
    different = int((found_N != expected).sum())
    # a pair just at the threshold may be missed with probability MISSED
    assert different <= 0.01 * len(texts), f"{different} of {len(texts)} documents"


def test_planted_copies_are_found(planted, found):
    row = {d["id"]: i for i, d in enumerate(planted)}
    pairs = [(row[d["id"]], row[d["duplicate_of"]]) for d in planted if d["duplicate_of"]]
    cluster_N = read_clusters(found)
    together = [cluster_N[a] == cluster_N[b] for a, b in pairs]
    assert np.mean(together) >= 0.95, "recall of planted copies"
    beyond = np.flatnonzero(cluster_N != np.arange(len(cluster_N)))
    copies = {a for a, _ in pairs} | {b for _, b in pairs}
    # the rest are texts that really stand twice: a docstring and its function, licences
    assert np.mean([int(r) in copies for r in beyond]) >= 0.8, "precision of planted copies"


def test_similarity_is_that_with_the_first_of_the_cluster(planted, found):
    cluster_N, similarity_N = read_clusters(found), read_similarity(found)
    assert (cluster_N <= np.arange(len(cluster_N))).all()
    assert (cluster_N[cluster_N] == cluster_N).all(), "a cluster is named by its first document"
    for row in np.flatnonzero(cluster_N != np.arange(len(cluster_N))):
        first, own = planted[cluster_N[row]]["text"], planted[row]["text"]
        expected = slow_jaccard(slow_shingles(first), slow_shingles(own))
        assert similarity_N[row] == pytest.approx(expected)
    assert (similarity_N[cluster_N == np.arange(len(cluster_N))] == 1).all()


def test_the_seal_counts_clusters_and_parts_are_gone(found):
    cluster_N = read_clusters(found)
    sizes = np.bincount(cluster_N)
    info = found.info()
    assert info["clusters"] == (sizes > 1).sum()
    assert info["documents"] == sizes[sizes > 1].sum()
    assert info["largest"] == sizes.max()
    assert info["threshold"] == 0.8
    assert not (found.path / PARTIAL).exists()
    assert damaged_files(found) == []


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_clusters_do_not_depend_on_the_parts(planted, tmp_path, rows):
    texts = [d["text"] for d in planted if d["duplicate_of"] or d["source"] == "licences"]
    assert (
        clusters_of(tmp_path / "a", texts, rows=rows) == clusters_of(tmp_path / "b", texts)
    ).all()


def test_short_texts_equal_texts_and_a_long_line(tmp_path):
    generator = np.random.default_rng(0)
    line = "".join(map(chr, generator.integers(97, 123, 100_000)))
    texts = [
        "ab",  # 0: shorter than a shingle
        "ab ",  # equal to 0 but for blanks
        "ac",
        "a",
        line,  # 4
        f"{line} and a few words",
        "The  Capital of Peru is Lima.",  # 6: equal but for case and blanks
        "the capital of peru is lima.",
        "秘鲁的首都是利马，这是地图上写的。",  # 8
        "秘鲁的首都是利马，这是地图上写的！",
        "智利的首都是圣地亚哥。",
        *["again and again"] * 3,  # 11
    ]
    expected = [0, 0, 2, 3, 4, 4, 6, 6, 8, 8, 10, 11, 11, 11]
    assert clusters_of(tmp_path, texts).tolist() == expected


def test_shingles_are_the_distinct_runs_of_bytes():
    for text in ("", "ab", "exactly8", "The cat, the cat, the cat", "秘鲁的首都", "\ud800 alone"):
        own = {int.from_bytes(one.ljust(8, b"\0"), "little") for one in slow_shingles(text)}
        assert shingles(normalised(text)).tolist() == sorted(own)


def test_signatures_agree_as_often_as_sets_do():
    generator = np.random.default_rng(1)
    pool = np.unique(generator.integers(0, 1 << 63, 40_000, dtype=np.uint64))
    for shared in (0.2, 0.5, 0.9):
        pairs = []
        for _ in range(20):
            own = generator.permutation(pool)[:300]
            size = int(200 * shared)
            a, b = np.sort(own[:200]), np.sort(np.concatenate([own[:size], own[200 : 400 - size]]))
            agreed = (signature(a) == signature(b)).mean()
            pairs.append(agreed - jaccard(a, b))
        error = 5 * 0.5 / np.sqrt(20 * PERMUTATIONS)  # five standard errors at most
        assert abs(np.mean(pairs)) < error


def test_bands_miss_few_pairs_at_the_threshold():
    for threshold in (0.3, 0.5, 0.8, 0.95, 1.0):
        count, rows = bands(threshold)
        assert count * rows <= PERMUTATIONS
        assert (1 - threshold**rows) ** count <= duplicates.MISSED
        fewer = PERMUTATIONS // (rows + 1)
        assert (
            rows == PERMUTATIONS // 2 or (1 - threshold ** (rows + 1)) ** fewer > duplicates.MISSED
        )


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_out_of_range_is_refused(tmp_path, threshold):
    with pytest.raises(RunError, match="above 0 and at most 1 was expected"):
        clusters_of(tmp_path, ["one", "two"], threshold=threshold)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    monkeypatch.setattr(duplicates, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"whydidit\[mixture\]"):
        clusters_of(tmp_path, ["one", "two"])


def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    texts = [
        f"Number {i // 2} of a list of texts that come in pairs{'.' * (i % 2)}" for i in range(30)
    ]
    corpus = corpus_of(tmp_path, texts)
    child = os.fork()
    if child == 0:
        replace, count = os.replace, iter(range(100))

        def dying(source, target):
            replace(source, target)
            if next(count) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = dying
        with small.here() as workers:
            find_duplicates(corpus, tmp_path, workers, rows=5)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("signatures-*.arrow")}
    assert len(left) == 4
    written = []
    original = duplicates.write_signatures
    monkeypatch.setattr(
        duplicates, "write_signatures", lambda spec: written.append(spec.out) or original(spec)
    )
    with small.here() as workers:
        stage = find_duplicates(corpus, tmp_path, workers, rows=5)
    assert len(written) == 2
    assert not {str(path) for path in left} & set(written), "a part was written twice"
    assert (read_clusters(stage) == slow_clusters(texts, 0.8)).all()


def test_processes_find_the_same(planted, tmp_path):
    texts = [d["text"] for d in planted if d["duplicate_of"]]
    with Workers(2, None, small.quiet()) as workers:
        stage = find_duplicates(corpus_of(tmp_path / "p", texts), tmp_path / "p", workers, rows=20)
    assert (read_clusters(stage) == clusters_of(tmp_path / "h", texts)).all()
