"""Forms of a store: what is compared, what is picked, and whether the store then is what was promised."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradients_store
from influence.documents import sketch
from influence.documents.fidelity import recall
from influence.documents.gradients import per_document_gradients
from influence.documents.preconditioner import inverse_root, retained_variance
from influence.text import collate
from pipelines import form_candidates, store_check, store_forms
from pipelines.config import RunConfig, validate
from pipelines.errors import RunError
from pipelines.form_candidates import Candidate, allocated, compared
from pipelines.form_sample import FACTOR_DTYPES, FormSpec, rounded, sample_forms
from pipelines.gradient_files import StoredForm, load_form, save_form
from pipelines.gradients import fitted, plan_shards
from pipelines.run_folder import Stage
from pipelines.runs import open_run, open_traced
from pipelines.store_forms import pick, simple_form
from pipelines.store_sample import choose_documents, sample_gradients
from pipelines.tokens import read_chunks, shard_path
from pipelines.worker import language_model, layers_of
from tests.pipelines.small import QUERIES, build, here, rows_by_id, states, traces

SHAPES = {"b": (6, 5), "a": (4, 9)}


def candidates_of(run):
    """The comparison that a run made, or None."""
    found = sorted((run.root / "forms").glob("*/sealed.json"))
    assert len(found) <= 1
    if not found:
        return None
    return Stage("forms", found[0].parent.name, run.root).info()


def bytes_of_rows(run):
    """Bytes that the vector and its scales take in the store's files, for each row."""
    store = open_traced(run).store
    names = ("vector", "scale", "factor_scale")
    taken = 0
    for _, table in store.tables(store.header.vector_columns):
        for name in names:
            if name in table.column_names:
                taken += sum(chunk.nbytes for chunk in table.column(name).chunks)
    return taken / len(store)


# -- the choice of ranks ---------------------------------------------------------------------------


def cost_of(ranks, shapes, bits):
    return 4 + sum(
        rank * (sum(shape) * bits / 8 + 4) for rank, shape in zip(ranks, shapes, strict=True)
    )


