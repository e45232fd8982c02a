"""No accelerator is needed to see that a pass stays on one, and how often it waits for it.

Under fake tensors nothing is computed, but devices are followed: an operation on tensors of two devices
fails as it would on a GPU, and so does `.item()`, for which the host waits.  The device is "meta", as a
build of torch without CUDA lets nobody index tensors "on" a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from influence import text
from influence.documents import curvature, fit, gradients, scores, sketch, whitening
from influence.layers import tracked_layers
from tests.toys import random_chunks, toy_gpt2, toy_llama

WAITS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
)


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Without the one check a batch that reads numbers, and without addresses, which fakes lack."""
    for module in (gradients, scores):
        monkeypatch.setattr(module, "refuse_not_finite", lambda *_: None)
    for module in (gradients, fit):
        monkeypatch.setattr(module, "same_memory", lambda left, right: left is right)


def on_a_gpu(make):
    """A model, its layers and a batch on a device that is not the CPU, and the mode to use them in."""
    batch = text.collate(random_chunks(5, seed=0), 0)
    model = make(dtype=torch.float32)
    layers = tracked_layers(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                moved = torch.empty(value.shape, device="meta")
                module._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
            for name, value in module.named_buffers(recurse=False):
                moved = torch.empty(value.shape, device="meta", dtype=value.dtype)
                module._buffers[name] = moved
        fakes = {
            k: torch.empty(v.shape, dtype=v.dtype, device="meta") for k, v in vars(batch).items()
        }
    return mode, model, layers, text.Batch(**fakes)


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
def test_no_step_of_a_layer_leaves_the_device(make, nothing_is_read):
    mode, model, layers, batch = on_a_gpu(make)
    with mode:
        counted_K = torch.arange(7, device="meta")
        inputs, outputs, squares, buffers = {}, {}, {}, {}

        def add(name, inputs_BTI, output_BTO):
            for sums, values in ((inputs, inputs_BTI), (outputs, output_BTO)):
                gram = fit.gram(fit.counted(values, batch, counted_K), buffers)
                curvature.add_wide(sums, name, gram)

        gradients.backward(model, layers, batch, add)
        bases = {
            x.name: (
                torch.empty(x.out_features, x.out_features, device="meta"),
                torch.empty(*2 * [x.in_features + int(x.bias)], device="meta"),
            )
            for x in layers
        }
        left, right = ({n: pair[i] for n, pair in bases.items()} for i in (0, 1))
        fit._add_squares(model, layers, batch, None, left, right, squares)
        sums = [*inputs.values(), *outputs.values(), *squares.values()]
        assert len(sums) == 3 * len(layers)
        assert {x.device.type for x in sums} == {"meta"}
        assert {x.dtype for x in sums} == {torch.float64}


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2])
@pytest.mark.parametrize("kind", ["full", "random"])
def test_rows_and_scores_stay_on_the_device(make, kind, nothing_is_read):
    mode, model, layers, batch = on_a_gpu(make)
    shapes = {x.name: (x.out_features, x.in_features + int(x.bias)) for x in layers}
    kept = sketch.full(shapes) if kind == "full" else sketch.random_projection(shapes, 2, 0)
    with mode:
        made = {
            name: whitening.LayerWhitening(
                curvature=whitening.LayerCurvature(
                    eigenvalues_OI=torch.empty(o, i, device="meta"),
                    out_basis_OO=torch.empty(o, o, device="meta"),
                    in_basis_II=torch.empty(i, i, device="meta"),
                ),
                root_OI=torch.empty(o, i, device="meta"),
                scale_OI=torch.empty(o, i, device="meta"),
            )
            for name, (o, i) in shapes.items()
        }
        ready = whitening.Whitening(sketch=kept, layers=made)
        rows = scores.whitened_rows(model, layers, ready, batch)
        assert rows.vectors_BP.device.type == rows.self_influence_B.device.type == "meta"
        queries = {n: torch.empty(3, o, i, device="meta") for n, (o, i) in shapes.items()}
        found = scores.exact_scores(model, layers, batch, queries)
        assert found.scores_QB.device.type == "meta"


class Waits(TorchDispatchMode):
    """Counts what a GPU's host would have to wait for (`count` grows)."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in WAITS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("passed", ["first", "second", "scores"])
def test_the_host_waits_as_often_whatever_the_number_of_layers(passed):
    """Per batch, that is; what waits once a layer would empty an accelerator's queue all the time."""
    counts = []
    for blocks in (1, 4):
        model = toy_llama(layers=blocks)
        layers = tracked_layers(model)
        batch = text.collate(random_chunks(5, seed=0), 0)
        left = {x.name: torch.eye(x.out_features).double() for x in layers}
        right = {x.name: torch.eye(x.in_features + int(x.bias)).double() for x in layers}
        with Waits() as waits:
            if passed == "first":
                fit._add_factors(model, layers, batch, None, {}, {}, ({}, {}))
            elif passed == "second":
                fit._add_squares(model, layers, batch, None, left, right, {})
            else:
                queries = {n: torch.zeros(2, len(left[n]), len(right[n])).double() for n in left}
                scores.exact_scores(model, layers, batch, queries)
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0
