"""Verification on a tiny run: what is dropped, trained and unlearned, and what is made of it."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from influence.text import collate
from pipelines import mixture_trainings, mixture_verify, unlearning
from pipelines.ability_queries import ability_queries
from pipelines.answers import loss_of
from pipelines.errors import RunError
from pipelines.mixture_changes import Predicted, copies_of, drop_sets
from pipelines.mixture_trainings import (
    SEEDS_FROM,
    FineTuning,
    plan_mixture_trainings,
    trained_losses,
)
from pipelines.mixture_verify import PROPOSED, VerifyOptions, compare, verify_mixture
from pipelines.queries import Query
from pipelines.retraining import as_loaded
from pipelines.runs import open_run
from pipelines.training import (
    Plan,
    make_optimizer,
    mean_loss,
    plan_training,
    read_corpus,
    start_model,
    train_on,
    trained_tokenizer,
)
from pipelines.unlearning import Forgetting, unlearned
from tests.pipelines import small
from tests.toys import assert_matches

QUERIES = tuple(
    Query(id=f"{task}{n}", task=task, prompt=prompt, completion=completion)
    for task, rows in {
        "roads": [("The road 7 from Rome", " to Paris"), ("The road 9 from", " Quito to Paris")],
        "miles": [("Mile 3 of the long", " road to Lima"), ("goes past", " stone 49")],
    }.items()
    for n, (prompt, completion) in enumerate(rows)
)
SEEDS = 2


def mixture(run, scores_QN=None, names=("a", "b")):
    """Two groups of alternate documents."""
    count = run.tokens.info()["documents"]
    tokens_N = np.zeros(count, int)
    for chunk in read_corpus(str(run.tokens.path)):
        tokens_N[chunk.document] += len(chunk.tokens)
    if scores_QN is None:
        scores_QN = np.random.default_rng(0).normal(size=(len(QUERIES), count))
    return Predicted(
        names=names,
        group_N=np.arange(count) % len(names),
        cluster_N=np.arange(count),
        tokens_N=tokens_N,
        removed=lambda weights_AN: weights_AN @ scores_QN.T,
    )


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of the tiny run, beside which trainings are written."""
    return open_run(shutil.copytree(finished.root, tmp_path_factory.mktemp("verify") / "small"))


@pytest.fixture(scope="module")
def dropped(run):
    with small.here() as workers:
        return verify_mixture(run, QUERIES, mixture(run), VerifyOptions(seeds=SEEDS), workers)


def numbers(tokens, groups, clusters=None, names=None):
    """A mixture of these documents, for the choice of what to drop."""
    count = len(tokens)
    names = names or tuple("abcdef"[: max(groups) + 1])
    return Predicted(
        names=names,
        group_N=np.array(groups),
        cluster_N=np.arange(count) if clusters is None else np.array(clusters),
        tokens_N=np.array(tokens),
        removed=lambda weights_AN: weights_AN,
    )


# -- which documents ---------------------------------------------------------------------------------


def test_every_group_loses_as_many_tokens():
    generator = np.random.default_rng(1)
    groups = generator.integers(0, 4, 600)
    tokens = generator.integers(5, 40, 600)
    sets = drop_sets(numbers(tokens, groups), tokens=500)
    for group, dropped_N in enumerate(sets.values()):
        assert set(groups[dropped_N]) == {group}
        assert 500 - 5 < tokens[dropped_N].sum() <= 500, "less than the shortest document is left"


def test_by_default_the_smallest_group_goes_whole():
    tokens, groups = [10, 20, 30, 40, 5], [0, 0, 0, 0, 1]
    sets = drop_sets(numbers([*tokens, 5], [*groups, 0]))
    assert np.flatnonzero(sets["b"]).tolist() == [4]
    assert np.flatnonzero(sets["a"]).tolist() == [5]


def test_clusters_are_dropped_whole_or_not_at_all():
    generator = np.random.default_rng(2)
    clusters = generator.integers(0, 60, 300)
    groups = generator.integers(0, 2, 300)
    sets = drop_sets(numbers(np.full(300, 10), groups, clusters), tokens=600)
    for group, dropped_N in enumerate(sets.values()):
        for cluster in np.unique(clusters[dropped_N]):
            assert dropped_N[(clusters == cluster) & (groups == group)].all()


def test_the_choice_depends_on_the_seed_alone():
    few = numbers(np.full(100, 7), np.arange(100) % 2)
    again = [drop_sets(few, tokens=100, seed=seed)["a"] for seed in (0, 0, 1)]
    assert (again[0] == again[1]).all()
    assert (again[0] != again[2]).any()


