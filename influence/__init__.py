"""What influenced an output? Functions on tensors; no Dask, no files (but models are loaded here)."""

# texts and models
from influence.batches import Batch, Chunk, collate, plan_batches, with_targets

# which training documents?
from influence.documents.curvature import (
    eigenbasis,
    ekfac,
    merge_eigenvalues,
    merge_kronecker,
)
from influence.documents.fit import eigenvalue_sums, kronecker_sums
from influence.documents.gradients import per_document_gradients
from influence.documents.labels import sample_labels
from influence.documents.preconditioner import LayerCurvature, precondition
from influence.documents.scores import (
    SIGN,
    UNIT,
    contrast,
    directions,
    exact_scores,
    normalised,
    token_scores,
)
from influence.errors import GradientError, InfluenceError, ModelError, TextError
from influence.layers import Layer, tracked_layers
from influence.models import LanguageModel, load_model
from influence.text import Document, Encoding, encode, encode_query, token_texts

__all__ = [
    "SIGN",
    "UNIT",
    "Batch",
    "Chunk",
    "Document",
    "Encoding",
    "GradientError",
    "InfluenceError",
    "LanguageModel",
    "Layer",
    "LayerCurvature",
    "ModelError",
    "TextError",
    "collate",
    "contrast",
    "directions",
    "eigenbasis",
    "eigenvalue_sums",
    "ekfac",
    "encode",
    "encode_query",
    "exact_scores",
    "kronecker_sums",
    "load_model",
    "merge_eigenvalues",
    "merge_kronecker",
    "normalised",
    "per_document_gradients",
    "plan_batches",
    "precondition",
    "sample_labels",
    "token_scores",
    "token_texts",
    "tracked_layers",
    "with_targets",
]
