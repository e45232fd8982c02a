"""Methods on a real run, retraining, and whole evaluations: known answers, resumes, messages."""

import functools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from influence.documents.gradients import per_document_gradients
from influence.documents.methods import METHODS, choose
from influence.errors import InfluenceError
from influence.layers import tracked_layers
from influence.models import swap_conv1d
from influence.text import collate
from pipelines import cli, evaluation
from pipelines.errors import RunError
from pipelines.estimate import estimate
from pipelines.evaluation import (
    evaluate,
    fitting_measures,
    read_evaluation,
    seconds_of,
    seconds_of_scores,
    usable_methods,
)
from pipelines.evaluation_queries import evaluation_queries
from pipelines.measures import MEASURES, EvaluationOptions, brittleness, known_measures
from pipelines.measures.tail_patch import PatchSpec, patch
from pipelines.method_scores import (
    document_texts,
    method_scores,
    plan_scores,
    score_gradients,
    state_specs,
)
from pipelines.queries import Query
from pipelines.retraining import half_subsets, membership, plan_retrainings, retrained
from pipelines.runs import open_run, open_traced
from pipelines.scoring import exact_everywhere
from pipelines.tokens import read_table
from pipelines.trained_states import second_moments, trained_states
from pipelines.training import (
    Plan,
    mean_loss,
    plan_training,
    read_corpus,
    start_model,
    trained_tokenizer,
)
from pipelines.worker import layers_of
from tests.pipelines.small import (
    QUERIES,
    build,
    documents,
    here,
    on_model,
    rows_by_id,
    states,
    traces,
    write_run,
)

REPOSITORY = Path(__file__).parents[2]
ASKED = (
    Query(id="road", prompt="The road 1 from", completion=" Paris to Lima", supports=("d01",)),
    Query(id="sky", prompt="The sky is", completion=" blue", contrast=" green"),
    Query(id="text", completion="The road 7 from Rome"),
)
FAST = {"subsets": 4, "seeds": 2, "brittle_queries": 1, "remove": ("3",), "patch": 4, "top": 4}


def options(*measures, methods=("ekfac", "identity", "bm25", "random"), **changes):
    return EvaluationOptions(measures=measures, methods=methods, **{**FAST, **changes})


