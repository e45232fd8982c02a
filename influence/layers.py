"""Which linear layers of a model are tracked, what they leave out, and the projected head.

Only linear layers have the two-factor gradient ``g a^T`` on which everything else rests.

Axes: V vocabulary, D width of the head's input, R rank of a projected head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from influence.errors import ModelError

ROLES = ("attention", "mlp", "head", "other")
ATTENTION_WORDS = ("attn", "attention")
MLP_WORDS = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "experts", "fc1", "fc2", "fc_")
LOW_RANK = "low_rank"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer ``s = W a + b`` whose gradient is tracked."""

    name: str
    """Path of the module in the model, as in `named_modules`."""
    in_features: int
    out_features: int
    bias: bool
    """Does it have a bias? Then the bias is tracked with the weight."""
    role: str
    """`attention`, `mlp`, `head` or `other`."""
    tied: bool
    """Is its weight also used elsewhere, as an input embedding is? Only this use is tracked."""


class ProjectedHead(nn.Module):
    """An output head whose gradient is taken in an R-dimensional subspace of the vocabulary.

    The logits are those of the original head. `low_rank` has zero weights and adds nothing; the
    gradient at its output is ``basis^T g``, with g the gradient at the logits.
    """

    def __init__(self, head: nn.Linear, basis_VR: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight = head.weight  # the same parameter: stays tied
        self.bias = head.bias
        rank = basis_VR.shape[1]
        device, dtype = head.weight.device, head.weight.dtype
        self.low_rank = skip_init(
            nn.Linear, self.in_features, rank, bias=False, device=device, dtype=dtype
        )
        nn.init.zeros_(self.low_rank.weight).requires_grad_(False)
        self.register_buffer("basis_VR", basis_VR.detach().to(device, dtype), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., D]``.

        Returns:
            The original head's logits, to the last bit.
        """
        logits = F.linear(hidden, self.weight, self.bias)
        return logits + self.low_rank(hidden) @ self.basis_VR.T


def head_name(model: nn.Module) -> str:
    """Path of the output head.

    Args:
        model: A causal LM, bare or wrapped by peft.

    Returns:
        Its name in `named_modules`.

    Raises:
        ModelError: If the model has no output head.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = [name for name, module in model.named_modules() if module is head]
    if head is None or not names:
        raise ModelError(
            f"{type(model).__name__}: no output head, expected a causal language model. Load the "
            "class whose name ends in ForCausalLM or LMHeadModel."
        )
    return names[0]


def tracked_layers(model: nn.Module, choice: str | Sequence[str] = "all") -> tuple[Layer, ...]:
    """Choose the linear layers whose gradients are tracked.

    Of a LoRA model only the adapters' own matrices are offered, since they alone are trained; of a
    projected head, only its low-rank part.

    Args:
        model: A causal LM, after `swap_conv1d`.
        choice: `all`, a role (`attention`, `mlp`, `head`, `other`), or a pattern of module names
            with `*` and `?`; or several of these, as a sequence or separated by commas.

    Returns:
        The layers chosen by any of them, in the order of the model's modules.

    Raises:
        ModelError: If an entry matches nothing, or two layers share one weight.
    """
    available = _linear_layers(model)
    entries = choice.split(",") if isinstance(choice, str) else list(choice)
    patterns = [entry.strip() for entry in entries]
    if not patterns:
        raise ModelError("layers: an empty choice, expected names or roles. Use 'all'.")
    for pattern in patterns:
        if not any(_chosen(layer, pattern) for layer in available):
            _refuse_pattern(pattern, available)
    layers = tuple(a for a in available if any(_chosen(a, pattern) for pattern in patterns))
    _refuse_shared(model, layers)
    return layers


def uncovered_parameters(model: nn.Module, layers: Sequence[Layer]) -> list[str]:
    """Name the trained parameters that no tracked layer covers: embeddings, norms, ...

    A tied weight has two uses and so two names here (`lm_head.weight` and
    `model.embed_tokens.weight`, say); tracking the head covers the first only. Of a LoRA model
    only the adapter's parameters count, the rest being frozen.

    Args:
        model: The model that the layers were taken from.
        layers: The tracked layers.

    Returns:
        Parameter names, in the model's order.
    """
    covered = {f"{layer.name}.{part}" for layer in layers for part in ("weight", "bias")}
    heads = {name for name, module in model.named_modules() if isinstance(module, ProjectedHead)}
    own = {f"{head}.{LOW_RANK}.weight" for head in heads}
    covered |= {f"{head}.weight" for head in heads if f"{head}.{LOW_RANK}.weight" in covered}
    is_lora = _is_lora(model)
    return [
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if name not in covered | own and (not is_lora or _is_adapter_parameter(name))
    ]


def project_head(model: nn.Module, name: str, basis_VR: Tensor) -> None:
    """Replace the head, in place, by one whose gradient is taken in a subspace.

    For large vocabularies, whose ``V x V`` output factor does not fit. The logits do not change.
    Afterwards `tracked_layers` offers ``<name>.low_rank``, of shape (R, D), instead of ``name``;
    a bias of the head is no longer covered.

    Args:
        model: A causal LM.
        name: Path of the head, see `head_name`.
        basis_VR: Orthonormal columns ``[V, R]``.

    Raises:
        ModelError: If the head is not a plain linear layer or the basis does not fit it.
    """
    modules = dict(model.named_modules())
    head = modules.get(name)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"project_head: {name!r} is {type(head).__name__ if head else 'not in the model'}, "
            f"expected the linear head {head_name(model)!r}, not projected before."
        )
    vocabulary = head.out_features
    if basis_VR.ndim != 2 or not 1 <= basis_VR.shape[1] <= basis_VR.shape[0] == vocabulary:
        raise ModelError(
            f"project_head: a basis of shape {tuple(basis_VR.shape)}, expected ({vocabulary}, R) "
            f"with R from 1 to {vocabulary}."
        )
    gram_RR = basis_VR.T @ basis_VR
    error = float((gram_RR - torch.eye(len(gram_RR)).to(gram_RR)).abs().max())
    if not error < 1e-3:
        raise ModelError(
            f"project_head: the basis' columns are off orthonormality by {error:.1e}, expected "
            "less than 1e-3. Orthonormalise it with torch.linalg.qr."
        )
    parent, _, child = name.rpartition(".")
    setattr(modules[parent], child, ProjectedHead(head, basis_VR).train(head.training))


