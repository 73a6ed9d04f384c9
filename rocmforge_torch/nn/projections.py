"""Projections of one input, some of them in one matrix: fewer ops, whose input is rounded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .linear import QuantLinear

ops = torch.ops.rocmforge


class Projections(nn.ModuleList):
    """Layers of the same in_features.

    After `fuse_` a layer may hold several of the projections, the rows of the first before those of
    the next. A state_dict does not change by it: it has every projection under its own number.
    """

    def __init__(self, linears: Sequence[QuantLinear]) -> None:
        super().__init__(linears)
        self.rows = [[linear.out_features] for linear in linears]

    def fuse_(self) -> Projections:
        """Make neighbours one layer; returns itself.

        Types, layouts and dtypes of biases must agree, and all or none have a bias. The rows are
        copied; a layer without such a neighbour stays as it is.
        """
        linears: list[Any] = list(self)
        runs: list[list[int]] = []
        for i, linear in enumerate(linears):
            if runs and _kind(linears[runs[-1][-1]]) == _kind(linear):
                runs[-1].append(i)
            else:
                runs.append([i])
        self.rows = [[n for i in run for n in self.rows[i]] for run in runs]
        del self[:]
        self.extend(_stacked([linears[i] for i in run]) for run in runs)
        return self

    def _places(self) -> Iterator[tuple[str, list[str], list[int]]]:
        """For every layer its number, those of its projections, and their rows."""
        first = 0
        for i, rows in enumerate(self.rows):
            yield str(i), [str(first + j) for j in range(len(rows))], rows
            first += len(rows)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of the projections: views of the rows where a layer holds several."""
        destination = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        layers = {i: _taken(destination, f"{prefix}{i}.") for i, _, _ in self._places()}
        for i, numbers, rows in self._places():
            for name, value in layers[i].items():
                parts = value.split(rows) if len(rows) > 1 else [value]
                for number, part in zip(numbers, parts, strict=True):
                    destination[f"{prefix}{number}.{name}"] = part
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for i, numbers, _ in self._places():
            projections = [_taken(state_dict, f"{prefix}{number}.") for number in numbers]
            for name in projections[0]:
                parts = [values[name] for values in projections if name in values]
                state_dict[f"{prefix}{i}.{name}"] = torch.cat(parts) if parts[1:] else parts[0]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _taken(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The entries under a prefix, by what follows it; the state has them no more."""
    keys = [key for key in state if key.startswith(prefix)]
    return {key.removeprefix(prefix): state.pop(key) for key in keys}


def _kind(linear: QuantLinear) -> tuple[object, ...]:
    """What layers that become one must have in common."""
    bias = None if linear.bias is None else linear.bias.dtype
    return linear.qtype, linear.layout, linear.in_features, linear.qweight.device, bias


def _stacked(linears: list[QuantLinear]) -> QuantLinear:
    if len(linears) == 1:
        return linears[0]
    qtype, layout = linears[0].qtype, linears[0].layout
    blocks = [linear.qweight for linear in linears]
    if layout == 1:  # planes of a matrix do not follow each other: by way of blocks
        blocks = [ops.unpack_weight(packed, qtype) for packed in blocks]
    qweight = torch.cat(blocks)
    if layout == 1:
        qweight = ops.pack_weight(qweight, qtype)
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return QuantLinear(qweight, qtype, torch.cat(biases) if biases else None, layout)