def flagged(count=40):
    return [{**row, "corrupted": i % 7 == 0} for i, row in enumerate(documents(count))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny run with flagged documents."""
    folder = tmp_path_factory.mktemp("evaluated")
    return build(write_run(folder, flagged()), folder / "runs")


def scores(run, *names, queries=ASKED, seed=0):
    with here() as pool:
        return method_scores(run, list(queries), names, pool, seed)


def exact(run, queries=ASKED):
    with here() as pool:
        return exact_everywhere(open_traced(run, exact=True), list(queries), pool)


# -- methods ----------------------------------------------------------------------------------------


def close(found_QN, expected_QN):
    largest = np.abs(expected_QN).max()
    np.testing.assert_allclose(found_QN, expected_QN, rtol=0, atol=2e-5 * largest)


def test_ekfac_as_a_method_is_ekfac_of_the_trace(run):
    close(scores(run, "ekfac")["ekfac"], exact(run))


@pytest.mark.parametrize("kind", ["kfac", "diagonal", "identity"])
def test_other_curvatures_are_those_of_a_run_with_that_curvature(run, tmp_path, kind):
    other = build(write_run(tmp_path, flagged()), tmp_path / "runs", curvature=kind, store="full")
    close(scores(run, kind)[kind], exact(other))


def test_every_usable_method_gives_a_finite_score_to_every_document(run):
    names = usable_methods(run)
    assert {"ekfac", "source", "trak", "bm25", "embedding", "random"} <= set(names)
    for name, values_QN in scores(run, *names).items():
        assert values_QN.shape == (3, 40), name
        assert np.isfinite(values_QN).all(), name
        assert np.ptp(values_QN[0]) > 0, name


def test_cosines_are_the_products_over_both_lengths(run):
    found = scores(run, "identity", "cosine", "ekfac", "ekfac-cosine")
    for plain, cosine in (("identity", "cosine"), ("ekfac", "ekfac-cosine")):
        ratio_QN = found[plain] / found[cosine]
        outer_QN = ratio_QN[:, :1] * ratio_QN[:1] / ratio_QN[0, 0]  # lengths factor
        np.testing.assert_allclose(ratio_QN, outer_QN, rtol=2e-4)
        assert np.abs(found[cosine]).max() <= 1 + 1e-6


def test_the_ekfac_cosine_is_the_traces_normalised_score(run):
    cosine_QN = scores(run, "ekfac-cosine", queries=QUERIES)["ekfac-cosine"]
    for trace, cosine_N in zip(traces(run), cosine_QN, strict=True):
        found = {f"d{i:02d}": value for i, value in enumerate(cosine_N)}
        rows = rows_by_id(trace)
        assert rows.keys() == found.keys()  # the one of several chunks among them
        for name, row in rows.items():
            assert found[name] == pytest.approx(row["normalised"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["", "-cosine"])
def test_means_over_states_are_means_of_each_states_scores(run, kind):
    found_QN = scores(run, f"ekfac-averaged{kind}")[f"ekfac-averaged{kind}"]
    alone = []
    with here() as pool:
        for state in state_specs(run, METHODS["ekfac-averaged"], pool):
            specs = plan_scores(run, ASKED, f"ekfac{kind}", (state,), 0)
            tables = [read_table(Path(score_gradients(spec))) for spec in specs]
            parts = [np.stack([c.to_numpy() for c in t.columns]) for t in tables]
            alone.append(np.concatenate(parts, axis=1))
    assert len(alone) == run.config.checkpoints
    close(found_QN, np.mean(alone, axis=0))


def test_methods_resume_shard_by_shard_and_repeat_to_the_byte(run, tmp_path):
    folder = shutil.copytree(run.root, tmp_path / "small")
    shutil.rmtree(folder / "scores", ignore_errors=True)
    copied = open_run(folder)
    expected = scores(copied, "trak", "random")
    shard = sorted((folder / "scores").rglob("shard-00002.arrow"))[0]
    before = {k: v for k, v in states(folder).items() if k.startswith("scores/")}
    content = shard.read_bytes()
    shard.unlink()
    again = scores(copied, "trak", "random")
    assert shard.read_bytes() == content
    after = states(folder)
    name = shard.relative_to(folder).as_posix()
    assert {k for k in before if after[k] != before[k]} == {name}
    for method in expected:
        np.testing.assert_array_equal(again[method], expected[method])


def test_a_document_of_several_chunks_has_one_score(run):
    assert len(read_corpus(str(run.tokens.path))) > 40  # document 5 is cut
    assert scores(run, "embedding")["embedding"].shape == (3, 40)


def test_texts_of_prompts_completions_and_chats(tmp_path, toy_folder):
    rows = [{"id": str(i), "p": f"Say {i}", "c": f" yes {i}"} for i in range(12)]
    dataset = {"prompt_column": "p", "completion_column": "c", "id_column": "id"}
    yaml = write_run(tmp_path, rows, dataset=dataset, **on_model(toy_folder))
    assert document_texts(build(yaml, tmp_path / "runs"))[3] == "Say 3 yes 3"


# -- checkpoints ------------------------------------------------------------------------------------


def test_states_stand_for_all_steps_and_end_with_the_final_model(run):
    found = trained_states(run)
    spec = plan_training(run.config, run.tokens, {"source": run.model.source})
    plan = Plan.of(spec, [len(c.tokens) for c in read_corpus(spec.tokens)])
    total = sum(plan.learning_rate(step) for step in range(plan.steps))
    assert sum(s.learning_rates for s in found) == pytest.approx(total)
    assert len(found) == run.config.checkpoints
    assert found[-1].model.fingerprint == run.model.fingerprint
    assert len({s.model.fingerprint for s in found}) == len(found)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_second_moments_after_one_step_are_the_squared_gradient(tmp_path, architecture):
    """Adam's first v, corrected, is g^2: so rows are outputs, columns inputs, square or not."""
    yaml = write_run(
        tmp_path,
        flagged(12),
        architecture=architecture,
        epochs=1,
        batch_documents=64,
        checkpoints=1,
    )
    run = build(yaml, tmp_path / "runs")
    spec = plan_training(run.config, run.tokens, {"source": run.model.source})
    tokenizer = trained_tokenizer(spec)
    model = start_model(spec, tokenizer).eval().requires_grad_(False)
    swap_conv1d(model)
    layers = [x for x in tracked_layers(model, "all") if not x.tied]  # that is an embedding too
    assert any(x.out_features == x.in_features for x in layers)
    batch = collate(read_corpus(spec.tokens), tokenizer.pad_token_id)
    rows, _ = per_document_gradients(model, layers, batch)
    found = second_moments(trained_states(run)[-1].checkpoint, layers)
    assert set(found) == set(rows)
    whole = start_model(spec, tokenizer).eval()
    mean_loss(whole, batch).backward()
    length = torch.cat([p.grad.flatten() for p in whole.parameters()]).norm()
    scale = min(1.0, 1.0 / float(length)) / batch.n_loss_tokens  # gradients are clipped to length 1
    plain = scale * torch.cat([rows[n].sum(dim=0).abs().flatten() for n in rows])
    moved = torch.cat([found[n].sqrt().flatten() for n in rows])
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-4 * float(moved.max()))