def gains(seed, layers=3, ranks=3):
    draw = np.random.default_rng(seed)
    return -np.sort(-draw.exponential(size=(layers, ranks)), axis=1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_pairs_fit_the_budget_and_are_next_to_the_best_choice(seed, bits):
    shapes = {"a": (5, 3), "b": (2, 9), "c": (8, 8)}
    gain_LR = gains(seed)
    most = [min(3, *shape) for shape in shapes.values()]
    every = list(itertools.product(*(range(m + 1) for m in most)))
    explained = {r: sum(gain_LR[i, :n].sum() for i, n in enumerate(r)) for r in every}
    for budget in range(4, 120, 3):
        ranks = tuple(allocated(gain_LR, shapes, bits, budget))
        assert cost_of(ranks, shapes.values(), bits) <= budget
        form = StoredForm(
            sketch=sketch.low_rank_factors(shapes, dict(zip(shapes, ranks, strict=True)), 0),
            dtype={2: "int2", 4: "int4", 8: "int8"}[bits],
        )
        assert form.bytes <= budget
        fitting = [r for r in every if cost_of(r, shapes.values(), bits) <= budget]
        best = max(explained[r] for r in fitting)
        # greedy: what it misses is worth less than one more pair of those it would have taken next
        dearest = max(cost_of([1], [shape], bits) - 4 for shape in shapes.values())
        wider = [r for r in every if cost_of(r, shapes.values(), bits) <= budget - dearest]
        bound = max((explained[r] for r in wider), default=0.0)
        assert best + 1e-12 >= explained[ranks] >= bound - 1e-12
        # no pair of any layer would still fit
        for i, rank in enumerate(ranks):
            more = [*ranks[:i], rank + 1, *ranks[i + 1 :]]
            assert rank == most[i] or cost_of(more, shapes.values(), bits) > budget


def test_a_pair_of_equal_cost_goes_to_the_layer_that_it_explains_more_of():
    shapes = {"a": (4, 4), "b": (4, 4)}
    gain_LR = np.array([[5.0, 1.0, 0.5], [3.0, 2.0, 0.1]])
    assert allocated(gain_LR, shapes, 8, 4 + 12) == [1, 0]
    assert allocated(gain_LR, shapes, 8, 4 + 24) == [1, 1]
    assert allocated(gain_LR, shapes, 8, 4 + 36) == [1, 2]
    assert allocated(gain_LR, shapes, 8, 4 + 48) == [2, 2]
    assert allocated(gain_LR, shapes, 8, 15) == [0, 0]


# -- the pick --------------------------------------------------------------------------------------


def candidate(size, spearman, kind="factors"):
    return Candidate(
        kind=kind, dtype="int4", numbers=size, bytes=size, detail={}, spearman=spearman
    )


CANDIDATES = [candidate(100, 0.5), candidate(200, 0.8), candidate(200, 0.7), candidate(400, 0.75)]


@pytest.mark.parametrize(
    ("wanted", "budget", "size", "spearman"),
    [
        (None, 1000, 200, 0.8),
        (None, 199, 100, 0.5),
        (None, 50, 100, 0.5),  # none fits: the smallest
        (0.45, 50, 100, 0.5),
        (0.6, 50, 200, 0.8),
        (0.8, 50, 200, 0.8),
        (0.9, 50, 200, 0.8),  # none reaches it: the most faithful
    ],
)
def test_the_most_faithful_that_fits_or_the_smallest_that_is_faithful(
    wanted, budget, size, spearman
):
    config = RunConfig(name="x", train="scratch", store_fidelity=wanted)
    found = pick(CANDIDATES, config, budget)
    assert (found.bytes, found.spearman) == (size, spearman)


# -- files -----------------------------------------------------------------------------------------


def forms():
    kept = sketch.Sketch(
        kind="top-eigen",
        shapes=SHAPES,
        coordinates={"b": torch.tensor([0, 7]), "a": torch.tensor([3], dtype=torch.int64)},
    )
    return [
        StoredForm(sketch=sketch.full(SHAPES), dtype="float16"),
        StoredForm(sketch=kept, dtype="int8"),
        StoredForm(sketch=sketch.random_projection(SHAPES, 3, 7), dtype="int4"),
        StoredForm(sketch=sketch.random_projection(SHAPES, 3, 7, separable=True), dtype="int8"),
        StoredForm(sketch=sketch.low_rank_factors(SHAPES, {"b": 2, "a": 0}, 5, True), dtype="int2"),
        StoredForm(sketch=sketch.low_rank_factors(SHAPES, {"b": 9, "a": 1}, 0), dtype="int8"),
    ]


@pytest.mark.parametrize("form", forms(), ids=lambda form: f"{form.sketch.kind}-{form.dtype}")
def test_a_written_form_is_read_back(tmp_path, form):
    save_form(tmp_path / "a.safetensors", form)
    save_form(tmp_path / "b.safetensors", form)
    found = load_form(str(tmp_path / "a.safetensors"))
    assert found.dtype == form.dtype
    assert found.bytes == form.bytes
    assert list(found.sketch.shapes.items()) == list(form.sketch.shapes.items())
    for part in ("kind", "side", "seed", "separable", "dimension"):
        assert getattr(found.sketch, part) == getattr(form.sketch, part)
    assert dict(found.sketch.ranks) == dict(form.sketch.ranks)
    assert found.sketch.fingerprint() == form.sketch.fingerprint()
    for name, kept in form.sketch.coordinates.items():
        assert torch.equal(found.sketch.coordinates[name], kept)
    a, b = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_fingerprints_of_forms_differ_and_old_ones_stay():
    found = {form.sketch.fingerprint() for form in forms()}
    assert len(found) == len(forms())
    # of release 0.1.0, whose stores name these
    assert sketch.full(SHAPES).fingerprint() == "86822cd6b4969434cbd573c6c80ee5f8"
    assert (
        sketch.random_projection(SHAPES, 3, 7).fingerprint() == "6910c3a5f1ea80a1a8a535bbb9129262"
    )


def written_as_before(path, kept):
    """A sketch's file as release 0.1.0 wrote it."""
    about = {"kind": kept.kind, "side": kept.side, "seed": kept.seed}
    shapes = [[name, *shape] for name, shape in kept.shapes.items()]
    metadata = {"sketch": json.dumps({**about, "shapes": shapes})}
    save_file({"": torch.zeros(0), **kept.coordinates}, path, metadata=metadata)


@pytest.mark.parametrize("form", forms()[:3], ids=lambda form: form.sketch.kind)
def test_a_sketch_of_an_older_release_is_read_as_int8(tmp_path, form):
    written_as_before(tmp_path / "old.safetensors", form.sketch)
    found = load_form(str(tmp_path / "old.safetensors"))
    assert found.dtype == "int8"
    assert found.sketch.fingerprint() == form.sketch.fingerprint()
    assert not found.sketch.separable


def test_an_older_run_is_opened_traced_and_not_made_again(written, finished, copied):
    """Its sketch names no number format, and its settings none of the newer keys."""
    import yaml

    path = copied / "gradients" / finished.gradients.key / "sketch.safetensors"
    written_as_before(path, load_form(str(path)).sketch)
    seal = json.loads((path.parent / "sealed.json").read_text())
    content = yaml.safe_load((copied / "run.yaml").read_text())
    newer = ("store_bytes", "store_fidelity", "store_dtype")
    content["settings"] = {k: v for k, v in content["settings"].items() if k not in newer}
    content["settings"]["store_dtype"] = "int8"
    (copied / "run.yaml").write_text(yaml.safe_dump(content))
    load_form.cache_clear()
    run = open_run(copied)
    assert open_traced(run).store.header.dtype == "int8"
    for found, expected in zip(traces(run), traces(finished), strict=True):
        assert found["proponents"] == expected["proponents"]
    before = states(copied / "gradients")
    assert (
        build(written, copied.parent).gradients.key == run.gradients.key == finished.gradients.key
    )
    assert states(copied / "gradients") == before
    assert seal == json.loads((path.parent / "sealed.json").read_text())
    load_form.cache_clear()


# -- whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_influence", ["exact", "estimated"])
@pytest.mark.parametrize("dtype", [None, "int8", "int4", "int2"])
def test_a_store_of_factors_finds_the_documents(written, copied, dtype, self_influence):
    run = build(
        written,
        copied.parent,
        store="factors",
        store_bytes=1500,
        store_dtype=dtype,
        self_influence=self_influence,
    )
    store = open_traced(run).store
    assert store.header.sketch == "factors"
    assert store.header.dtype in FACTOR_DTYPES
    assert dtype in (None, store.header.dtype)
    assert bytes_of_rows(run) <= 1500
    info = candidates_of(run)
    assert {c["kind"] for c in info["candidates"]} == {"factors"}
    assert {c["dtype"] for c in info["candidates"]} == ({dtype} if dtype else set(FACTOR_DTYPES))
    chosen = info["chosen"]
    assert chosen["bytes"] <= 1500
    assert chosen["numbers"] == store.header.dimension
    # 40 documents, all of them in both samples, and the same queries: what differs is the number of
    # probes (12 ranks and 4 more against the chosen ranks and 4 more) and the rounding of scales
    measured = run.gradients.info()["fidelity"]
    assert measured["documents"] == info["documents"] == 40
    assert measured["queries"] == info["queries"]
    assert measured["spearman"] == pytest.approx(chosen["spearman"], abs=0.05)
    assert measured["pearson"] == pytest.approx(chosen["pearson"], abs=0.03)
    least = {"int2": 0.6}.get(store.header.dtype, 0.8)
    assert measured["spearman"] > least
    exact, searched = traces(run, exact=True), traces(run, candidates=12)
    for a, b in zip(exact, searched, strict=True):
        best = [row["id"] for row in a["proponents"][:3]]
        assert b["proponents"][0]["id"] == best[0]
        assert set(best[:3]) <= {row["id"] for row in b["proponents"]}
        theirs = rows_by_id(a)
        for row in b["proponents"]:  # candidates are scored exactly
            assert row["score"] == pytest.approx(theirs[row["id"]]["score"], rel=1e-4)


@pytest.fixture(scope="module")
def small_store(written, tmp_path_factory):
    """The tiny run with 700 bytes a document; read only."""
    return build(written, tmp_path_factory.mktemp("forms"), store_bytes=700)


def test_few_bytes_make_auto_choose_within_them(small_store):
    info = candidates_of(small_store)
    assert "700 bytes" in info["wanted"]
    assert bytes_of_rows(small_store) <= 700
    assert info["chosen"]["bytes"] == pytest.approx(bytes_of_rows(small_store), abs=4)
    fitting = [c for c in info["candidates"] if c["bytes"] <= 700]
    assert info["chosen"]["spearman"] == max(c["spearman"] for c in fitting)
    assert {c["kind"] for c in info["candidates"]} == {"factors", "top-eigen", "random", "full"}
    assert {c["dtype"] for c in info["candidates"] if c["kind"] == "factors"} == set(FACTOR_DTYPES)
    sizes = [c["bytes"] for c in info["candidates"]]
    assert sizes == sorted(sizes)


def test_whole_rows_are_a_candidate_that_ranks_perfectly(small_store):
    [whole] = [c for c in candidates_of(small_store)["candidates"] if c["kind"] == "full"]
    assert whole["spearman"] == pytest.approx(1.0, abs=1e-12)
    assert whole["pearson"] == pytest.approx(1.0, abs=1e-12)
    assert whole["recall"] == 1.0
    shapes = small_store.curvature.info()["shapes"].values()
    assert whole["numbers"] == sum(o * i for o, i in shapes)


def test_every_candidate_takes_the_bytes_that_its_form_says(small_store):
    shapes = {n: tuple(s) for n, s in small_store.curvature.info()["shapes"].items()}
    for c in candidates_of(small_store)["candidates"]:
        if c["kind"] == "factors":
            kept = sketch.low_rank_factors(shapes, c["detail"]["ranks"], 0)
            assert (kept.dimension, StoredForm(sketch=kept, dtype=c["dtype"]).bytes) == (
                c["numbers"],
                c["bytes"],
            )
        elif c["kind"] == "random":
            kept = sketch.random_projection(shapes, c["detail"]["side"], 0)
            assert (kept.dimension, kept.dimension + 4) == (c["numbers"], c["bytes"])
        assert -1 <= c["spearman"] <= 1
        assert 0 <= c["recall"] <= 1


def test_the_comparison_is_made_once(written, small_store, tmp_path, monkeypatch):
    import shutil

    root = shutil.copytree(small_store.root, tmp_path / "runs" / "small")
    before = states(root)

    def never(*_):
        raise AssertionError("compared again")

    monkeypatch.setattr(store_forms, "compared", never)
    build(written, root.parent, store_bytes=700)
    assert states(root) == before
    # an unfinished store goes on with the form that was chosen
    shutil.rmtree(root / "gradients")
    again = build(written, root.parent, store_bytes=700)
    assert again.gradients.key == small_store.gradients.key
    for changed in ({"store_bytes": 701}, {"store_bytes": 700, "self_influence": "estimated"}):
        with pytest.raises(AssertionError, match="compared again"):
            build(written, root.parent, **changed)


def test_a_comparison_that_was_not_sealed_is_made_again(written, small_store, tmp_path):
    import shutil

    root = shutil.copytree(small_store.root, tmp_path / "runs" / "small")
    [seal] = (root / "forms").glob("*/sealed.json")
    expected = json.loads(seal.read_text())
    seal.unlink()
    build(written, root.parent, store_bytes=700)
    assert json.loads(seal.read_text()) == expected


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.97])
def test_the_smallest_form_of_a_wanted_fidelity_is_taken(written, small_store, tmp_path, wanted):
    import shutil

    root = shutil.copytree(small_store.root, tmp_path / "runs" / "small")
    shutil.rmtree(root / "forms")
    run = build(written, root.parent, store_fidelity=wanted)
    info = candidates_of(run)
    chosen = info["chosen"]
    assert chosen["spearman"] >= wanted
    smaller = [c for c in info["candidates"] if c["bytes"] < chosen["bytes"]]
    assert all(c["spearman"] < wanted for c in smaller)
    assert run.gradients.info()["fidelity"]["spearman"] == pytest.approx(
        chosen["spearman"], abs=0.05
    )
    assert open_traced(run).store.header.dtype == chosen["dtype"]
    assert bytes_of_rows(run) == pytest.approx(chosen["bytes"], abs=4)