def _linear_layers(model: nn.Module) -> list[Layer]:
    # Everything that can be tracked, in the order of the model's modules.
    modules = dict(model.named_modules())
    head, is_lora = head_name(model), _is_lora(model)
    elsewhere = {
        id(weight)
        for module in modules.values()
        if not isinstance(module, nn.Linear | ProjectedHead)
        for weight in module.parameters(recurse=False)
    }
    layers = []
    for name, module in modules.items():
        if not isinstance(module, nn.Linear) or (is_lora and not _is_adapter_parameter(name)):
            continue
        parent = modules[name.rpartition(".")[0]]
        weight = parent.weight if isinstance(parent, ProjectedHead) else module.weight
        layers.append(
            Layer(
                name=name,
                in_features=module.in_features,
                out_features=module.out_features,
                bias=module.bias is not None,
                role=_role(name, head),
                tied=id(weight) in elsewhere,
            )
        )
    return layers


def _role(name: str, head: str) -> str:
    if name == head or name.startswith(head + "."):
        return "head"
    if any(word in name for word in ATTENTION_WORDS):
        return "attention"
    return "mlp" if any(word in name for word in MLP_WORDS) else "other"


def _chosen(layer: Layer, pattern: str) -> bool:
    return pattern in ("all", layer.role) or fnmatchcase(layer.name, pattern)


def _refuse_pattern(pattern: str, available: Sequence[Layer]) -> None:
    names = [layer.name for layer in available]
    leaves = sorted({f"*.{name.rpartition('.')[2]}" for name in names})
    known = ["all", *ROLES, *leaves, *names]
    nearest = get_close_matches(pattern, known, n=3, cutoff=0.3) or names[:3]
    roles = ", ".join(sorted({layer.role for layer in available}))
    raise ModelError(
        f"layers: {pattern!r} matches no linear layer, expected 'all', a role of this model "
        f"({roles}) or a pattern of names. Nearest: {', '.join(nearest) or 'there are none'}."
    )


def _refuse_shared(model: nn.Module, layers: Sequence[Layer]) -> None:
    linear = {
        name: id(module.weight)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
    }
    uses = Counter(linear.values())
    for layer in layers:
        if uses[linear[layer.name]] > 1:
            shared = [name for name, weight in linear.items() if weight == linear[layer.name]]
            raise ModelError(
                f"layers: {' and '.join(shared)} share one weight, expected a weight of its own "
                "for each tracked layer. Leave them out of `layers`."
            )


def _is_lora(model: nn.Module) -> bool:
    return any(name.rpartition(".")[2] == "lora_A" for name, _ in model.named_modules())


def _is_adapter_parameter(name: str) -> bool:
    # Is this module or parameter part of a LoRA adapter?
    return any(part.startswith("lora_") or part == "modules_to_save" for part in name.split("."))
