"""Mixtures on a tiny run: every number against dense scores, resume, partitions, and bad input."""

import csv
import json
import os
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import gradients_store
from pipelines import cli, mixture_scores
from pipelines.answers import loss_of
from pipelines.cluster import Workers
from pipelines.corpus import document_ids
from pipelines.errors import RunError
from pipelines.mixture import Clock, run_mixture, score_and_roll_up
from pipelines.mixture_files import read_mixture
from pipelines.mixture_options import MixtureOptions
from pipelines.mixture_queries import read_tasks
from pipelines.queries import Query
from pipelines.runs import open_run, open_traced
from pipelines.scoring import exact_everywhere, score_documents, solve
from pipelines.trace import query_vectors
from pipelines.worker import language_model
from tests.pipelines.small import build, documents, here, quiet, write_run

PLACES = ("Lima", "Paris", "Rome", "Oslo", "Quito")


def rows():
    """Forty documents in two sources; three topics, of which one has one document, and gaps."""
    found = documents()
    for i, row in enumerate(found):
        row["topic"] = "alone" if i == 39 else ("", None, "north", "south")[i % 4]
        row["language"] = ("en", "de")[i % 4 > 1]
    found[24]["text"] = found[20]["text"].replace("miles long", "miles long indeed")
    found[25]["text"] = found[21]["text"]
    return found


def queries():
    """Three tasks of eight, five and one queries; facts that two documents state, one a language."""
    asked = []
    for task, count in (("from", 8), ("to", 5), ("one", 1)):
        for i in range(count):
            place = PLACES[i % 5]
            texts = {
                "from": (f"The road {i} from", f" {place} to"),
                "to": (f"The road {i} from Lima to", f" {place}"),
                "one": ("The road is", " 4 miles long."),
            }[task]
            asked.append(
                Query(
                    id=f"{task}-{i}",
                    task=task,
                    prompt=texts[0],
                    completion=texts[1],
                    contrast=" Lima" if task == "to" and i == 3 else None,
                    language=("en", "de")[i % 2],
                    supports=(f"d{i:02d}", f"d{i + 2:02d}") if task != "one" else (),
                )
            )
    return asked


ASKED = queries()
TASKS = ("from", "to", "one")
FAST = MixtureOptions(draws=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return build(write_run(folder, rows()), folder / "runs")


def mixed(run, options=FAST, asked=ASKED, workers=None, **changes):
    with workers or here() as pool:
        return run_mixture(run, asked, replace(options, **changes), pool)


@pytest.fixture(scope="module")
def result(run):
    return mixed(run)


@pytest.fixture(scope="module")
def dense(run):
    """Every query's exact score of every document, nats per document removed."""
    with here() as pool:
        return exact_everywhere(open_traced(run, exact=True), ASKED, pool) / 40


def of_task(name):
    return [i for i, query in enumerate(ASKED) if query.task == name]


def sources(run):
    return np.array([s for spec in open_traced(run).specs for s in spec.sources])


def assert_close(found, expected, scale):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(scale).max())


# -- numbers --------------------------------------------------------------------------------------


def test_cells_are_means_and_sums_of_the_exact_scores(run, result, dense):
    assert [(c["task"], c["group"]) for c in result["cells"]] == [
        (t, g) for t in TASKS for g in "ab"
    ]
    for cell in result["cells"]:
        own = dense[of_task(cell["task"])][:, sources(run) == cell["group"]]
        mean_D = own.mean(axis=0)
        assert_close(cell["mean"], own.mean(), dense)
        assert_close(cell["total"], mean_D.sum(), dense)
        assert_close(cell["positive"], mean_D.clip(min=0).sum(), dense)
        assert_close(cell["negative"], mean_D.clip(max=0).sum(), dense)
        assert cell["mean_low"] < cell["mean"] < cell["mean_high"]
        assert cell["total_low"] == pytest.approx(20 * cell["mean_low"])
        assert 1 / 201 <= cell["p"] <= cell["q"] <= 1
        assert (cell["queries"], cell["documents"]) == (len(of_task(cell["task"])), 20)


def test_effects_follow_sign_and_q(result):
    for cell in result["cells"]:
        clear = "helps" if cell["mean"] > 0 else "hurts"
        assert cell["effect"] == (clear if cell["q"] <= 0.05 else "unclear")