@pytest.mark.parametrize(
    "settings",
    [
        {"store": "factors", "store_bytes": 64, "store_dtype": "int8"},
        {"store_bytes": 700, "store_dtype": "float16"},
        {"store_bytes": 700, "store_dtype": "int4"},
        {"store": "factors", "curvature": "identity", "store_bytes": 700},
        {
            "store": "factors",
            "curvature": "identity",
            "store_bytes": 700,
            "self_influence": "estimated",
        },
        {"store": "random", "store_dtype": "int4", "self_influence": "estimated"},
        {"store": "full", "store_dtype": "int2"},
        {"store": "top-eigen", "store_bytes": 300, "store_dtype": "int4"},
        {"store": "top-eigen", "store_bytes": 300, "store_dtype": "float16"},
    ],
    ids=str,
)
def test_kinds_formats_and_bytes_that_are_asked_for_are_kept(written, copied, settings):
    run = build(written, copied.parent, **settings)
    header = open_traced(run).store.header
    assert header.dtype == settings.get("store_dtype", header.dtype)
    assert header.sketch == settings.get("store", header.sketch)
    if "store_bytes" in settings:
        assert 0.7 * settings["store_bytes"] <= bytes_of_rows(run) <= settings["store_bytes"]
    assert traces(run, QUERIES[:1])


