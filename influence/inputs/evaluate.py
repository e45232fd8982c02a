"""Rows through the model: the log-probability of every completion's tokens, and nothing else.

Equal rows are sent once. Rows of like length make a batch under a token budget, padded on the
right, where a causal model cannot see it. Logits are taken at the positions that predict the
completion only. Rows that begin like the first one read the keys and values of that beginning from
a cache, where this saves enough tokens.

Axes: B rows of a batch, L tokens of a row, T tokens of a completion, M masks, U units, V vocabulary,
N positions of a batch at which logits are needed, S tokens of a batch's rows after what they share.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.batches import plan_batches
from influence.documents.gradients import widened
from influence.errors import InputError
from influence.inputs.passage import ALWAYS, Passage, Unit, units_of_tokens
from influence.inputs.removal import Row, blurred, embedding_moments, make_row, removal_of
from influence.inputs.table import Table

if TYPE_CHECKING:
    from influence.models import LanguageModel

TOKEN_BUDGET = 4096
MAX_ROWS = 64
_CACHED = {"past_key_values", "use_cache"}
SAVED = 0.1
"""Least share of all tokens that a shared beginning must save."""


def evaluate_masks(
    loaded: LanguageModel,
    passages: Sequence[Passage],
    units: Sequence[Unit],
    operator: str,
    kept_MU: np.ndarray,
    token_budget: int = TOKEN_BUDGET,
    seed: int = 0,
) -> Table:
    """What the model says of every continuation under every mask.

    Args:
        loaded: The model.
        passages: One a continuation, all of the same prompt.
        units: Disjoint parts of the prompt.
        operator: How units are removed, one of `OPERATORS`.
        kept_MU: Masks `[M, U]`, bool: which units stand.
        token_budget: Most tokens of a batch, padding included.
        seed: Of the operator `noise`.

    Returns:
        The table.

    Raises:
        InputError: If the masks do not fit the units, or the operator is unknown.
    """
    if kept_MU.ndim != 2 or kept_MU.shape[1] != len(units) or kept_MU.dtype != bool:
        raise InputError(
            f"inputs: masks of shape {kept_MU.shape}, {kept_MU.dtype}, expected (masks, "
            f"{len(units)} units), bool."
        )
    removal = removal_of(loaded, operator, seed)
    rows = []
    for passage in passages:
        owner_L = units_of_tokens(passage, units)
        for kept_U in kept_MU:
            removed_L = (owner_L != ALWAYS) & ~kept_U[owner_L]
            rows.append(make_row(passage, removed_L, removal, np.packbits(kept_U).tolist()))
    found = log_probabilities(loaded, rows, token_budget)
    masks = range(0, len(rows), max(len(kept_MU), 1))
    return Table(
        kept_MU=kept_MU,
        log_probs=tuple(np.stack(found[start : start + len(kept_MU)]) for start in masks),
        rows=len({row.key for row in rows}),
    )


def log_probabilities(
    loaded: LanguageModel,
    rows: Sequence[Row],
    token_budget: int = TOKEN_BUDGET,
    max_rows: int = MAX_ROWS,
) -> list[np.ndarray]:
    """Log-probability of each token of each row's completion, given all that stands before it.

    Args:
        loaded: The model; it is left as it was, also when something fails.
        rows: What it reads. Rows with equal keys are sent once; the first row is the one whose
            beginning others may share.
        token_budget: Most tokens of a batch, padding included; a longer row goes alone.
        max_rows: Most rows of a batch.

    Returns:
        For each row `[T]`, float64, in nats; of logits in float32 or wider.
    """
    distinct: dict[tuple[object, ...], Row] = {}
    for row in rows:
        distinct.setdefault(row.key, row)
    unique = list(distinct.values())
    with evaluating(loaded.model), torch.no_grad():
        found = _read_all(_reader(loaded, unique), unique, token_budget, max_rows)
    row_of = {key: number for number, key in enumerate(distinct)}
    return [found[row_of[row.key]] for row in rows]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module of it back as it was.

    Args:
        model: Any model.

    Yields:
        Nothing.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def shared_beginning(one: Row, other: Row) -> int:
    """How many leading tokens of a row are read as in another one.

    Args:
        one: A row.
        other: The row of which keys and values may be reused.

    Returns:
        Number of tokens, all before the one that predicts the completion of the first row.
    """
    most = min(one.readout, len(other.tokens))
    differs_L = one.tokens[:most] != other.tokens[:most]
    differs_L |= one.attended_L[:most] != other.attended_L[:most]
    differs_L |= one.blurred_L[:most] | other.blurred_L[:most]
    return int(differs_L.argmax()) if differs_L.any() else most


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """A model, and what its forward pass understands."""

    model: nn.Module
    pad_id: int
    device: torch.device
    accepts: frozenset[str]
    moments: tuple[Tensor, Tensor] | None


def _reader(loaded: LanguageModel, rows: Sequence[Row]) -> _Reader:
    base = getattr(loaded.model, "get_base_model", lambda: loaded.model)()  # beneath an adapter
    return _Reader(
        model=loaded.model,
        pad_id=loaded.pad_id,
        device=loaded.device,
        accepts=frozenset(inspect.signature(base.forward).parameters),
        moments=embedding_moments(loaded) if any(row.blurred_L.any() for row in rows) else None,
    )


def _read_all(
    reader: _Reader, rows: Sequence[Row], token_budget: int, max_rows: int
) -> list[np.ndarray]:
    # In batches; the first row alone and before the others, where they can share its beginning.
    found: dict[int, np.ndarray] = {}
    shared, cache = [0] * len(rows), None
    saved = [shared_beginning(row, rows[0]) for row in rows[1:]]
    if sum(saved) > SAVED * sum(len(row.tokens) for row in rows) and _CACHED <= reader.accepts:
        (found[0],), cache = _read(reader, rows[:1], keep=True)
    if cache is not None:
        shared = [0, *saved]
        max_rows = max(1, min(max_rows, token_budget // max(len(row.tokens) for row in rows)))
    rest = [number for number in range(len(rows)) if number not in found]
    lengths = [len(rows[number].tokens) - shared[number] for number in rest]
    for batch in plan_batches(lengths, token_budget, max_rows):
        chosen = [rest[position] for position in batch]
        start = min(shared[number] for number in chosen)
        values, _ = _read(reader, [rows[number] for number in chosen], start, cache)
        found.update(zip(chosen, values, strict=True))
    return [found[number] for number in range(len(rows))]


def _read(
    reader: _Reader, rows: Sequence[Row], start: int = 0, cache: Any = None, keep: bool = False
) -> tuple[list[np.ndarray], Any]:
    # One forward pass: log-probabilities of each row's completion, and the keys and values to keep.
    needed = [np.array([row.readout, *range(row.first, len(row.tokens) - 1)]) for row in rows]
    positions_N = np.unique(np.concatenate(needed))
    inputs = _inputs(reader, rows, start)
    if "logits_to_keep" in reader.accepts:
        inputs["logits_to_keep"] = torch.from_numpy(positions_N - start).to(reader.device)
    if cache is not None and start:
        inputs["past_key_values"] = _beginning(cache, start, len(rows))
    output = reader.model(**inputs, use_cache=keep or "past_key_values" in inputs)
    logits_BNV = output.logits
    if logits_BNV.shape[1] != len(positions_N):  # of all positions, as the model knows no other way
        logits_BNV = logits_BNV[:, torch.from_numpy(positions_N - start).to(reader.device)]
    values = []
    for row, needed_T, logits_NV in zip(rows, needed, logits_BNV, strict=True):
        logits_TV = logits_NV[
            torch.from_numpy(np.searchsorted(positions_N, needed_T)).to(reader.device)
        ]
        targets_T1 = torch.from_numpy(row.tokens[row.first :].astype(np.int64)).to(reader.device)[
            :, None
        ]
        logits_TV = widened(logits_TV)
        values.append(logits_TV.gather(1, targets_T1)[:, 0] - logits_TV.logsumexp(dim=1))
    flat = torch.cat(values).double().cpu().numpy()
    ends = np.cumsum([len(needed_T) for needed_T in needed])
    return np.split(flat, ends[:-1]), _whole(output) if keep else None


def _inputs(reader: _Reader, rows: Sequence[Row], start: int) -> dict[str, Tensor]:
    # Tokens from `start` on, padded on the right; the attention mask covers what is cached, too.
    width = max(len(row.tokens) for row in rows)
    tokens_BL = np.full((len(rows), width), reader.pad_id)
    attended_BL = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        tokens_BL[number, : len(row.tokens)] = row.tokens
        attended_BL[number, : len(row.tokens)] = row.attended_L
    tokens_BS = torch.from_numpy(tokens_BL[:, start:]).to(reader.device)
    inputs = {"attention_mask": torch.from_numpy(attended_BL).to(reader.device)}
    if "position_ids" in reader.accepts:
        inputs["position_ids"] = torch.arange(start, width, device=reader.device).expand(
            len(rows), -1
        )
    if reader.moments is None or not any(row.blurred_L.any() for row in rows):
        return inputs | {"input_ids": tokens_BS}
    embedded_BSD = reader.model.get_input_embeddings()(tokens_BS)  # type: ignore[operator]
    for number, row in enumerate(rows):
        if row.blurred_L.any():
            own_SD = embedded_BSD[number, : len(row.tokens) - start]
            own_SD.copy_(blurred(row, own_SD, reader.moments, start))
    return inputs | {"inputs_embeds": embedded_BSD}


def _whole(output: Any) -> Any:
    # The cache of a pass, if it holds plain keys and values of every token in every layer.
    from transformers.cache_utils import DynamicLayer

    cache = getattr(output, "past_key_values", None)
    layers = getattr(cache, "layers", ())
    plain = layers and all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)
    return cache if plain else None


def _beginning(cache: Any, length: int, rows: int) -> Any:
    # The first tokens' keys and values, once for each row.
    copied = deepcopy(cache)
    copied.crop(length - copied.get_seq_length())
    copied.batch_repeat_interleave(rows)
    return copied