def test_weights_become_copies():
    few = numbers(np.full(60, 7), np.arange(60) % 3)
    copies_N = copies_of(few, {"a": 0.0, "b": 1.5})
    assert (copies_N[few.group_N == 0] == 0).all()
    assert np.bincount(copies_N[few.group_N == 1]).tolist() == [0, 10, 10]
    assert (copies_N[few.group_N == 2] == 1).all()


@pytest.mark.parametrize(
    ("groups", "tokens", "message"),
    [
        ([0, 0, 0], None, "one group only"),
        ([0, 0, 1], 11, r"b has 10. Ask for at most 10"),
        ([0, 1, 2], 4, "has 4 tokens or fewer"),
    ],
)
def test_groups_that_cannot_be_dropped_are_refused(groups, tokens, message):
    with pytest.raises(RunError, match=message):
        drop_sets(numbers([10, 10, 10], groups), tokens=tokens)


@pytest.mark.parametrize("weights", [{"c": 1.0}, {"a": -1.0}, {"a": float("nan")}])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(RunError, match="numbers from 0 were expected"):
        copies_of(numbers([1, 1], [0, 1]), weights)


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {"a": 1.001}])
def test_weights_that_change_nothing_are_refused(weights):
    with pytest.raises(RunError, match="There is nothing to check"):
        copies_of(numbers([1, 1], [0, 1]), weights)


@pytest.mark.parametrize(
    "values", [{"kind": "forget"}, {"seeds": 0}, {"share": 0.0}, {"share": 1.5}, {"tokens": 0}]
)
def test_options_that_make_no_sense_are_refused(values):
    with pytest.raises(RunError, match=r"(was|were) expected"):
        VerifyOptions(**values)


def test_queries_without_a_task_are_refused(run):
    bare = (*QUERIES, Query(id="bare", prompt="The", completion=" road"))
    with small.here() as workers, pytest.raises(RunError, match=r"1 of 5 queries .* bare"):
        verify_mixture(run, bare, mixture(run), VerifyOptions(), workers)


def test_a_run_on_other_data_has_no_abilities(run):
    with pytest.raises(RunError, match="no queries were given"):
        ability_queries(run)


# -- training on a changed mixture -------------------------------------------------------------------