@pytest.mark.parametrize("self_influence", ["exact", "estimated"])
def test_sampled_scores_are_those_of_each_documents_whole_gradient(finished, self_influence):
    """Also of the document that is several chunks, whose rows stand in one batch."""
    config = finished.config.model_copy(update={"self_influence": self_influence})
    stages = (finished.corpus, finished.tokens, finished.curvature, finished.model)
    run = fitted(config, *stages)
    model, layers = language_model(finished.model), layers_of(finished.model)
    variances = [retained_variance(run.curvature[n], config.damping) for n in run.shapes]
    strongest = torch.cat([v.flatten() for v in variances]).argsort(descending=True)

    def whitened(gradients_BOI):
        """``[B, P]``: all layers end to end, by the formula."""
        rows = []
        for name, gradient_BOI in gradients_BOI.items():
            layer = run.curvature[name]
            rotated = layer.out_basis_OO.T @ gradient_BOI @ layer.in_basis_II
            rows.append((rotated * inverse_root(layer, config.damping)).flatten(1))
        return torch.cat(rows, dim=1)

    lengths = gains = 0.0
    for spec in choose_documents(run.specs, 40):
        spec = replace(spec, queries=run.queries)
        query_QP = whitened(sample_gradients(spec))
        own_NP = torch.zeros(len(spec.rows), query_QP.shape[1])
        for chunk in read_chunks(shard_path(Path(spec.tokens), spec.shard)):
            batch = collate([chunk], model.pad_id)
            rows, _ = per_document_gradients(model.model, layers, batch)
            [row_P] = whitened(rows)
            own_NP[spec.rows.index(chunk.document)] += row_P
            lengths += float(row_P.square().sum())  # pairs are found chunk by chunk
        found = sample_forms(
            FormSpec(
                spec=spec,
                coordinates=(7, 90),
                sides=(),
                whole=True,
                seed=0,
                separable=self_influence == "estimated",
            )
        )
        exact_QN = (query_QP @ own_NP.T).numpy()
        bound = 1e-4 * np.abs(exact_QN).max()
        np.testing.assert_allclose(found.exact_QN, exact_QN, atol=bound)
        for size in (7, 90):
            kept = strongest[:size]
            kept_QN = (query_QP[:, kept] @ own_NP[:, kept].T).numpy()
            np.testing.assert_allclose(found.dense["top-eigen", size], kept_QN, atol=bound)
        # twelve pairs are nearly all of these small matrices
        factors_QN = found.factors["int8"].sum(axis=(0, 1))
        assert np.abs(factors_QN - exact_QN).max() < 0.05 * np.abs(exact_QN).max()
        gains += float(found.gain_LR.sum())
    if self_influence == "exact":
        assert 0.9 * lengths < gains < 1.001 * lengths


