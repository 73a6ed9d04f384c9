"""A model written as a GGUF file, each tensor in the type that its plan says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..gguf import TensorSource, write_gguf
from ..ops.reference import WEIGHTED, weighted_quantize
from ..tensor import GGUFTensor
from .importance import Importance
from .model_source import ModelSource
from .plan import Plan, Recipe

QUANTIZATION_VERSION = 2  # of ggml's block layouts

Report = Callable[[int], object]


def write_quantized(
    path: str | os.PathLike[str],
    model: ModelSource,
    plans: Sequence[Plan],
    wanted: Recipe,
    importance: Importance | None = None,
    report: Report = lambda elements: None,
) -> None:
    """Write `model` to `path` as `plans` say; the file appears whole or not at all.

    Tensors are converted one after the other, some rows at a time: beside the mapped input, memory
    holds a few hundred MiB at most, whatever the model's size.

    Args:
        path: the file to write.
        model: what is written.
        plans: one per tensor.
        wanted: what the file as a whole is called after.
        importance: of the columns of its matrices, which the search for scales then weighs.
        report: called with the number of elements done.

    Raises:
        ValueError: the model holds what GGUF cannot store, or importance of another model.
        OSError: `path` cannot be written.
    """
    if importance is not None:
        importance.check(plan.source for plan in plans)
    sources = [
        TensorSource(
            plan.source.name,
            plan.target,
            plan.source.shape,
            partial(_pieces, plan, importance, report),
        )
        for plan in plans
    ]
    write_gguf(path, _metadata(model, wanted, importance), sources)


def uses_importance(plan: Plan, importance: Importance) -> bool:
    """Whether a tensor's errors are weighed: it changes, is known, and its type is searched."""
    known = importance.columns(plan.source) is not None
    return plan.changes and known and plan.target.id in WEIGHTED


def _pieces(plan: Plan, importance: Importance | None, report: Report) -> Iterator[Tensor]:
    """The bytes of a tensor in its new type."""
    source, target = plan.source, plan.target.id
    if not plan.changes:
        tensor = source.load()
        yield tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        report(source.elements)
        return
    weights = None
    if importance is not None and uses_importance(plan, importance):
        weights = importance.columns(source)
    for matrix, rows in source.rows():
        if weights is None:
            yield torch.ops.rocmforge.quantize(rows, target)
        else:
            yield weighted_quantize(rows, target, weights[matrix % len(weights)])
        report(rows.numel())


def _metadata(model: ModelSource, wanted: Recipe, importance: Importance | None) -> dict[str, Any]:
    """The model's keys; those about quantization say what the new file is."""
    metadata = dict(model.metadata)
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    metadata["general.file_type"] = wanted.mix.file_type
    for key in [key for key in metadata if key.startswith("quantize.imatrix.")]:
        del metadata[key]
    return metadata | ({} if importance is None else importance.provenance())
