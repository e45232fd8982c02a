"""From a question to an explanation: what is explained, what it costs, what judges it."""

import numpy as np
import pytest
import torch

from influence.errors import InputError
from influence.inputs import explain as story
from influence.inputs.choice import METHODS
from influence.inputs.evaluate import evaluate_masks
from influence.inputs.explain import How, Question, explain, heldout_masks, masks, prepare, together
from influence.inputs.methods import MaskMethod
from influence.inputs.targets import values_of
from influence.models import swap_conv1d
from tests.toys import CHAT_TEMPLATE, toy_gpt2, toy_language_model, toy_llama, toy_tokenizer

V = 280
QUESTION = Question(prompt="the Paris is in the end not here", completion=" Paris is")


def toy(family="llama"):
    model = {"llama": toy_llama, "gpt2": toy_gpt2}[family](vocab=V)
    if family == "gpt2":
        swap_conv1d(model)
    return toy_language_model(model, toy_tokenizer(bos=True, chat_template=CHAT_TEMPLATE))


@pytest.fixture
def counted(monkeypatch):
    """Rows of every forward pass of the model that is explained, as it sees them itself."""
    rows = []
    forward = torch.nn.Module.__call__

    def counting(module, *args, **kwargs):
        if type(module).__name__.endswith("ForCausalLM") or "LMHead" in type(module).__name__:
            given = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            rows.append(len(given))
        return forward(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counting)
    return rows


# -- costs, as counts -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["leave-one-out", "occlusion"])
def test_leave_one_out_takes_a_row_a_unit_and_one(method, counted):
    found = explain(toy(), QUESTION, method, How(heldout=0))
    assert sum(counted) == len(found.units) + 1 == found.forward_rows


@pytest.mark.parametrize("method", ["shapley", "kernel-shap", "lime", "sparse", "tree"])
def test_a_surrogate_takes_its_masks(method, counted):
    found = explain(toy(), QUESTION, method, How(rows=64, heldout=0))
    assert sum(counted) == found.forward_rows <= 64
    assert found.forward_rows > 32


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "attention-x-gradient"])
def test_a_gradient_takes_one_row_forward_and_one_back(method, counted):
    found = explain(toy(), QUESTION, method, How(heldout=0))
    assert counted == [1, 1]  # the gradient's, and the value of the whole prompt
    assert (found.forward_rows, found.backward_rows) == (1, 1)


def test_measures_take_no_row_beyond_the_held_out_masks(counted):
    found = explain(toy(), QUESTION, "leave-one-out", How(heldout=16))
    assert found.faithfulness.lds is not None
    assert found.faithfulness.deletion is not None
    assert found.faithfulness.comprehensiveness[0.05] is not None
    units = len(found.units)
    wanted = together(
        np.ones((1, units), bool), ~np.eye(units, dtype=bool), heldout_masks(units, How(heldout=16))
    )
    assert sum(counted) == len(wanted)


# -- what judges a method -------------------------------------------------------------------------


def test_a_method_is_judged_on_masks_outside_its_design_alone():
    loaded, how = toy(), How(rows=40, heldout=24)
    prepared = prepare(loaded, QUESTION)
    method = METHODS["kernel-shap"]
    found = explain(loaded, QUESTION, "kernel-shap", how)
    design = {row.tobytes() for row in method.design(len(prepared.units), 40, 0)}
    kept_MU = np.stack(
        [m for m in heldout_masks(len(prepared.units), how) if m.tobytes() not in design]
    )
    assert 5 < len(kept_MU) < 26
    table = evaluate_masks(loaded, prepared.passages, prepared.units, "delete", kept_MU)
    predicted, measured = kept_MU @ found.solution.scores_U, values_of(prepared.target, table)
    ranks = [np.argsort(np.argsort(x)) for x in (predicted, measured)]
    assert found.faithfulness.lds == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_held_out_masks_are_drawn_apart_from_the_method():
    own = heldout_masks(12, How(heldout=16))
    for name, method in METHODS.items():
        if isinstance(method, MaskMethod) and name not in ("leave-one-out", "occlusion"):
            design = {row.tobytes() for row in method.design(12, 64, 0)}
            assert sum(row.tobytes() not in design for row in own) > 8, name