def test_an_estimate_changes_the_column_of_self_influence_alone(written, copied):
    stores = [
        open_traced(
            build(written, copied.parent, store="top-eigen", store_bytes=304, self_influence=how)
        ).store
        for how in ("exact", "estimated")
    ]
    names = ("self_influence", "loss", "gradient_norm", "scale")
    exact, estimated = (
        {n: np.concatenate([t.column(n).to_numpy() for _, t in store.tables(names)]) for n in names}
        for store in stores
    )
    for name in names[1:]:
        np.testing.assert_allclose(estimated[name], exact[name], rtol=1e-3)
    ratio = estimated["self_influence"] / exact["self_influence"]
    assert 0.5 < ratio.mean() < 2
    assert np.abs(ratio - 1).max() > 0.01


def test_a_small_sample_judges_the_store_as_the_whole_corpus_would(finished, monkeypatch):
    """Of every fourth document, of which a quarter of the top and of the candidates are taken."""
    monkeypatch.setattr(store_check, "SAMPLE_DOCUMENTS", 10)
    config = finished.config.model_copy(update={"top": 8, "candidates": 8})
    traced = open_traced(finished)
    asked = []

    def counted(stored_QN, exact_QN, top, candidates):
        asked.append((exact_QN.shape[1], top, candidates))
        return recall(stored_QN, exact_QN, top, candidates)

    monkeypatch.setattr(store_check, "recall", counted)
    stages = (finished.corpus, finished.tokens, finished.curvature, finished.model)
    specs = plan_shards(config, *stages, finished.gradients, traced.store.header)
    with here() as pool:
        quality = store_check.check_store(specs, finished.tokens, config, pool)
    assert asked == [(10, 2, 2)]
    assert quality["fidelity"]["documents"] == 10
    assert quality["fidelity"]["pearson"] > 0.999  # whole rows
    assert quality["recall"]["value"] == 1.0


