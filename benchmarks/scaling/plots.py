"""The plots of docs/scaling.md, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "scaling"  # equal plots have equal bytes
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["font.size"] = 9

from matplotlib import pyplot  # noqa: E402

Record = dict[str, Any]


def draw(records: list[Record], folder: Path) -> list[Path]:
    """Draw what the records hold.

    Args:
        records: Of any parts.
        folder: Where the files go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, plot in (("search", search), ("model", model), ("scheduler", scheduler)):
        own = [record for record in records if record["part"] == name]
        if own:
            figure = plot(own)
            found.append(folder / f"scaling-{name}.svg")
            figure.savefig(found[-1], metadata={"Date": None})
            pyplot.close(figure)
    return found


def search(records: list[Record]) -> Any:
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    rows = [r for r in records if r["series"] == "rows"]
    for queries in sorted({r["queries"] for r in rows}):
        own = [r for r in rows if r["queries"] == queries]
        label = f"{queries} quer{'y' if queries == 1 else 'ies'}"
        curve(axes[0], own, lambda r: r["rows"], lambda r: r["cpu"], label)
        curve(axes[2], own, lambda r: r["rows"], lambda r: r["peak_mb"], label)
    curve(axes[1], own, lambda r: r["rows"], lambda r: r["bytes"] / 1e6, "store")
    titled(axes[0], "search", "documents", "CPU-seconds")
    titled(axes[1], "store on disk", "documents", "MB")
    titled(axes[2], "peak memory of the process", "documents", "MB")
    axes[2].set_yscale("linear")
    axes[2].set_ylim(bottom=0)
    return figure


def model(records: list[Record]) -> Any:
    series = list(dict.fromkeys(r["series"] for r in records))
    figure, axes = pyplot.subplots(
        1, len(series), figsize=(2.4 * len(series), 2.8), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], series, strict=True):
        own = [r for r in records if r["series"] == name]
        for stage in dict.fromkeys(r["stage"] for r in own):
            points = [r for r in own if r["stage"] == stage]
            curve(axis, points, lambda r: r["x"], lambda r: r["cpu"], stage)
        label = "tokens of a document" if name == "tokens" else name
        titled(axis, f"against {name}", label, "CPU-seconds", "linear")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    return figure


def scheduler(records: list[Record]) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for axis, process in zip(axes, ("client", "scheduler"), strict=True):
        for key in dict.fromkeys((r["way"], r["specs"], r["log"]) for r in records):
            own = [r for r in records if (r["way"], r["specs"], r["log"]) == key]
            way, specs, log = key
            curve(
                axis,
                sorted(own, key=lambda r: r["tasks"]),
                lambda r: r["tasks"],
                lambda r, process=process: max(r["peak_growth_mb"][process], 0.1),  # a log axis
                f"{way}, {'with' if specs == 'ids' else 'without'} ids, log {log:,}",
            )
        titled(axis, f"memory of the {process}", "tasks", "growth at most, MB")
    return figure


def curve(
    axis: Any,
    records: Iterable[Record],
    x: Callable[[Record], float],
    y: Callable[[Record], float],
    label: str,
) -> None:
    points = [(x(record), y(record)) for record in records]
    axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)


def titled(axis: Any, title: str, x: str, y: str, scale: str = "log") -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_xscale(scale)
    axis.set_yscale(scale)
    axis.grid(alpha=0.3, linewidth=0.5)
    axis.legend(fontsize=7)