def test_exact_curves_are_the_values_of_their_steps():
    loaded = toy()
    found = explain(loaded, QUESTION, "saliency", How(curves=True))
    order = np.argsort(-found.solution.scores_U, kind="stable")
    units = len(order)
    gone = np.ones((units + 1, units), bool)
    for step in range(units):
        gone[step + 1 :, order[step]] = False
    prepared = prepare(loaded, QUESTION)
    table = evaluate_masks(loaded, prepared.passages, prepared.units, "delete", gone)
    curve = found.faithfulness.deletion
    assert curve.exact
    np.testing.assert_allclose(curve.values_K, values_of(prepared.target, table))
    assert np.isfinite(curve.random_K).all()


# -- what is explained ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_spans_of_the_output_add_up(family):
    loaded = toy(family)
    spans = [(0, 6), (6, 9)]
    parts = [explain(loaded, Question(**{**vars(QUESTION), "span": s}), "shapley") for s in spans]
    whole = explain(loaded, QUESTION, "shapley")
    total = sum(part.solution.scores_U for part in parts)
    np.testing.assert_allclose(total, whole.solution.scores_U, rtol=1e-9)
    assert parts[0].value + parts[1].value == pytest.approx(whole.value)


def test_a_contrast_is_the_difference_of_two_outputs():
    loaded = toy()
    one, other = (
        explain(loaded, Question(**{**vars(QUESTION), "completion": c}), "shapley")
        for c in (" Paris is", " not")
    )
    both = explain(loaded, Question(**{**vars(QUESTION), "contrast": " not"}), "shapley")
    np.testing.assert_allclose(
        both.solution.scores_U, one.solution.scores_U - other.solution.scores_U, rtol=1e-9
    )


def test_meanings_count_as_one_output_and_by_their_shares():
    loaded = toy()
    texts = (" Paris is", " not", " the end")
    single = [explain(loaded, Question(**{**vars(QUESTION), "completion": t})).value for t in texts]
    joint = Question(**{**vars(QUESTION), "meanings": (texts[:2], texts[2:])})
    assert explain(loaded, joint).value == pytest.approx(np.logaddexp(*single[:2]))
    shared = Question(**{**vars(joint), "shares": (0.75, 0.25)})
    expected = 0.75 * np.logaddexp(*single[:2]) + 0.25 * single[2]
    assert explain(loaded, shared).value == pytest.approx(expected)


def test_a_chat_is_explained_in_its_words():
    chat = Question(prompt=(("user", "is the Paris here"),), completion="Paris", unit="word")
    found = explain(toy(), chat, "leave-one-out")
    prepared = prepare(toy(), chat)
    text = prepared.passages[0].text
    assert "".join(text[u.start : u.end] for u in found.units) == "is the Paris here"
    assert text.startswith("<user>is the Paris here")


def test_a_contrast_and_paraphrases_are_refused():
    both = Question(**{**vars(QUESTION), "contrast": " a", "meanings": ((" Paris is", " b"),)})
    with pytest.raises(InputError, match="a contrast and paraphrases given"):
        explain(toy(), both)


def test_the_output_before_nothing_is_refused():
    with pytest.raises(InputError, match="without a span"):
        explain(toy(), Question(**{**vars(QUESTION), "before": True}))


def test_a_span_without_a_token_is_refused():
    with pytest.raises(InputError, match="no token of the completion ends"):
        prepare(toy(), Question(**{**vars(QUESTION), "span": (0, 1)}))


def test_masks_of_several_designs_stand_once():
    one, two = np.eye(3, dtype=bool), np.array([[1, 0, 0], [1, 1, 1]], bool)
    assert together(one, two).tolist() == [*one.tolist(), [True] * 3]
    prepared = prepare(toy(), QUESTION)
    wanted = masks(prepared, METHODS["leave-one-out"], How())
    assert wanted[0].all()
    assert len(np.unique(wanted, axis=0)) == len(wanted)
    assert story.LEAST_ROWS >= 128
