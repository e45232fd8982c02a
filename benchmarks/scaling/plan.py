"""The arithmetic of a large run: work, bytes, tasks and hours from stated assumptions.

All formulas stand here, so that the page can be checked and other assumptions tried.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Model:
    """Shapes of a Llama-style model."""

    name: str
    blocks: int
    width: int
    key_value: int
    mlp: int
    vocabulary: int

    def layers(self) -> list[tuple[int, int]]:
        """``(O, I)`` of the linear layers of the blocks."""
        d, k, m = self.width, self.key_value, self.mlp
        return self.blocks * [(d, d), (k, d), (k, d), (d, d), (m, d), (m, d), (d, m)]


MODELS = (
    Model(name="135M", blocks=30, width=576, key_value=192, mlp=1536, vocabulary=49152),
    Model(name="1B", blocks=16, width=2048, key_value=512, mlp=8192, vocabulary=128256),
)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the arithmetic rests on; nothing of it was measured here unless it says so."""

    documents: float = 1e9
    tokens: float = 512
    """Tokens of a document."""
    fit_documents: float = 1e6
    """Documents of the sample that the curvature is fitted on."""
    documents_per_shard: int = 4096
    dimension: int = 4096
    """int8 numbers kept of each gradient."""
    gpus: int = 256
    flops: float = 2e13
    """Sustained float32 operations a second of one GPU."""
    machine_gpus: int = 8
    disk: float = 2e9
    """Bytes a second that one machine reads from the shared store."""
    scan: float = 5.3e9
    """Bytes of int8 rows a second and core that a search of one query passes (measured)."""
    cores: int = 32
    """Cores of a machine that search."""
    scheduler: float = 1.2e-3
    """Scheduler's seconds of processor time a task (measured)."""
    head_rank: int = 256


def work_a_token(model: Model, tokens: float, head_rank: int) -> dict[str, float]:
    """Floating-point operations a token of fit and index.

    Counted from the matrix products' shapes, as in ``benchmarks.scaling.model.work``; the low-rank
    head has ``(head_rank, width)`` gradients, and its whole products forward and backward.
    """
    shapes = [*model.layers(), (head_rank, model.width)]
    parameters = sum(o * i for o, i in model.layers()) + model.vocabulary * model.width
    one_pass = 2.0 * parameters
    gradients = sum(2.0 * o * i for o, i in shapes)
    rotation = sum(min(2.0 * (o * o + i * i), 2.0 * o * i * (o + i) / tokens) for o, i in shapes)
    factors = sum(1.0 * (o * o + i * i) for o, i in shapes)
    return {
        "fit": 4 * one_pass + factors + gradients + rotation,
        "index": 2 * one_pass + gradients + rotation,
    }


def plan(model: Model, given: Assumptions) -> dict[str, float]:
    """Tasks, bytes and hours of one run.

    Args:
        model: The model.
        given: The assumptions.

    Returns:
        Figures by name; hours are of all GPUs together working side by side.
    """
    work = work_a_token(model, given.tokens, given.head_rank)
    rate = given.gpus * given.flops
    machines = given.gpus / given.machine_gpus
    store = given.documents * (given.dimension + 50.0)
    tasks = given.documents / given.documents_per_shard
    factors = sum(8.0 * (o * o + i * i) for o, i in model.layers())
    index_seconds = given.documents * given.tokens * work["index"] / rate
    read_seconds = store / (machines * min(given.disk, given.scan * given.cores))
    return {
        "fit_flops_a_token": work["fit"],
        "index_flops_a_token": work["index"],
        "fit_hours": given.fit_documents * given.tokens * work["fit"] / rate / 3600,
        "index_hours": index_seconds / 3600,
        "store_bytes": store,
        "write_bytes_a_second": store / index_seconds,
        "tasks": tasks,
        "tasks_a_second": tasks / index_seconds,
        "task_minutes": index_seconds * given.gpus / tasks / 60,
        "scheduler_hours": tasks * given.scheduler / 3600,
        "factor_bytes_a_partial": factors,
        "factor_bytes_moved": 2.0 * given.gpus * factors,
        "search_seconds_one_machine": read_seconds * machines,
        "search_seconds_all_machines": read_seconds,
        "token_bytes": given.documents * given.tokens * (4 + 1 / 8),
    }