def test_every_document_has_its_score_for_every_task(run, result, dense):
    table = pq.read_table(f"{result['folder']}/documents.parquet")
    assert table.column("id").to_pylist() == document_ids(run.corpus)
    for task in TASKS:
        found = table.column(f"score: {task}").to_numpy()
        assert_close(found, dense[of_task(task)].mean(axis=0), dense)
    clusters = dict(zip(document_ids(run.corpus), table.column("cluster").to_pylist(), strict=True))
    assert (clusters["d25"], clusters["d21"], clusters["d24"]) == ("d21", "d21", "d20")
    assert result["clusters"]["documents"] == 4
    assert [g["clusters"] for g in result["groups"]] == [19, 19]


def test_layers_add_up_to_totals(run, result, dense):
    for task in TASKS:
        found = sum(row["total"] for row in result["layers"] if row["task"] == task)
        assert_close(found, dense[of_task(task)].mean(axis=0).sum(), dense)
    traced = open_traced(run, exact=True)
    scored = score_documents(traced, solve(traced, ASKED), range(40))
    layers_LD = scored.layers_QLD[of_task("from")].mean(axis=0) / 40
    own = [row for row in result["layers"] if row["task"] == "from"]
    assert_close([r["total"] for r in own], layers_LD.sum(axis=1), layers_LD)
    assert_close([r["absolute"] for r in own], np.abs(layers_LD).sum(axis=1), layers_LD)
    by_group = pq.read_table(f"{result['folder']}/layers_by_group.parquet").to_pylist()
    first = [r["total"] for r in by_group if (r["task"], r["layer"]) == ("from", own[0]["layer"])]
    assert_close(sum(first), own[0]["total"], layers_LD)


def test_tasks_state_their_loss(run, result):
    loaded = language_model(run.model)
    for row in result["tasks"]:
        own = [ASKED[i] for i in of_task(row["name"])]
        losses = [loss_of(loaded, query) for query in own]
        assert row["loss"] == pytest.approx(np.mean(losses))
        assert row["queries"] == len(own)
    one = result["tasks"][2]
    count = len(loaded.tokenizer(" 4 miles long.", add_special_tokens=False)["input_ids"])
    assert one["loss_per_token"] == pytest.approx(one["loss"] / count)


def test_groups_state_their_sizes(run, result):
    info = run.tokens.info()
    assert sum(g["tokens"] for g in result["groups"]) == info["loss_tokens"] == result["n_tokens"]
    store = open_traced(run).store.metadata()
    own = sources(run) == "a"
    a = next(g for g in result["groups"] if g["name"] == "a")
    assert a["tokens"] == store.column("n_tokens").to_numpy()[own].sum()
    expected = store.column("self_influence").to_numpy()[own].mean() / 40
    assert a["self_influence"] == pytest.approx(expected, rel=1e-5)


def test_languages_rank_within_one_language(run, result, dense):
    """The English queries and the German documents, one by one."""
    ids = document_ids(run.corpus)
    languages = [s for spec in open_traced(run).specs for s in spec.languages]
    asked = [(i, q) for i, q in enumerate(ASKED) if q.supports]
    facts = {ids.index(name) for _, q in asked for name in q.supports}
    german = sorted(row for row in facts if languages[row] == "de")
    ranks = []
    for i, query in asked:
        own = [row for row in german if ids[row] in query.supports]
        if query.language != "en" or not own:
            continue
        best = max(dense[i, own])
        ranks.append(1 + sum(dense[i, row] >= best for row in german if row not in own))
    found = result["languages"]
    a, b = found["queries"].index("en"), found["documents"].index("de")
    assert found["queries_of"][a][b] == len(ranks) > 1
    assert found["mrr"][a][b] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert found["mrr_low"][a][b] <= found["mrr"][a][b] <= found["mrr_high"][a][b]
    assert found["bm25"][a][b] is not None
    assert found["random"][a][b] is not None


def test_a_task_that_counts_for_nothing_does_not_change_the_cells(run, result):
    other = mixed(run, importance={"to": 0.0})
    assert other["cells"] == result["cells"]
    assert other["folder"] != result["folder"]


# -- groups ---------------------------------------------------------------------------------------


def test_missing_values_are_a_group_and_one_document_has_no_interval(run):
    found = mixed(run, by="topic")
    counts = {g["name"]: g["documents"] for g in found["groups"]}
    assert counts == {"(no value)": 20, "north": 10, "south": 9, "alone": 1}
    assert any("20 documents have no value of 'topic'" in note for note in found["notes"])
    assert any("One document only: alone" in note for note in found["notes"])
    for cell in found["cells"]:
        missing = [cell[k] for k in ("mean_low", "total_high", "p", "q", "effect")]
        assert [value is None for value in missing] == [cell["group"] == "alone"] * 5
        assert cell["mean"] is not None
    weights = {g["name"]: g["weight"] for g in (found["reweighting"] or {"groups": []})["groups"]}
    assert len(set(weights.values())) != 1 or not weights


