"""Cost against documents, tokens, layers, width, queries, workers and tasks: see docs/scaling.md."""
