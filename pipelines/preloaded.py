"""What every local worker needs, imported once in the server process that workers are forked from.

Frozen, so that no worker's garbage collector touches (and thereby copies) the shared pages.
"""

import gc
from importlib import import_module

for name in (
    "pipelines",
    "distributed.worker",
    "transformers.generation.utils",
    "transformers.modeling_layers",
):
    import_module(name)
gc.freeze()
