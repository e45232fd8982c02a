"""Pages and terminal tables made from the results of a run."""

from pipelines.report.inputs_page import render_inputs, write_inputs_index, write_inputs_page
from pipelines.report.inputs_terminal import print_inputs
from pipelines.report.terminal import print_trace
from pipelines.report.trace_page import render_index, render_trace, write_trace_page

__all__ = [
    "print_inputs",
    "print_trace",
    "render_index",
    "render_inputs",
    "render_trace",
    "write_inputs_index",
    "write_inputs_page",
    "write_trace_page",
]
