"""Looking into models and changing their files: for experiments, not on the way to a text."""

from __future__ import annotations

from .divergence import Divergence, divergence, token_divergence
from .explanation import Explanation, Use, explain
from .patch import head_parts, part_of, patched, requantized, write_patched
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
    "head_parts",
    "only_in_one",
    "part_of",
    "patched",
    "record",
    "requantized",
    "tensor_errors",
    "token_divergence",
    "write_patched",
]
