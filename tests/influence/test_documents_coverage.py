"""Coverage: shares of the squared gradient norm, by what carries it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from influence import text
from influence.documents.coverage import coverage
from influence.documents.gradients import logits_of, token_losses
from influence.models import project_head, swap_conv1d, tracked_layers
from tests.toys import random_chunks, toy_gpt2, toy_llama


def rows(count=3):
    return [text.collate([chunk], 0, extra_padding=2) for chunk in random_chunks(count)]


def dense_share(model, batch, covered):
    """Share of the squared norm of some parameters, by autograd alone (nothing is tied)."""
    model.requires_grad_(True)
    token_losses(logits_of(model, batch), batch.targets).sum().backward()
    squares = {n: float(p.grad.square().sum()) for n, p in model.named_parameters()}
    model.requires_grad_(False)
    model.zero_grad()
    return sum(v for n, v in squares.items() if covered(n)) / sum(squares.values())


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("choice", ["all", "mlp", "head"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_coverage_shares_sum_to_one(make, choice, tied):
    model = make(tied=tied)
    swap_conv1d(model)
    found = coverage(model, tracked_layers(model, choice), rows())
    assert found.documents == 3
    assert 0 < found.covered < 1
    assert found.covered + sum(s for _, s in found.left_out) == pytest.approx(1, abs=1e-8)
    assert [s for _, s in found.left_out] == sorted((s for _, s in found.left_out), reverse=True)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2"])
def test_coverage_of_an_untied_model_is_the_dense_share(make):
    model = make(tied=False)
    swap_conv1d(model)
    layers = tracked_layers(model)
    names = {f"{x.name}.{part}" for x in layers for part in ("weight", "bias")}
    batches = rows()
    expected = [dense_share(model, batch, names.__contains__) for batch in batches]
    found = coverage(model, layers, batches)
    assert found.covered == pytest.approx(sum(expected) / 3, rel=1e-9)
    left_out = dict(found.left_out)
    tables = [
        dense_share(model, b, lambda n: "embed" in n or ".wt" in n or ".wp" in n) for b in batches
    ]
    assert left_out["embeddings"] == pytest.approx(sum(tables) / 3, rel=1e-9)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_coverage_of_a_projected_head_names_what_lies_outside_the_subspace(tied):
    basis = torch.linalg.qr(torch.randn(11, 3, generator=torch.Generator().manual_seed(0)).double())
    batches, exact, low = rows(), toy_llama(tied=tied), toy_llama(tied=tied)
    project_head(low, "lm_head", basis.Q)
    whole = coverage(exact, tracked_layers(exact), batches)
    part = coverage(low, tracked_layers(low), batches)
    shares = dict(part.left_out)
    assert part.covered + sum(shares.values()) == pytest.approx(1, abs=1e-8)
    outside = shares.pop("output head, outside the kept directions")
    assert outside > 0.01
    assert part.covered + outside == pytest.approx(whole.covered, rel=1e-9)
    assert shares == pytest.approx(dict(whole.left_out), rel=1e-6)
    full = toy_llama(tied=tied)
    project_head(full, "lm_head", torch.eye(11, dtype=torch.float64))
    again = coverage(full, tracked_layers(full), batches)
    assert again.covered == pytest.approx(whole.covered, rel=1e-9)


def test_coverage_of_lora_counts_adapters_alone():
    model = get_peft_model(toy_llama(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    model = model.double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    assert coverage(model, tracked_layers(model), rows()).covered == pytest.approx(1, abs=1e-9)
    half = coverage(model, tracked_layers(model, "mlp"), rows())
    assert 0 < half.covered < 1
    assert half.covered + sum(s for _, s in half.left_out) == pytest.approx(1, abs=1e-8)


def test_coverage_counts_what_a_lora_model_trains_besides_its_adapters():
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    model = get_peft_model(toy_llama(), config).double().eval().requires_grad_(False)
    layers = tracked_layers(model, "attention")
    found = coverage(model, layers, rows())
    assert 0 < found.covered < 0.9
    assert {name for name, _ in found.left_out} == {"embeddings", "linear layers not chosen"}
