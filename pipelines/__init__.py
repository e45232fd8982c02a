"""Whole runs: corpus, training, curvature, gradients, traces; on Dask, in a run folder."""

from pipelines.cluster import Workers
from pipelines.config import RunConfig, read_run
from pipelines.errors import RunError
from pipelines.queries import Query, read_queries
from pipelines.runs import Run, build_run, open_run, open_traced
from pipelines.traces import TraceOptions, run_traces, write_all_scores

__all__ = [
    "Query",
    "Run",
    "RunConfig",
    "RunError",
    "TraceOptions",
    "Workers",
    "build_run",
    "open_run",
    "open_traced",
    "read_queries",
    "read_run",
    "run_traces",
    "write_all_scores",
]
