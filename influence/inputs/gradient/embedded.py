"""The target as a differentiable function of the prompt's input embeddings.

Axes: B prompts, K continuations, R = B K rows, P tokens of the prompt, T of the longest
continuation, N = P + T - 1 tokens that the model reads, D embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from influence.documents.gradients import widened
from influence.errors import InputError
from influence.inputs.evaluate import TOKEN_BUDGET, evaluating
from influence.inputs.passage import Passage
from influence.inputs.targets import Target, target_value
from influence.models import LanguageModel


@dataclass(kw_only=True)
class Passes:
    """Running counts of what went through a model."""

    forward_calls: int = 0
    forward_rows: int = 0
    backward_calls: int = 0
    backward_rows: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedTarget:
    """The target's value in nats, as a function of the prompt's embeddings `[B, P, D] -> [B]`.

    All continuations of a prompt go through the model in one batch, padded on the right, where a
    causal model does not look. The last token of each is only predicted, never read, and logits
    are computed where a continuation is predicted and nowhere else. So a target of any length
    costs one forward and one backward pass of K rows. Weights stay frozen, hooks and settings of
    the model as they were. Captum's core classes take it as a forward function too.
    """

    loaded: LanguageModel
    passage: Passage
    """With the first continuation."""
    target: Target
    prompt_PD: Tensor
    """Embeddings of the prompt's tokens, as the model looks them up."""
    fixed_P: Tensor
    """bool: tokens that baselines and noise leave alone, such as a begin-of-text token."""
    said_KSD: Tensor
    """Embeddings of the continuations without their last column; S = T - 1."""
    ids_KT: Tensor
    lengths: tuple[int, ...]
    """Tokens of each continuation."""
    token_budget: int
    """Most tokens in a batch, where one prompt's rows fit."""
    passes: Passes = field(default_factory=Passes)
    """Counted in every forward and backward, whoever calls."""

    def __call__(self, prompts_BPD: Tensor) -> Tensor:
        """Value of the target for each prompt, in nats; one forward pass, differentiable."""
        prompts, continuations, longest = len(prompts_BPD), *self.ids_KT.shape
        rows_RND = torch.cat(
            [
                prompts_BPD.repeat_interleave(continuations, 0),
                self.said_KSD.repeat(prompts, 1, 1),
            ],
            dim=1,
        )
        with evaluating(self.loaded.model):
            output = self.loaded.model(
                inputs_embeds=rows_RND,
                attention_mask=self.mask_KN.repeat(prompts, 1),
                use_cache=False,
                logits_to_keep=longest,
            )
        logits_RTV = widened(output.logits[:, -longest:])
        ids_RT1 = self.ids_KT.repeat(prompts, 1)[..., None]
        log_p_RT = logits_RTV.gather(-1, ids_RT1)[..., 0] - logits_RTV.logsumexp(-1)
        log_p_BKT = log_p_RT.view(prompts, continuations, longest)
        values_B = target_value(
            self.target, [log_p_BKT[:, k, :length] for k, length in enumerate(self.lengths)]
        )
        self.passes.forward_calls += 1
        self.passes.forward_rows += len(rows_RND)
        if values_B.requires_grad:
            values_B.register_hook(self._count_backward)
        return values_B

    @property
    def mask_KN(self) -> Tensor:
        """Attention mask: 1 where a row has a token."""
        width = len(self.prompt_PD) + self.said_KSD.shape[1]
        ends_K1 = torch.tensor(self.lengths)[:, None] + len(self.prompt_PD) - 1
        return (torch.arange(width) < ends_K1).long().to(self.prompt_PD.device)

    @property
    def read_KN(self) -> Tensor:
        """Where each continuation is read: its target's tokens' predicting positions, summing to 1.

        Where only some tokens of the first continuation count, it is read at those alone.
        """
        read_KN = torch.zeros(self.mask_KN.shape, dtype=torch.float64)
        before = len(self.prompt_PD) - 1
        for number, length in enumerate(self.lengths):
            begin, end = (self.target.tokens if number == 0 else None) or (0, length)
            read_KN[number, before + begin : before + end] = 1 / (end - begin)
        return read_KN.to(self.prompt_PD.device)

    def values(self, prompts_BPD: Tensor) -> Tensor:
        """Values in nats `[B]`, float64 on the CPU, under the token budget, without gradients."""
        with torch.no_grad():
            found = [self(prompts_BPD[part]) for part in self.parts(len(prompts_BPD))]
        return torch.cat(found).cpu().double()

    def value_and_gradient(self, prompts_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Values in nats, and their gradients, by one forward and one backward pass.

        Args:
            prompts_BPD: Points at which to evaluate; one of `parts` at a time.

        Returns:
            Values `[B]`, float64 on the CPU; gradients `[B, P, D]`, nats per unit of embedding.

        Raises:
            InputError: If a gradient is not finite.
        """
        points_BPD = prompts_BPD.detach().requires_grad_()
        with torch.enable_grad():
            values_B = self(points_BPD)
            (gradient_BPD,) = torch.autograd.grad(values_B.sum(), points_BPD)
        if not bool(torch.isfinite(gradient_BPD).all()):
            raise InputError(
                f"{self.loaded.name}: a gradient of the target is not finite in "
                f"{gradient_BPD.dtype}, expected numbers. Load the model in float32, or use an "
                "attribution method without gradients, such as occlusion."
            )
        return values_B.detach().cpu().double(), gradient_BPD

    def parts(self, count: int) -> Iterator[slice]:
        """Cut `count` prompts into batches under the token budget, of one prompt at least.

        Yields:
            Consecutive slices.
        """
        continuations, width = self.mask_KN.shape
        size = max(1, self.token_budget // (continuations * width))
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def baseline(self, mean_D: Tensor) -> Tensor:
        """The prompt `[P, D]` with one embedding in place of every token that is not fixed."""
        return torch.where(self.fixed_P[:, None], self.prompt_PD, mean_D.to(self.prompt_PD))

    def width(self, spread_D: Tensor) -> Tensor:
        """A standard deviation `[P, D]` for every token that is not fixed, and 0 for those."""
        return torch.where(self.fixed_P[:, None], 0, spread_D.to(self.prompt_PD))

    def _count_backward(self, gradient_B: Tensor) -> None:
        self.passes.backward_calls += 1
        self.passes.backward_rows += len(gradient_B) * len(self.lengths)


def embed_target(
    loaded: LanguageModel,
    passages: Sequence[Passage],
    target: Target,
    token_budget: int = TOKEN_BUDGET,
) -> EmbeddedTarget:
    """Look up a prompt and its continuations in the model's embeddings.

    Args:
        loaded: The model.
        passages: One for each continuation of the target; they share the prompt's tokens.
        target: What is explained.
        token_budget: Most tokens in a batch.

    Returns:
        The target as a function of the prompt's embeddings.

    Raises:
        InputError: If nothing stands before the continuations.
    """
    first = passages[0]
    if first.first < 1:
        raise InputError(
            "inputs: the completion starts at the first token, which nothing predicts. Give a "
            "(longer) prompt."
        )
    said = [torch.from_numpy(passage.tokens[passage.first :]).long() for passage in passages]
    ids_KT = torch.nn.utils.rnn.pad_sequence(said, batch_first=True, padding_value=loaded.pad_id)
    prompt_P = torch.from_numpy(first.tokens[: first.first]).long()
    embed = loaded.model.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        prompt_PD = embed(prompt_P.to(loaded.device))
        said_KSD = embed(ids_KT[:, :-1].to(loaded.device))
    return EmbeddedTarget(
        loaded=loaded,
        passage=first,
        target=target,
        prompt_PD=prompt_PD,
        fixed_P=torch.from_numpy(first.fixed_L[: first.first]).to(loaded.device),
        said_KSD=said_KSD,
        ids_KT=ids_KT.to(loaded.device),
        lengths=tuple(len(ids) for ids in said),
        token_budget=token_budget,
    )


def paired_normal(seed: int, rows: slice, like_PD: Tensor) -> Tensor:
    """Standard normal draws in which row 2i + 1 is minus row 2i; batches do not change them.

    Args:
        seed: Of all rows.
        rows: Which of them.
        like_PD: Has their shape, dtype and device.

    Returns:
        `[B, P, D]`.
    """
    draws = [
        np.random.default_rng([seed, row // 2]).standard_normal(like_PD.shape) * (1 - 2 * (row % 2))
        for row in range(rows.start, rows.stop)
    ]
    return torch.from_numpy(np.stack(draws)).to(like_PD)
