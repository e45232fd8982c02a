"""Pages and terminal tables made from the results of a run."""

from pipelines.report.terminal import print_trace
from pipelines.report.trace_page import render_index, render_trace, write_trace_page

__all__ = ["print_trace", "render_index", "render_trace", "write_trace_page"]