def test_clusters_are_groups_beside_all_that_stand_alone(run):
    found = mixed(run, by="cluster")
    assert [(g["name"], g["documents"], g["clusters"]) for g in found["groups"]] == [
        ("(documents without a near-duplicate)", 36, 36),
        ("near-duplicates of d20", 2, 1),
        ("near-duplicates of d21", 2, 1),
    ]
    pairs = [c for c in found["cells"] if c["group"] == "near-duplicates of d20"]
    assert all(c["mean_low"] is None and c["mean"] is not None for c in pairs)


def test_many_groups_are_taken_together(run, monkeypatch):
    monkeypatch.setattr("pipelines.mixture_groups.MOST_GROUPS", 2)
    found = mixed(run, by="topic")
    assert [g["name"] for g in found["groups"]] == ["(no value)", "north", "(2 smaller groups)"]
    assert sum(g["documents"] for g in found["groups"]) == 40


# -- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {"store": "full", "store_dtype": "float32"},
        {"store": "top-eigen", "store_bytes": 2000},
        {"store": "random", "store_side": 4, "store_dtype": "int4"},
        {"store": "factors", "store_dtype": "int8"},
    ],
    ids=lambda form: form["store"],
)
def test_sums_in_the_store_are_sums_of_its_documents_scores(run, tmp_path, form):
    shutil.copytree(run.root, tmp_path / "small")
    own = build(run.root.parents[1] / "small.yaml", tmp_path, **form)
    traced = open_traced(own)
    assert traced.store.header.sketch == form["store"]
    vectors = query_vectors(solve(traced, ASKED))
    scores = np.concatenate([s for _, s in gradients_store.all_scores(traced.store, vectors)], 1)
    scores = scores.astype(np.float64) / 40
    found = mixed(own, store=True)
    assert found["scores"] == "store"
    for cell in found["cells"]:
        task = scores[of_task(cell["task"])][:, sources(run) == cell["group"]]
        assert_close(cell["mean"], task.mean(), scores)
        assert_close(cell["positive"], task.mean(axis=0).clip(min=0).sum(), scores)
    for task in TASKS:
        layers = [row for row in found["layers"] if row["task"] == task]
        total = sum(row["total"] for row in layers)
        assert_close(total, scores[of_task(task)].mean(axis=0).sum(), scores)
        assert all(row["absolute"] is None for row in layers)


def test_an_exact_store_gives_the_exact_cells(run, result):
    own = open_traced(run).store.header
    assert (own.sketch, own.dtype) == ("full", "int8")
    for a, b in zip(mixed(run, store=True)["cells"], result["cells"], strict=True):
        assert a["mean"] == pytest.approx(b["mean"], rel=0.02)


def test_sums_that_are_too_large_give_way_to_single_scores(run, monkeypatch):
    expected = mixed(run, store=True)
    monkeypatch.setattr(mixture_scores, "SUM_GIGABYTES", 1e-6)
    shutil.rmtree(expected["folder"])
    found = mixed(run, store=True)
    for a, b in zip(found["cells"], expected["cells"], strict=True):
        assert a["mean"] == pytest.approx(b["mean"], rel=1e-4)
    assert found["layers"] == []
    assert any("each document was scored for each query instead" in n for n in found["notes"])


# -- verification ---------------------------------------------------------------------------------


def test_what_is_checked_is_what_the_scores_predict(run, result, tmp_path, dense):
    """As many tokens of each source are left out: all of the smaller one."""
    own = open_run(shutil.copytree(run.root, tmp_path / "small"))
    found = mixed(own, verify="drop", seeds=1)["verification"]
    assert found["kind"] == "drop"
    assert [(row["task"], row["group"]) for row in found["rows"]] == [
        (task, group) for task in TASKS for group in "ab"
    ]
    assert all(row["measured"] is not None for row in found["rows"])
    smaller = min(result["groups"], key=lambda group: group["tokens"])["name"]
    for row in found["rows"]:
        if row["group"] == smaller:  # all of it is left out
            task = dense[of_task(row["task"])][:, sources(run) == smaller]
            assert_close(row["predicted"], task.mean(axis=0).sum(), dense)


def test_predictions_are_sums_over_what_is_taken_away(run, dense):
    share_AN = np.random.default_rng(0).integers(-1, 2, (3, 40))
    with here() as pool:
        exact = score_and_roll_up(run, ASKED, FAST, pool, Clock())
        stored = score_and_roll_up(run, ASKED, replace(FAST, store=True), pool, Clock())
    assert_close(exact.scores.removed(share_AN), share_AN @ dense.T, dense)
    by_task = np.stack([(share_AN @ dense.T)[:, of_task(task)].mean(axis=1) for task in TASKS], 1)
    np.testing.assert_allclose(
        stored.scores.removed(share_AN), by_task, rtol=0, atol=0.02 * np.abs(by_task).max()
    )


