"""Rows through the model: the log-probability of every completion's tokens, and nothing else.

Equal rows are sent once. Rows of like length make a batch under a token budget, padded on the
right, where a causal model cannot see it. Logits are taken at the positions that predict the
completion only. Where it saves enough tokens, what rows share is read once, and its keys and values
are kept: the beginning of the first row (leave-one-out rows share all before the removed unit), and
each prompt of which several completions are asked.

Axes: B rows of a batch, L tokens of a row, T tokens of a completion, M masks, U units, V vocabulary,
N positions of a batch at which logits are needed, S tokens of a row after what it shares, Q needed
tokens of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import zip_longest
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
SAVED = 0.1
"""Least share of all tokens that shared beginnings must save."""
CACHED = {"past_key_values", "use_cache"}
"""What a model's forward pass must accept for it."""


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
    most = min(one.first - 1, len(other.tokens))
    differs_L = one.tokens[:most] != other.tokens[:most]
    differs_L |= one.positions_L[:most] != other.positions_L[:most]
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
    families = _families(rows)
    shared = [shared_beginning(rows[family[0]], rows[0]) for family in families]
    siblings = [rows[number].first - 1 for family in families for number in family[1:]]
    saved = sum(shared[1:]) + sum(siblings)
    if saved > SAVED * sum(len(row.tokens) for row in rows) and CACHED <= reader.accepts:
        found = _read_families(reader, rows, families, shared, (token_budget, max_rows))
        if found is not None:
            return found
    values: dict[int, np.ndarray] = {}
    for batch in plan_batches([len(row.tokens) for row in rows], token_budget, max_rows):
        found, _ = _read(reader, [rows[number] for number in batch])
        values.update(zip(batch, found, strict=True))
    return [values[number] for number in range(len(rows))]


def _families(rows: Sequence[Row]) -> list[list[int]]:
    # Numbers of the rows that differ in their completion only, the first row's family first.
    families: dict[tuple[object, ...], list[int]] = {}
    for number, row in enumerate(rows):
        families.setdefault(row.prompt_key, []).append(number)
    return list(families.values())


def _read_families(
    reader: _Reader,
    rows: Sequence[Row],
    families: Sequence[Sequence[int]],
    shared: Sequence[int],
    limits: tuple[int, int],
) -> list[np.ndarray] | None:
    # The first row alone; of each family one row after what it shares with the first; then that
    # family's other completions after its prompt. None: the model's cache cannot be cut.
    token_budget, max_rows = limits
    longest = max(len(row.tokens) for row in rows)
    lengths = [len(rows[family[0]].tokens) - n for family, n in zip(families, shared, strict=True)]
    plan = plan_batches(
        lengths[1:],
        token_budget // 4,  # small batches share more
        max(1, min(max_rows, token_budget // longest)),  # what is cached takes memory, too
    )
    values: dict[int, np.ndarray] = {}
    stem = None
    for batch in [[0], *([number + 1 for number in numbers] for numbers in plan)]:
        members = [families[number] for number in batch]
        keep = stem is None or any(len(family) > 1 for family in members)
        start = 0 if stem is None else min(shared[number] for number in batch)
        past = _beginning(stem, start, [0] * len(batch)) if start else None
        found, cache = _read(reader, [rows[family[0]] for family in members], start, past, keep)
        if keep and cache is None:
            return None
        stem = cache if stem is None else stem
        values.update(zip((family[0] for family in members), found, strict=True))
        for others in zip_longest(*(family[1:] for family in members)):
            owners = [owner for owner, number in enumerate(others) if number is not None]
            chosen = [others[owner] for owner in owners]
            start = min(rows[number].first - 1 for number in chosen)
            past = _beginning(cache, start, owners) if start else None
            found, _ = _read(reader, [rows[number] for number in chosen], start, past)
            values.update(zip(chosen, found, strict=True))
    return [values[number] for number in range(len(rows))]


def _read(
    reader: _Reader, rows: Sequence[Row], start: int = 0, past: Any = None, keep: bool = False
) -> tuple[list[np.ndarray], Any]:
    # One forward pass, of the tokens from `start` on: log-probabilities of each row's completion,
    # and the keys and values of all its tokens if asked for.
    needed = [np.arange(row.first - 1, len(row.tokens) - 1) for row in rows]
    positions_N = np.unique(np.concatenate(needed))
    kept_N = torch.from_numpy(positions_N - start).to(reader.device)
    inputs = _inputs(reader, rows, start)
    if "logits_to_keep" in reader.accepts:
        inputs["logits_to_keep"] = kept_N
    if past is not None:
        inputs["past_key_values"] = past
    if "use_cache" in reader.accepts:
        inputs["use_cache"] = keep or past is not None
    output = reader.model(**inputs)
    logits_BNV = output.logits
    if logits_BNV.shape[1] != len(positions_N):  # of all positions: the model knows no other way
        logits_BNV = logits_BNV[:, kept_N]
    totals_BN = torch.stack([widened(logits_NV).logsumexp(dim=1) for logits_NV in logits_BNV])
    lengths = [len(needed_T) for needed_T in needed]
    targets = np.concatenate([row.tokens[row.first :] for row in rows]).astype(np.int64)
    places = (
        np.repeat(np.arange(len(rows)), lengths),
        np.searchsorted(positions_N, np.concatenate(needed)),
    )
    row_Q, place_Q, target_Q = (torch.from_numpy(x).to(reader.device) for x in (*places, targets))
    flat_Q = widened(logits_BNV[row_Q, place_Q, target_Q]) - totals_BN[row_Q, place_Q]
    values = np.split(flat_Q.double().cpu().numpy(), np.cumsum(lengths)[:-1])
    return values, _whole(output) if keep else None


def _inputs(reader: _Reader, rows: Sequence[Row], start: int) -> dict[str, Any]:
    # Tokens from `start` on, padded on the right, where no real token can see it. The padding is not
    # masked: a query that may attend to nothing would be NaN in some attention kernels.
    width = max(len(row.tokens) for row in rows)
    tokens_BL = np.full((len(rows), width), reader.pad_id)
    positions_BL = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        tokens_BL[number, : len(row.tokens)] = row.tokens
        positions_BL[number, : len(row.tokens)] = row.positions_L
    tokens_BS = torch.from_numpy(tokens_BL[:, start:]).to(reader.device)
    inputs: dict[str, Any] = {
        "attention_mask": torch.ones(len(rows), width, dtype=torch.int64, device=reader.device)
    }
    if "position_ids" in reader.accepts:
        inputs["position_ids"] = torch.from_numpy(positions_BL[:, start:]).to(reader.device)
    elif any(row.positions_L[-1] >= len(row.tokens) for row in rows):
        raise InputError(
            f"inputs: operator mask, but {type(reader.model).__name__} takes no position ids, so "
            "that positions cannot be kept. Use delete or replace."
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


def _beginning(cache: Any, length: int, owners: Sequence[int]) -> Any:
    # The first tokens' keys and values of some rows of a cache, which stays as it is.
    chosen = copy(cache)
    chosen.layers = [copy(layer) for layer in cache.layers]
    chosen.crop(length - cache.get_seq_length())
    chosen.batch_select_indices(torch.tensor(owners, device=chosen.layers[0].keys.device))
    return chosen