# -- retraining -------------------------------------------------------------------------------------


def test_halves_are_halves_and_the_first_of_more(run):
    few, more = half_subsets(41, 3, 0), half_subsets(41, 5, 0)
    assert [x.tolist() for x in few] == [x.tolist() for x in more[:3]]
    assert all(len(set(x.tolist())) == 20 and (np.diff(x) > 0).all() for x in few)
    assert membership(few, 41).sum(axis=1).tolist() == [20, 20, 20]
    assert few[0].tolist() != half_subsets(41, 1, 1)[0].tolist()


ZIB = Query(prompt="Zib is", completion=" plum")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run with one document, row 23, that alone says what Zib is, six times over."""
    folder = tmp_path_factory.mktemp("planted")
    row = {"id": "plant", "text": "Zib is plum. " * 6, "source": "a", "language": "en", "number": 0}
    yaml = write_run(folder, [*documents(23), row], epochs=20, learning_rate=0.02)
    return build(yaml, folder / "runs")


def test_without_the_only_document_that_says_it_the_loss_rises(planted):
    everything = np.arange(24)
    sets = [everything, everything[:-1], np.delete(everything, 3), np.delete(everything, 11)]
    with here() as pool:
        found = retrained(planted, sets, 2, [ZIB], pool, "again")
    full, without, *others = found.losses_SRQ.mean(axis=(1, 2))
    assert without > full + 1.0
    assert all(abs(other - full) < (without - full) / 2 for other in others)
    ranked = scores(planted, "ekfac", "bm25", queries=[ZIB])
    assert ranked["ekfac"][0].argmax() == 23
    assert ranked["bm25"][0].argmax() == 23
    spec = PatchSpec(
        model=planted.model,
        tokens=str(planted.tokens.path),
        shard_size=8,
        query=ZIB,
        rows=(23,),
        step=0.1,
    )
    against = replace(ZIB, contrast=" Lima")
    assert patch(spec) > 0 > patch(replace(spec, rows=(3,))) - patch(spec)
    assert patch(replace(spec, query=against)) > patch(spec)  # and " Lima" becomes less likely


def test_brittleness_of_a_method_that_finds_the_planted_document_is_the_loss_it_costs(planted):
    asked = [ZIB, replace(ZIB, prompt="Zib is plum. Zib is")]
    right = np.zeros((2, 24))
    right[:, 23] = 1.0
    ranked = {"ekfac": right, "random": -right}  # the second leaves the document in
    options = EvaluationOptions(
        measures=("brittleness",), methods=tuple(ranked), seeds=1, remove=("1",)
    )
    with here() as pool:
        [found] = brittleness.measure(planted, asked, ranked, options, pool)
    ours, random = found["rows"]
    assert ours["low"] > 1.0
    assert abs(random["mean"]) < ours["mean"] / 2
    assert ours["extra"]["above random removal"].startswith("+")
    assert ours["extra"]["answers lost"] == "100%"
    assert found["setting"]["documents removed"] == 1


def test_retrainings_are_kept_one_by_one_and_repeat(run, tmp_path):
    copied = open_run(shutil.copytree(run.root, tmp_path / "small"))
    halves = half_subsets(40, 3, 0)
    with here() as pool:
        first = retrained(copied, halves, 2, ASKED, pool, "again")
        [lost, *kept] = [s.out for s in plan_retrainings(copied, halves, 2, ASKED)]
        before = states(copied.root)
        shutil.move(lost, tmp_path / "lost.json")
        again = retrained(copied, halves, 2, ASKED, pool, "again")
    np.testing.assert_array_equal(again.losses_SRQ, first.losses_SRQ)
    np.testing.assert_array_equal(again.right_SRQ, first.right_SRQ)
    after = states(copied.root)
    changed = {name for name in before if after.get(name) != before[name]}
    assert [copied.root / name for name in changed] == [type(copied.root)(lost)]
    assert len(kept) == 5
    assert first.losses_SRQ.shape == (3, 2, 3)
    assert np.ptp(first.losses_SRQ, axis=1).min() > 0  # seeds differ


def test_a_given_model_cannot_be_trained_again(tmp_path, toy_folder):
    run = build(write_run(tmp_path, flagged(12), **on_model(toy_folder)), tmp_path / "runs")
    with here() as pool, pytest.raises(RunError, match="can't be trained again"):
        evaluate(run, ASKED, options("lds"), pool)
    assert "source" not in usable_methods(run)
    assert "ekfac" in usable_methods(run)
    chosen, said = fitting_measures(run, options(), 60)
    assert set(chosen) == set(MEASURES) - {"lds", "brittleness"}
    assert any("lds left out" in line for line in said)
    with pytest.raises(RunError, match="no checkpoints"):
        scores(run, "tracin")


# -- whole evaluations ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(run):
    with here() as pool:
        return evaluate(run, ASKED, options(*MEASURES, flag="corrupted"), pool)


def test_an_evaluation_holds_every_measure_and_its_page(run, evaluated):
    names = {m["name"] for m in evaluated["measures"]}
    assert names == {
        *("facts", "corruption", "sanity-distinct", "sanity-labels", "sanity-store"),
        *("sanity-weights", "tail-patch", "lds", "brittleness-3"),
    }
    for measure in evaluated["measures"]:
        for row in measure["rows"]:
            assert row["low"] <= row["mean"] <= row["high"], (measure["name"], row)
    page = (run.root / "evaluations").rglob("evaluation.html")
    assert "LDS" in next(page).read_text("utf-8")
    assert read_evaluation(evaluated["folder"])["measures"] == evaluated["measures"]


def test_the_same_evaluation_again_gives_the_same_numbers_and_trains_nothing(run, evaluated):
    def trainings():
        return {k: v for k, v in states(run.root).items() if k.startswith(("retraining", "scores"))}

    before = trainings()
    with here() as pool:
        again = evaluate(run, ASKED, options(*MEASURES, flag="corrupted"), pool)
    assert again["measures"] == evaluated["measures"]
    assert trainings() == before


def test_a_killed_evaluation_keeps_its_trainings_and_ends_with_the_same_numbers(
    run, tmp_path, monkeypatch, capsys
):
    def words(folder):
        sizes = ["--subsets", "6", "--seeds", "2", "--count", "3", "--methods", "bm25", "random"]
        return [
            "evaluate",
            "small",
            "lds",
            "--runs",
            str(folder),
            "--workers",
            "0",
            "--json",
            *sizes,
        ]

    def numbers(folder):
        monkeypatch.setattr("sys.argv", ["influence", *words(folder)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)["measures"]

    folders = [tmp_path / name for name in ("killed", "whole")]
    for folder in folders:
        shutil.copytree(run.root, folder / "small", ignore=shutil.ignore_patterns("retraining"))
    command = [sys.executable, "-m", "pipelines.cli", *words(folders[0])]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kept = folders[0] / "small" / "retraining"
    while len(list(kept.rglob("*-seed-*.json"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {k: v for k, v in states(folders[0]).items() if k.endswith(".json")}
    found = numbers(folders[0])
    after = states(folders[0])
    trained = [k for k in before if "-seed-" in k and "/." not in k]
    assert 3 <= len(trained) < 12
    assert {k: after[k] for k in trained} == {k: before[k] for k in trained}
    assert found == numbers(folders[1])


def test_known_answers_on_the_tiny_run(evaluated):
    measures = {m["name"]: m for m in evaluated["measures"]}
    facts = {row["method"]: row for row in measures["facts"]["rows"]}
    assert facts["bm25"]["mean"] > facts["random"]["mean"]
    assert facts["ekfac"]["n"] == 1  # one query names its documents
    weights = {row["method"]: row["mean"] for row in measures["sanity-weights"]["rows"]}
    labels = measures["sanity-labels"]["rows"][0]["mean"]
    assert weights["ekfac"] < labels < 1 - 1e-6  # two draws differ, two models more
    assert measures["lds"]["reference"]["name"] == "ceiling"
    assert {row["method"] for row in measures["corruption"]["rows"]} == {"self-influence", "loss"}


def test_corruption_is_the_auroc_of_flagged_documents_within_their_sources(run, evaluated):
    stored = open_traced(run).store.metadata()
    value_N = stored.column("self_influence").to_numpy()
    source_N = np.array(stored.column("source").to_pylist())
    bad_N = np.arange(40) % 7 == 0
    alike_N = np.isin(source_N, source_N[bad_N])
    pairs = [(a, b) for a in value_N[bad_N] for b in value_N[alike_N & ~bad_N]]
    expected = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    [measure] = [m for m in evaluated["measures"] if m["name"] == "corruption"]
    [found] = [row for row in measure["rows"] if row["method"] == "self-influence"]
    assert found["mean"] == pytest.approx(expected)
    assert found["n"] == bad_N.sum()


def test_queries_are_the_ends_of_documents_where_nobody_names_any(run):
    found = evaluation_queries(run, 10)
    assert 5 <= len(found) <= 10
    texts = document_texts(run)
    for query in found:
        assert (query.prompt + query.completion) in texts
    assert [q.id for q in evaluation_queries(run, 10)] == [q.id for q in found]


def test_scores_take_longer_the_more_states_lengths_and_curvatures_they_need(run, monkeypatch):
    measured = functools.cache(lambda: estimate(*asked))
    asked = [run.config, layers_of(run.model), 40, 2000, 2]  # the machine's speed, measured once
    monkeypatch.setattr(evaluation, "estimate", lambda *_: measured())

    def seconds(*names):
        return seconds_of_scores(run, names)

    assert seconds("bm25", "random") == 0
    once = seconds("ekfac")  # its curvature is there
    assert once > 0
    assert seconds("ekfac-cosine") == pytest.approx(2 * once)
    assert seconds("tracin") == pytest.approx(run.config.checkpoints * once)
    assert seconds("kfac") > once
    fits = seconds("kfac") - once
    assert seconds("ekfac-averaged") == pytest.approx(
        run.config.checkpoints * once + (run.config.checkpoints - 1) * fits
    )
    assert seconds("ekfac", "kfac") == pytest.approx(seconds("ekfac") + seconds("kfac"))


def test_measures_that_do_not_fit_are_left_out_and_said(run):
    chosen, said = fitting_measures(run, options(subsets=10**6), 1)
    assert "lds" not in chosen
    assert any("lds left out" in line for line in said)
    assert seconds_of(run, "facts", options()) == 0
    chosen, _ = fitting_measures(run, options(), 60)
    assert set(chosen) == set(MEASURES)


# -- bad input --------------------------------------------------------------------------------------


def test_an_unknown_measure_names_the_nearest():
    with pytest.raises(RunError, match="Did you mean 'brittleness'"):
        known_measures(["britleness"])


@pytest.mark.parametrize("amount", ["0", "100%", "many", "-3", "40"])
def test_an_impossible_number_of_removals_is_refused(run, amount):
    with here() as pool, pytest.raises(RunError, match=f"remove '{amount}'"):
        evaluate(run, ASKED, options("brittleness", remove=(amount,)), pool)


def test_nothing_to_measure_is_said(run):
    plain = Query(id="plain", prompt="The sky is", completion=" blue")
    with here() as pool, pytest.raises(RunError, match="none of facts can be taken"):
        evaluate(run, [plain], options("facts"), pool)


def test_methods_on_the_command_line_are_words_or_commas():
    words = ["evaluate", "demo", "lds", "--methods", "ekfac", "bm25", "--seeds", "1"]
    assert cli.joined_methods(words) == [*words[:4], "ekfac,bm25", "--seeds", "1"]
    assert cli.joined_methods(["--methods", "ekfac,", "kfac", "demo"]) == [
        *("--methods", "ekfac,kfac", "demo")
    ]
    assert cli.joined_methods(["trace", "demo"]) == ["trace", "demo"]
    assert cli.joined_methods(["x", "--methods"]) == ["x", "--methods"]


def test_the_command_prints_json_and_a_table(run, monkeypatch, capsys):
    folder = str(run.root.parent)
    command = ["evaluate", "small", "facts", "--runs", folder, "--workers", "0"]
    queries = run.root / "asked.jsonl"
    line = {"prompt": ASKED[0].prompt, "completion": ASKED[0].completion, "supports": ["d01"]}
    queries.write_text(json.dumps(line) + "\n", "utf-8")
    command += ["--queries", str(queries), "--methods", "bm25", "random"]
    monkeypatch.setattr("sys.argv", ["influence", *command, "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in result["methods"]] == ["bm25", "random"]
    monkeypatch.setattr("sys.argv", ["influence", *command])
    with pytest.raises(SystemExit):
        cli.main()
    assert "BM25" in capsys.readouterr().out


def test_an_unknown_method_ends_with_code_2(run, monkeypatch, capsys):
    command = ["evaluate", "small", "--runs", str(run.root.parent), "--methods", "ekfak"]
    monkeypatch.setattr("sys.argv", ["influence", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "ekfac" in capsys.readouterr().err
    with pytest.raises(InfluenceError):
        choose("ekfak")