def test_a_reweighting_is_not_checked_where_none_is_proposed(run):
    with pytest.raises(RunError, match="no re-weighting is proposed"):
        mixed(run, by="dataset", verify="reweight")  # one group: nothing to weigh against it


# -- files ----------------------------------------------------------------------------------------


def test_files_hold_what_the_result_says(result):
    folder = result["folder"]
    assert read_mixture(folder) == result
    cells = pq.read_table(f"{folder}/cells.parquet")
    assert cells.to_pylist() == result["cells"]
    assert cells.schema.metadata[b"unit"] == b"nats per document removed"
    with open(f"{folder}/cells.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == pytest.approx(
        [c["mean"] for c in result["cells"]]
    )
    pairs = pq.read_table(f"{folder}/profiles.parquet").to_pylist()
    assert [(p["a"], p["b"]) for p in pairs] == [("a", "b")]
    assert pairs[0]["correlation"] == result["profiles"]["correlation"][0][1]
    text = json.dumps(result)
    assert "NaN" not in text
    assert "Infinity" not in text


def test_a_damaged_result_is_refused(result, tmp_path):
    with pytest.raises(RunError, match="unreadable"):
        read_mixture(tmp_path)
    (tmp_path / "mixture.json").write_text('{"format": 9}')
    with pytest.raises(RunError, match="format 9, 1 was expected"):
        read_mixture(tmp_path)


# -- resume and partitions ------------------------------------------------------------------------


@pytest.fixture
def copied_run(run, tmp_path):
    root = shutil.copytree(
        run.root, tmp_path / "small", ignore=shutil.ignore_patterns("scores", "mixtures")
    )
    return open_run(root)


def shards(run):
    return {p: p.stat().st_mtime_ns for p in sorted((run.root / "scores").rglob("shard-*.arrow"))}


def test_a_killed_run_goes_on_where_it_was(copied_run, result):
    pid = os.fork()
    if pid == 0:  # dies with SIGKILL after the second shard's file has its name
        replaced, rename = [], os.replace

        def deadly(source, target):
            rename(source, target)
            replaced.append(target)
            if sum("/scores/" in str(name) for name in replaced) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = deadly
        try:
            mixed(copied_run)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    before = shards(copied_run)
    assert len(before) == 2
    found = mixed(copied_run)
    after = shards(copied_run)
    assert len(after) == 5
    assert {path: after[path] for path in before} == before
    assert found["cells"] == result["cells"]


def test_another_grouping_needs_no_further_pass(copied_run, monkeypatch):
    mixed(copied_run)
    before = shards(copied_run)
    monkeypatch.setattr(mixture_scores, "score_documents", None)
    assert mixed(copied_run, by="topic")["column"] == "topic"
    assert shards(copied_run) == before


@pytest.mark.parametrize("size", [7, 40])
def test_the_cut_into_shards_changes_nothing_beyond_rounding(run, result, tmp_path, size):
    own = build(run.root.parents[1] / "small.yaml", tmp_path, documents_per_shard=size)
    found = mixed(own)
    scale = max(abs(cell["total"]) for cell in result["cells"])
    for a, b in zip(found["cells"], result["cells"], strict=True):
        for key in ("mean", "mean_low", "mean_high", "total", "positive", "negative"):
            assert a[key] == pytest.approx(b[key], abs=1e-4 * scale), key
    for a, b in zip(found["layers"], result["layers"], strict=True):
        assert a["absolute"] == pytest.approx(b["absolute"], rel=1e-3)


def test_a_worker_process_and_small_blocks_of_queries_change_nothing(
    copied_run, result, monkeypatch
):
    found = mixed(copied_run, workers=Workers(1, None, quiet()))
    assert found["cells"] == result["cells"]
    shutil.rmtree(copied_run.root / "scores")
    monkeypatch.setattr("pipelines.scoring.QUERY_GIGABYTES", 1.5e-4)  # five queries a block
    found = mixed(copied_run)
    for a, b in zip(found["cells"], result["cells"], strict=True):
        assert a["mean"] == pytest.approx(b["mean"], rel=1e-4)
    for a, b in zip(found["layers"], result["layers"], strict=True):
        assert a["absolute"] == pytest.approx(b["absolute"], rel=1e-3)


# -- bad input ------------------------------------------------------------------------------------


