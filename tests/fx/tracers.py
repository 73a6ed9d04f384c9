"""Graphs of real modules, as every tracer of PyTorch writes them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx.experimental.proxy_tensor import make_fx


@dataclass
class Traced:
    """A graph and what it was called with."""

    gm: fx.GraphModule
    inputs: list[Any]


def symbolic(module: nn.Module, inputs: Sequence[Any]) -> list[Traced]:
    return [Traced(fx.symbolic_trace(module), list(inputs))]


def exported(module: nn.Module, inputs: Sequence[Any]) -> list[Traced]:
    return [Traced(torch.export.export(module, tuple(inputs)).module(), list(inputs))]


def decomposed(module: nn.Module, inputs: Sequence[Any]) -> list[Traced]:
    program = torch.export.export(module, tuple(inputs)).run_decompositions()
    return [Traced(program.module(), list(inputs))]


def made(module: nn.Module, inputs: Sequence[Any]) -> list[Traced]:
    """By make_fx: ATen ops as they are dispatched, in-place ones included."""
    return [Traced(make_fx(module)(*inputs), list(inputs))]


def compiled(module: nn.Module, inputs: Sequence[Any]) -> list[Traced]:
    """Dynamo's graph and AOTAutograd's of it: forward, and backward where something is trained."""
    graphs: list[Traced] = []

    def note(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        run = copy.deepcopy(gm)  # what is noted stays as it was

        def call(*arguments: Any) -> Any:
            graphs.append(Traced(gm, [_detached(a) for a in arguments]))
            return run(*arguments)

        return make_boxed_func(call)

    def backend(gm: fx.GraphModule, examples: Sequence[Any]) -> Any:
        graphs.append(Traced(copy.deepcopy(gm), [_detached(e) for e in examples]))
        return aot_autograd(fw_compiler=note, bw_compiler=note)(gm, examples)

    torch._dynamo.reset()
    result = torch.compile(module, backend=backend, fullgraph=True)(*inputs)
    if result.requires_grad:
        result.square().mean().backward()
    torch._dynamo.reset()
    return graphs


def _detached(value: Any) -> Any:
    """A copy with the same strides."""
    if not isinstance(value, Tensor):
        return value
    copied = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return copied.copy_(value.detach())
