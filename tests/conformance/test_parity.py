"""Trap 20: the same numbers from curvlinops' own operator and from kronfluence, on trained toys."""

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch
from curvlinops import EKFACLinearOperator, FisherType
from torch import nn

from influence import text
from influence.batches import Chunk
from influence.documents import scores
from tests.conformance import setting
from tests.toys import assert_matches

VOCABULARY, LONGEST, QUERIES = 11, 9, 4


@dataclass(frozen=True, eq=False)
class Trained(setting.Toy):
    queries: list


def structured_chunks(count, seed):
    """Counting up in steps of 1 to 3, with some noise: a rule that a toy can learn."""
    random = np.random.default_rng(seed)
    found = []
    for document in range(count):
        length = int(random.integers(5, LONGEST + 1))
        start, step = random.integers(0, VOCABULARY), random.integers(1, 4)
        tokens = (start + step * np.arange(length)) % VOCABULARY
        noisy = random.random(length) < 0.1
        tokens = np.where(noisy, random.integers(0, VOCABULARY, length), tokens)
        counted = np.arange(length) > 0
        found.append(Chunk(document, 0, tokens.astype(np.int32), counted))
    return found


@lru_cache(maxsize=2)
def trained(kind):
    toy = setting.make_toy(kind, d=8, tied=False)
    chunks = structured_chunks(40, seed=0)
    batch = text.collate(chunks, 0)
    model = toy.model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        logits = setting.gradients.logits_of(model, batch)
        loss = setting.gradients.token_losses(logits, batch.targets).sum() / batch.n_loss_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.6, "the toy learned nothing"
    model = model.requires_grad_(False)
    model.zero_grad()
    return Trained(kind, model, toy.layers, chunks, structured_chunks(QUERIES, seed=1))


def ours(toy):
    """Scores [Q, N] and the fit, from padded batches, with empirical labels."""
    batches = setting.batched(toy, size=7, sampled=False, extra=2)
    sums, bases, _, fisher = setting.fit(toy, batches)
    solved, _ = setting.query_directions(toy, fisher, toy.queries)
    exact = [scores.exact_scores(toy.model, toy.layers, b, solved).scores_QB.T for b in batches]
    return setting.by_document(batches, exact).T, sums, bases, fisher


class Flat(nn.Module):
    """Logits `[N * T, V]` of plain token ids."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_20_factors_and_lambda_agree_with_curvlinops_on_unpadded_data(kind):
    toy = trained(kind)
    chunks = [c for c in toy.chunks if len(c.tokens) == 7]  # one length, nothing to pad
    assert len(chunks) >= 3
    # every position is counted: the last token is the last target only
    asked = setting.Toy(kind, toy.model, toy.layers, chunks)
    [batch] = setting.batched(asked, size=len(chunks), sampled=False)
    inputs, targets = batch.input_ids[:, :-1], batch.targets[:, :-1]
    model = deepcopy(toy.model)
    params = [p for x in toy.layers for p in model.get_submodule(x.name).parameters()]
    for parameter in params:
        parameter.requires_grad_(True)
    operator = EKFACLinearOperator(
        Flat(model),
        nn.CrossEntropyLoss(reduction="sum"),
        params,
        [(inputs, targets.flatten())],
        check_deterministic=False,
        fisher_type=FisherType.EMPIRICAL,
        separate_weight_and_bias=False,
        num_data=len(chunks),
        num_per_example_loss_terms=inputs.shape[1],
    )
    operator.compute_kronecker_factors()
    theirs = operator.state_dict()
    factors = deepcopy({k: theirs[k] for k in ("input_covariances", "gradient_covariances")})
    operator.compute_eigenvalue_correction()
    theirs = operator.state_dict()
    bases = {
        x.name: setting.curvature.Basis(
            out_basis_OO=theirs["gradient_covariances_eigenvectors"][f"model.{x.name}"],
            in_basis_II=theirs["input_covariances_eigenvectors"][f"model.{x.name}"],
            out_values_O=None,
            in_values_I=None,
        )
        for x in toy.layers
    }
    sums, _, squares, _ = setting.fit(asked, [batch], bases)
    for layer in toy.layers:
        name = f"model.{layer.name}"
        mean = sums.inputs[layer.name] / sums.tokens
        assert_matches(mean, factors["input_covariances"][name])
        assert_matches(sums.outputs[layer.name], factors["gradient_covariances"][name])
        value = theirs["corrected_eigenvalues"][name]
        value = value if isinstance(value, torch.Tensor) else value.popitem()[1]
        assert_matches(squares.squares[layer.name], value)


def rows_of(chunks):
    """Padded rows for kronfluence; every real token but a document's last is counted."""
    batch = text.collate(chunks, 0, extra_padding=LONGEST - max(len(c.tokens) for c in chunks))
    names = ("input_ids", "attention_mask", "position_ids", "targets")
    columns = {name: getattr(batch, name) for name in names}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(chunks))]


