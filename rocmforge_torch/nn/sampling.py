"""What the sampling op is told about each row of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops  # noqa: F401  (registers the operators)


class SamplingRows(NamedTuple):
    """Parameters of `rocmforge::sample` for B rows, each a tensor [B] on the device of the logits.

    Attributes:
        temperature, top_p, min_p: float32.
        top_k, seed: int64.
        step: int64, how many tokens the row has drawn; with the seed it fixes what is drawn next.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    step: Tensor


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """logits [B, V] -> the chosen ids int64 [B]; `step` stays as it is."""
    ids: Tensor = torch.ops.rocmforge.sample.default(logits, *rows)
    return ids