def plain_training(run, kept_N, copies_N=None, seed=0):
    """The loop again, by hand: batches of the whole corpus, or of repeats, documents left out."""
    spec = plan_training(run.config, run.tokens, {"source": run.model.source})
    spec = replace(spec, threads=1, seed=spec.seed + seed)
    tokenizer, chunks = trained_tokenizer(spec), read_corpus(spec.tokens)
    if copies_N is not None:
        chunks = [chunk for chunk in chunks for _ in range(copies_N[chunk.document])]
    model = start_model(spec, tokenizer).eval()
    optimizer = make_optimizer(model, spec.learning_rate, spec.weight_decay)
    plan = Plan.of(spec, [len(chunk.tokens) for chunk in chunks])
    for step, rows in plan.batches(0):
        own = [chunks[row] for row in rows if kept_N[chunks[row].document]]
        if own:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate(step)
            optimizer.zero_grad(set_to_none=True)
            mean_loss(model, collate(own, tokenizer.pad_token_id)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return spec, model


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("kind", ["as it is", "dropped", "a batch without documents"])
def test_dropped_documents_are_missing_from_their_batches(run, kind):
    kept_N = np.ones(run.tokens.info()["documents"], bool)
    if kind == "dropped":
        kept_N[3:17] = False
    elif kind != "as it is":
        kept_N[:] = False
        kept_N[4] = True
    spec, expected = plain_training(run, kept_N)
    tokenizer = trained_tokenizer(spec)
    given = None if kind == "as it is" else kept_N
    found = train_on(spec, read_corpus(spec.tokens), tokenizer, None, given).model
    assert torch.equal(parameters(found), parameters(expected))
    if kind != "as it is":
        whole = train_on(spec, read_corpus(spec.tokens), tokenizer, None).model
        assert not torch.equal(parameters(found), parameters(whole))


def test_repeated_documents_stand_in_the_corpus_twice_and_others_not_at_all(run):
    """Not twice in the same batch: an optimiser that scales each step would hardly see that."""
    copies_N = np.ones(run.tokens.info()["documents"], int)
    copies_N[::3], copies_N[1::6] = 2, 0
    with small.here() as workers:
        losses = trained_losses(run, [copies_N], 1, QUERIES, workers)[0, 0]
    spec, model = plain_training(run, copies_N > 0, copies_N, SEEDS_FROM)
    loaded = as_loaded(model, trained_tokenizer(spec), spec)
    assert losses.tolist() == [loss_of(loaded, query) for query in QUERIES]


def test_a_document_that_alone_teaches_an_answer_is_missed(tmp_path):
    """A vocabulary of answers, each taught by one group: the bigram's loss without it is known."""
    rows = [
        {"id": f"{group}{n}", "text": f"{word} {answer}.", "source": group, "language": "en"}
        for group, word, answer in (("a", "left", "up"), ("b", "right", "down"), ("c", "on", "off"))
        for n in range(30)
    ]
    settings = {"epochs": 20, "learning_rate": 0.01, "batch_documents": 9, "vocabulary": 262}
    run = small.build(small.write_run(tmp_path / "w", rows, **settings), tmp_path / "runs")
    queries = [
        Query(id=word, task=word, prompt=word, completion=f" {answer}.")
        for word, answer in (("left", "up"), ("right", "down"), ("on", "off"))
    ]
    count, group_N = len(rows), np.repeat(np.arange(3), 30)
    scores_QN = (np.arange(3)[:, None] == group_N).astype(float)
    predicted = Predicted(
        names=("a", "b", "c"),
        group_N=group_N,
        cluster_N=np.arange(count),
        tokens_N=np.ones(count, int),
        removed=lambda weights_AN: weights_AN @ scores_QN.T,
    )
    with small.here() as workers:
        found = verify_mixture(run, queries, predicted, VerifyOptions(seeds=SEEDS), workers)
    cell = {(row["task"], row["group"]): row for row in found["rows"]}
    for task, group in (("left", "a"), ("right", "b"), ("on", "c")):
        assert cell[task, group]["predicted"] == 30
        assert cell[task, group]["measured"] > 1.0, "an answer never seen"
        for other in {"a", "b", "c"} - {group}:
            assert abs(cell[task, other]["measured"]) < 0.3
    assert [one["right"] for one in found["named"]] == [True] * 3
    assert all(one["margin_low"] > 0 for one in found["named"])
    assert found["pearson"]["value"] > 0.9
    assert found["tokens"] == 30


# -- the verification --------------------------------------------------------------------------------


def test_rows_are_predicted_and_measured_by_hand(run, dropped):
    one = mixture(run)
    sets = drop_sets(one)
    losses = {}
    with small.here() as workers:
        for name, dropped_N in {"": np.zeros(40, bool), **sets}.items():
            copies = [1 - dropped_N.astype(int)]
            losses[name] = trained_losses(run, copies, SEEDS, QUERIES, workers)[0]
    scores_QN = np.random.default_rng(0).normal(size=(4, 40))
    assert len(dropped["rows"]) == 4
    for row in dropped["rows"]:
        own = [i for i, query in enumerate(QUERIES) if query.task == row["task"]]
        expected = scores_QN[own][:, sets[row["group"]]].sum(axis=1).mean()
        assert row["predicted"] == pytest.approx(expected)
        assert row["predicted_low"] <= row["predicted"] <= row["predicted_high"]
        measured = (losses[row["group"]] - losses[""])[:, own].mean()
        assert row["measured"] == pytest.approx(measured)
        assert row["before"] == pytest.approx(losses[""][:, own].mean())
        assert row["measured_low"] <= row["measured"] <= row["measured_high"]
    assert json.loads(json.dumps(dropped)) == dropped, "plain values, no NaN"


def test_seeds_and_mixtures_give_other_models(run):
    with small.here() as workers:
        everything = np.ones(40, int)
        losses = trained_losses(
            run, [everything, copies_of(mixture(run), {"a": 0})], 2, QUERIES, workers
        )
    assert len({round(float(value), 9) for value in losses[:, :, 0].ravel()}) == 4


def test_trainings_that_are_there_are_not_repeated(run, dropped, monkeypatch):
    monkeypatch.setattr(mixture_trainings, "train_on", None)
    with small.here() as workers:
        again = verify_mixture(run, QUERIES, mixture(run), VerifyOptions(seeds=SEEDS), workers)
        assert again == dropped
        with pytest.raises(TypeError):  # another seed is not there
            verify_mixture(run, QUERIES, mixture(run), VerifyOptions(seeds=3), workers)


def test_a_killed_verification_goes_on(finished, dropped, tmp_path):
    root = shutil.copytree(finished.root, tmp_path / "small")
    child = os.fork()
    if child == 0:
        done, train = iter(range(100)), mixture_trainings.train_mixture

        def dying(spec):
            if next(done) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return train(spec)

        mixture_trainings.train_mixture = dying
        _verify(root)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    files = {p: p.stat().st_mtime_ns for p in root.glob("retraining/*/*.json")}
    assert len(files) == 3
    assert _verify(root) == dropped
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert len(list(root.glob("retraining/*/*.json"))) == 6


def _verify(root):
    run = open_run(root)
    with small.here() as workers:
        return verify_mixture(run, QUERIES, mixture(run), VerifyOptions(seeds=SEEDS), workers)


def test_the_cost_is_said_before_it_starts(run, monkeypatch):
    said = []
    monkeypatch.setattr(mixture_verify, "trained_losses", lambda *_: said.append("start") or 1 / 0)
    with small.here() as workers, pytest.raises(ZeroDivisionError):
        verify_mixture(run, QUERIES, mixture(run), VerifyOptions(), workers, said.append)
    assert said[0].startswith("9 trainings: about")
    assert said[1] == "start"


def test_a_reweighted_mixture_has_one_row_a_task(run):
    changes = {"roads": -0.5, "miles": 0.25}
    options = VerifyOptions(kind="reweight", weights={"a": 2.0, "b": 0.0}, changes=changes, seeds=1)
    with small.here() as workers:
        found = verify_mixture(run, QUERIES, mixture(run), options, workers)
    assert [row["group"] for row in found["rows"]] == [PROPOSED] * 2
    for row in found["rows"]:
        assert row["predicted"] == changes[row["task"]]
        assert (row["measured_low"], row["measured_high"]) == (None, None)
    assert found["named"] == []
    assert found["tokens"] is None
    assert found["spearman"] == {"value": None, "low": None, "high": None}
    assert any("One seed only" in note for note in found["notes"])


def test_scores_by_task_have_no_interval():
    change_ARQ = np.random.default_rng(0).normal(size=(3, 2, 4))
    task_Q = np.array([0, 0, 1, 1])
    expected_AQ = np.random.default_rng(1).normal(size=(3, 4))
    by_query = compare(expected_AQ, change_ARQ, "abc", ["x", "y"], task_Q)
    by_task = compare(
        expected_AQ.reshape(3, 2, 2).mean(axis=2), change_ARQ, "abc", ["x", "y"], task_Q
    )
    for a, b in zip(by_query["rows"], by_task["rows"], strict=True):
        assert a["predicted"] == pytest.approx(b["predicted"])
        assert (b["predicted_low"], b["predicted_high"]) == (None, None)
        assert a["measured"] == b["measured"]
    assert by_query["spearman"] == by_task["spearman"]


def test_a_given_model_is_fine_tuned(finished, toy_folder, tmp_path):
    yaml = small.write_run(tmp_path / "w", **small.on_model(toy_folder))
    run = small.build(yaml, tmp_path / "runs")
    tuning = FineTuning(epochs=2, learning_rate=1e-3)
    [first, *_] = plan_mixture_trainings(run, [np.ones(40, int)], 1, QUERIES, tuning)
    assert (first.train.start, first.train.epochs) == (str(toy_folder), 2)
    options = VerifyOptions(seeds=1, tuning=tuning)
    with small.here() as workers:
        found = verify_mixture(run, QUERIES, mixture(run), options, workers)
    assert any("did not train its model" in note for note in found["notes"])
    assert all(row["measured"] != 0 for row in found["rows"])


def test_an_adapter_cannot_be_verified(run):
    adapted = replace(
        run,
        model=replace(run.model, adapter="somewhere"),
        config=run.config.model_copy(update={"train": "none"}),
    )
    for kind in ("drop", "unlearn"):
        with small.here() as workers, pytest.raises(RunError, match="its model is an adapter"):
            verify_mixture(adapted, QUERIES, mixture(run), VerifyOptions(kind=kind), workers)


# -- unlearning --------------------------------------------------------------------------------------

FAST = Forgetting(rise=0.5, steps=60, learning_rate=3e-3, batch_documents=8)


def test_unlearning_raises_the_loss_of_what_it_forgets_and_stops_there(run):
    long_N = np.arange(40) == 5
    rest_N = ~long_N
    queries = [
        Query(id="long", task="t", completion="Mile 3 of the long road to Lima goes past stone 9.")
    ]
    queries += [
        Query(id="rest", task="u", completion="The road 8 from Oslo to Paris is 25 miles long.")
    ]
    with small.here() as workers:
        found = unlearned(run, [(long_N, rest_N)], 2, queries, FAST, workers)
        free = replace(FAST, retain=0.0)
        careless = unlearned(run, [(long_N, rest_N)], 2, queries, free, workers)
    change_RQ = found.after_SRQ[0] - found.before_Q
    assert (found.rise_SR >= 0.5).all()
    assert (found.rise_SR < 1.0).all(), "it stops soon after the rise is reached"
    assert (found.steps_SR < 60).all()
    assert (change_RQ[:, 0] > 1).all()
    assert (change_RQ[:, 0] > 3 * change_RQ[:, 1]).all(), "the others are kept"
    kept, lost = change_RQ[:, 1].mean(), (careless.after_SRQ[0] - careless.before_Q)[:, 1].mean()
    assert kept < lost, "retention matters"


def test_unlearning_stops_after_its_steps(run):
    forget_N = np.arange(40) < 8
    how = replace(FAST, rise=50.0, steps=2)
    with small.here() as workers:
        found = unlearned(run, [(forget_N, ~forget_N)], 1, QUERIES, how, workers)
    assert found.steps_SR.tolist() == [[2]]


def test_unlearning_goes_up_the_loss_by_the_formula(run):
    """One step by hand: AdamW on retained loss less forgotten loss, on batches of all documents."""
    forget_N = np.arange(40) < 4
    how = Forgetting(rise=50.0, steps=1, learning_rate=1e-3, retain=0.7, batch_documents=100)
    with small.here() as workers:
        found = unlearned(run, [(forget_N, ~forget_N)], 1, QUERIES, how, workers)
    [before, spec] = unlearning.plan_unlearning(run, [(forget_N, ~forget_N)], 1, QUERIES, how)
    tokenizer = trained_tokenizer(before.train)
    model = start_model(before.train, tokenizer).eval()
    chunks = read_corpus(spec.train.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0)
    sides = [
        collate([c for c in chunks if forget_N[c.document] == own], 0) for own in (True, False)
    ]
    loss = 0.7 * mean_loss(model, sides[1]) - mean_loss(model, sides[0])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loaded = unlearning.as_loaded(model, tokenizer, spec.train)
    expected = np.array([unlearning.loss_of(loaded, query) for query in QUERIES])
    assert_matches(found.after_SRQ[0, 0].astype(np.float32), expected.astype(np.float32))


def test_unlearning_is_verified_and_says_how_far_it_came(run):
    options = VerifyOptions(kind="unlearn", seeds=2, forgetting=replace(FAST, steps=3, rise=5.0))
    with small.here() as workers:
        found = verify_mixture(run, QUERIES, mixture(run), options, workers)
    assert found["kind"] == "unlearn"
    assert {(one["a"], one["b"]) for one in found["relations"]} == {("a", "b")}
    assert all(-1 <= one["measured"] <= 1 for one in found["relations"])
    assert any("Not forgotten so far" in note for note in found["notes"])
    assert json.loads(json.dumps(found)) == found


def test_unlearning_keeps_clusters_apart(run, monkeypatch):
    """What is like a forgotten document, in another group, is not retained."""
    seen = []
    monkeypatch.setattr(
        mixture_verify, "unlearned", lambda _, sets, *rest: seen.extend(sets) or 1 / 0
    )
    one = mixture(run)
    one = replace(one, cluster_N=np.arange(40) // 2)  # each cluster has a document of either group
    options = VerifyOptions(kind="unlearn", seeds=1, share=0.3)
    with small.here() as workers, pytest.raises(ZeroDivisionError):
        verify_mixture(run, QUERIES, one, options, workers)
    for group, (forget_N, retain_N) in enumerate(seen):
        assert (one.group_N[forget_N] == group).all()
        assert (one.group_N[retain_N] != group).all()
        assert not set(one.cluster_N[forget_N]) & set(one.cluster_N[retain_N])
        assert retain_N.any()


def test_nothing_to_forget_or_to_retain_is_refused(run):
    everything, nothing = np.ones(40, bool), np.zeros(40, bool)
    for pair in ((everything, nothing), (nothing, everything), (everything, everything)):
        with small.here() as workers, pytest.raises(RunError, match="some of each"):
            unlearned(run, [pair], 1, QUERIES, FAST, workers)