@pytest.fixture
def asked_file(tmp_path):
    def write(*values):
        path = tmp_path / "asked.jsonl"
        path.write_text("\n".join(json.dumps(value) for value in values), "utf-8")
        return path

    return write


GOOD = {"task": "roads", "prompt": "The road 1 from", "completion": " Lima"}


def test_queries_without_a_task_are_named_by_line(run, asked_file):
    bare = {key: value for key, value in GOOD.items() if key != "task"}
    path = asked_file(GOOD, {**bare, "id": "x"}, {**GOOD, "id": "y", "task": ""})
    with pytest.raises(RunError, match=r"2 of 3 have no `task` \(lines 2, 3\).*\{\"task\": "):
        read_tasks(path, run)
    with pytest.raises(RunError, match=r"1 of 14 queries have no task \(from-0\)"):
        mixed(run, asked=[replace(ASKED[0], task=None), *ASKED[1:]])
    with pytest.raises(RunError, match="no queries"):
        mixed(run, asked=[])


def test_without_queries_another_corpus_is_refused_with_an_example(run):
    with pytest.raises(RunError, match=r"no queries were given.*\{\"task\": \"capitals\""):
        read_tasks(None, run)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"by": "sourse"}, "no column 'sourse'.*Did you mean 'source'"),
        ({"by": "id"}, "another value for each of the 40 documents"),
        ({"importance": {"form": 1.0}}, "task 'form'.*Did you mean 'from'"),
        ({"importance": dict.fromkeys(TASKS, 0.0)}, "all tasks have weight 0"),
    ],
    ids=["unknown column", "a value each", "unknown task", "nothing counts"],
)
def test_options_that_do_not_fit_the_run_are_refused(run, changes, expected):
    with pytest.raises(RunError, match=expected):
        mixed(run, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"verify": "guess"}, "--verify guess"),
        ({"seeds": 0}, "0 seeds"),
        ({"importance": {"from": -1.0}}, "numbers from 0"),
        ({"importance": {"from": float("nan")}}, "numbers from 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, expected):
    with pytest.raises(RunError, match=expected):
        MixtureOptions(**changes)


def test_queries_longer_than_the_context_are_counted_and_named(run):
    long = replace(ASKED[1], prompt="The road " * 40)
    with pytest.raises(RunError, match=r"1 of 14 queries can't be scored.*from-1.*at most 48"):
        mixed(run, asked=[ASKED[0], long, *ASKED[2:]])


def test_ids_that_occur_twice_are_refused(run):
    with pytest.raises(RunError, match="id 'from-0' occurs twice"):
        mixed(run, asked=[*ASKED, ASKED[0]])


def test_no_near_duplicates_make_no_clusters(finished, tmp_path):
    own = open_run(shutil.copytree(finished.root, tmp_path / "small"))
    with pytest.raises(RunError, match="no two documents are near-duplicates"):
        mixed(own, by="cluster")


def test_a_run_without_a_store_says_so(copied_run):
    bare = replace(copied_run, gradients=None)
    with pytest.raises(RunError, match=r"--store given, and run .* has no gradient store"):
        mixed(bare, store=True)
    found = mixed(bare)
    assert [group["self_influence"] for group in found["groups"]] == [None, None]
    assert found["cells"][0]["mean_low"] is not None


def test_supports_that_are_not_there_are_counted(run):
    asked = [replace(query, supports=("d00", "gone")) for query in ASKED]
    found = mixed(run, asked=asked)
    assert any("14 supports name no document" in note for note in found["notes"])
    one = [replace(query, language="en") for query in ASKED]
    assert mixed(run, asked=one)["languages"] is None


def test_few_queries_are_warned_of(result):
    assert any(note.startswith("One query only: one.") for note in result["notes"])
    assert any(note.startswith("Fewer than 8 queries: to.") for note in result["notes"])


# -- the command ----------------------------------------------------------------------------------


def test_the_command_prints_json_or_the_folder(run, asked_file, monkeypatch, capsys):
    path = asked_file(*({**GOOD, "completion": f" {place}"} for place in PLACES))
    where = ("--runs", str(run.root.parent), "--workers", "0")
    command = ["influence", "mixture", "small", "--queries", str(path), *where]
    monkeypatch.setattr(sys, "argv", [*command, "--json", "--weights", "roads=2"])
    assert cli.guarded(cli.app) == 0
    found = json.loads(capsys.readouterr().out)
    assert [task["queries"] for task in found["tasks"]] == [5]
    monkeypatch.setattr(sys, "argv", [*command, "--weights", "roads"])
    assert cli.guarded(cli.app) == 2
    assert "TASK=NUMBER was expected" in capsys.readouterr().err