def test_vectors_whose_shard_would_not_fit_into_memory_are_left_out(finished, monkeypatch):
    config = finished.config.model_copy(update={"store_bytes": 2000})
    run = fitted(config, finished.corpus, finished.tokens, finished.curvature, finished.model)
    budgets = [500, 2000]
    with here() as pool:
        every = compared(run, budgets, config, pool)
        largest = sorted(c.numbers for c in every)[len(every) // 2]
        gigabytes = largest * config.documents_per_shard * 4 / 1e9
        monkeypatch.setattr(form_candidates, "SHARD_GIGABYTES", gigabytes * (1 + 1e-9))
        held = compared(run, budgets, config, pool)
    assert held == [c for c in every if c.numbers <= largest]
    assert len(held) < len(every)
    whole = RunConfig(**{**config.model_dump(), "store_bytes": None})
    assert simple_form(whole, run.curvature, run.shapes, 10**9) is None


def test_factors_in_floats_are_refused():
    with pytest.raises(RunError, match=r"'float16' given with `store: factors`.*was expected"):
        validate(
            {"name": "x", "train": "scratch", "store": "factors", "store_dtype": "float16"}, "x"
        )


def test_a_budget_below_every_form_is_refused():
    with pytest.raises(RunError, match=r"no form takes 64 bytes.*Raise `store_bytes`"):
        pick([], RunConfig(name="x", train="scratch"), 64)


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_vectors_are_rounded_as_the_store_does(dtype):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 2, 11, generator=generator)
    found = rounded(vectors, dtype)
    assert found.shape == vectors.shape
    for i, j in itertools.product(range(3), range(2)):
        alone = gradients_store.rounded(vectors[i, j][None].numpy(), dtype)[0]
        assert np.array_equal(found[i, j].numpy(), alone)
