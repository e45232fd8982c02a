"""What every head looks at, word by word; and, of two models, which heads look elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from influence.inputs.attention.compare import HeadChange, compare_heads
from influence.inputs.attention.maps import attention_maps, text_owner
from influence.inputs.examples import find_examples
from influence.inputs.explain import Prepared, Question, prepare
from influence.inputs.gradient.embedded import embed_target
from influence.inputs.in_context import label_flow
from influence.inputs.passage import Unit
from influence.models import LanguageModel, load_model
from pipelines.input_files import read_maps, write_maps
from pipelines.worker import ModelSpec, language_model

MOST_PARTS = 512
"""Words of a map; the last ones before the output are kept."""
NAMED = 3
"""Parts named as gaining or losing a head's attention."""


@dataclass(frozen=True, kw_only=True)
class MapTask:
    """What the heads of one or two models look at."""

    model: ModelSpec
    question: Question
    compare: ModelSpec | None
    """The other model; None: no comparison."""
    path: str


def draw_maps(task: MapTask) -> str:
    """Attention between the parts of a text, and how two models' heads differ.

    Returns:
        The file.
    """
    loaded = language_model(task.model)
    prepared = prepare(loaded, task.question)
    parts = parts_of(prepared)
    maps = attention_maps(loaded, prepared.passages[0], parts)
    about: dict[str, Any] = {
        "words": [prepared.passages[0].text[u.start : u.end].strip() for u in parts],
        "layers": maps.maps_LHUU.shape[0],
        "heads": maps.maps_LHUU.shape[1],
    }
    about["labels"] = _labels(loaded, prepared)
    if task.compare is not None:
        about["compared"] = _compared(loaded, task.compare, prepared, parts)
    return str(write_maps(Path(task.path), maps.maps_LHUU, about))


def describe_maps(path: Path) -> dict[str, Any]:
    """What ``inputs.json`` says of the maps.

    Args:
        path: Of ``draw_maps``.

    Returns:
        Words, numbers of layers and heads, the comparison, and the file's name.
    """
    _, about = read_maps(path)
    return {**about, "matrices": path.name}


def parts_of(prepared: Prepared) -> list[Unit]:
    """The prompt's units, and the completion as one part."""
    passage = prepared.passages[0]
    said = Unit(level="completion", start=passage.begin, end=len(passage.text))
    return [*prepared.units[-MOST_PARTS:], said]


def _labels(loaded: LanguageModel, prepared: Prepared) -> dict[str, Any] | None:
    """How content flows through the label words of demonstrations; None where there are none."""
    passage, given = prepared.passages[0], prepared.question.examples
    answers = [e.answer for e in find_examples(passage, given) if e.answer is not None]
    labels = [
        Unit(level="word", start=start, end=end, label=passage.text[start:end].strip())
        for start, end in answers
    ]
    owned = set(text_owner(passage, labels).tolist())
    labels = [label for number, label in enumerate(labels) if number in owned]
    if not labels or len(prepared.passages) > 1:
        return None
    flow = label_flow(embed_target(loaded, prepared.passages, prepared.target), labels)
    return {
        "words": [label.label for label in labels],
        "unit": "mean |attention x gradient| of an edge, nats to first order",
        "to_labels": flow.to_labels_L.tolist(),
        "to_answer": flow.to_answer_L.tolist(),
        "between_words": flow.between_words_L.tolist(),
    }


def _compared(
    loaded: LanguageModel, other: ModelSpec, prepared: Prepared, parts: list[Unit]
) -> dict[str, Any]:
    """Every head, the most changed first; this model against the other, which no cache keeps."""
    kept = {k: v for k, v in asdict(other).items() if k in LOADED_BY}
    second = load_model(other.source, device=str(loaded.device), **kept)
    changes = compare_heads(loaded, second, prepared.passages[0], parts)
    text = prepared.passages[0].text
    words = [text[u.start : u.end].strip() for u in parts]
    return {
        "before": loaded.name,
        "after": second.name,
        "unit": "bits of Jensen-Shannon divergence, 0 to 1",
        "heads": [_head(change, words) for change in changes],
    }


LOADED_BY = ("tokenizer", "revision", "adapter", "gguf_file")


def _head(change: HeadChange, words: list[str]) -> dict[str, Any]:
    return {
        "layer": change.layer,
        "head": change.head,
        "change": change.divergence,
        "gained": [[words[u], float(change.change_U[u])] for u in change.gained[:NAMED]],
        "lost": [[words[u], float(change.change_U[u])] for u in change.lost[:NAMED]],
    }
