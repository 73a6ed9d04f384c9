"""Looking into models and changing their files: for experiments, not on the way to a text."""

from __future__ import annotations

from .divergence import Divergence, divergence, token_divergence
from .explain import Explanation, Use, explain
from .record import Recording, record
from .tensor_errors import TensorError, only_in_one, tensor_errors

__all__ = [
    "Divergence",
    "Explanation",
    "Recording",
    "TensorError",
    "Use",
    "divergence",
    "explain",
    "only_in_one",
    "record",
    "tensor_errors",
    "token_divergence",
]