def kronfluence_scores(toy, folder):
    import kronfluence
    from kronfluence.arguments import FactorArguments, ScoreArguments

    class Summed(kronfluence.Task):
        def compute_train_loss(self, batch, model, sample=False):
            names = ("input_ids", "attention_mask", "position_ids")
            logits = model(**{n: batch[n] for n in names}, use_cache=False).logits
            return nn.functional.cross_entropy(
                logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum"
            )

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return [layer.name for layer in toy.layers]

        def get_attention_mask(self, batch):
            return (batch["targets"] != -100).long()  # where the target counts

    task, wide = Summed(), torch.float64
    model = kronfluence.prepare_model(deepcopy(toy.model), task)
    analyzer = kronfluence.Analyzer(
        "parity", model, task, cpu=True, output_dir=str(folder), disable_tqdm=True
    )
    factor = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        activation_covariance_dtype=wide,
        gradient_covariance_dtype=wide,
        per_sample_gradient_dtype=wide,
        lambda_dtype=wide,
    )
    score = ScoreArguments(
        damping_factor=None,
        per_sample_gradient_dtype=wide,
        precondition_dtype=wide,
        score_dtype=wide,
    )
    train, queries = rows_of(toy.chunks), rows_of(toy.queries)
    analyzer.fit_all_factors("f", train, per_device_batch_size=7, factor_args=factor)
    analyzer.compute_pairwise_scores(
        "s",
        "f",
        query_dataset=queries,
        train_dataset=train,
        per_device_query_batch_size=QUERIES,
        per_device_train_batch_size=7,
        score_args=score,
    )
    found = analyzer.load_pairwise_scores("s")["all_modules"]
    covariances, lambdas = (
        analyzer.load_covariance_matrices("f"),
        analyzer.load_lambda_matrices("f"),
    )
    return found.to(wide), {**covariances, **lambdas}


def agreement(kind, folder):
    """Pearson's correlation of the scores, and the largest relative differences."""
    toy = trained(kind)
    found, sums, _, fisher = ours(toy)
    expected, factors = kronfluence_scores(toy, folder)
    errors = []
    for layer in toy.layers:
        name = layer.name
        assert int(factors["num_activation_covariance_processed"][name]) == sums.tokens
        assert_matches(sums.inputs[name], factors["activation_covariance"][name])
        assert_matches(sums.outputs[name], factors["gradient_covariance"][name])
        theirs = factors["lambda_matrix"][name] / factors["num_lambda_processed"][name]
        errors.append(float((fisher[name].eigenvalues_OI - theirs).norm() / theirs.norm()))
    return {
        "pearson": float(np.corrcoef(found.flatten(), expected.flatten())[0, 1]),
        "scores": float((found - expected).abs().max() / expected.abs().max()),
        "lambda": max(errors),
    }


@pytest.mark.parametrize("kind", setting.KINDS)
def test_trap_20_scores_and_lambda_agree_with_kronfluence_on_padded_batches(kind, tmp_path):
    figures = agreement(kind, tmp_path)
    assert figures["pearson"] >= 0.9999, figures
    assert figures["scores"] < 1e-6, figures
    assert figures["lambda"] < 1e-6, figures
