"""Random graphs as make_fx traces them: ATen ops, symbolic shapes, in-place and random ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from tests.fx.outcomes import Case

rocmforge = torch.ops.rocmforge
Q4_0 = 2
_numbers = torch.Generator().manual_seed(2)
Q, K = (rocmforge.quantize(torch.randn(32, 32, generator=_numbers), Q4_0) for _ in range(2))
NORM = torch.rand(32, generator=_numbers) + 0.5

# Tensors are [n, 32], n symbolic in some graphs; results may have other shapes.
STEPS: list[Callable[[Tensor, Tensor], Any]] = [
    lambda x, y: x.sin(),
    lambda x, y: x * 2 + 1,
    lambda x, y: x.softmax(-1),
    lambda x, y: x.sum(-1, keepdim=True),
    lambda x, y: x.mean(0),
    lambda x, y: x.topk(3).values,
    lambda x, y: x.topk(3).indices * 2.5,
    lambda x, y: x.half(),
    lambda x, y: x.float(),
    lambda x, y: x.clone(),
    lambda x, y: x.relu(),
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: torch.maximum(x, y),
    lambda x, y: torch.where(x > 0, x, y),
    lambda x, y: x @ y.t(),
    lambda x, y: torch.cat([x, y]),
    lambda x, y: torch.cat([x, y])[: x.shape[0]],
    lambda x, y: x.new_zeros(x.shape[0], 32),
    lambda x, y: torch.zeros(4, 32) + 1,
    lambda x, y: torch.arange(x.shape[0]).float().unsqueeze(-1) + x,
    lambda x, y: x * x.shape[0],
    lambda x, y: x * (x.shape[0] // 2 + 1),
    lambda x, y: x.view(x.shape[0] * 2, 16),
    lambda x, y: x.view(-1),
    lambda x, y: x.reshape(-1, 32),
    lambda x, y: x.view(x.shape[0], 2, 16).transpose(1, 2),
    lambda x, y: x.transpose(0, 1),
    lambda x, y: x.transpose(0, 1).contiguous(),
    lambda x, y: x[1:],
    lambda x, y: x[:, ::2],
    lambda x, y: x[0],
    lambda x, y: x[:2],
    lambda x, y: x.expand(2, *x.shape),
    lambda x, y: x.chunk(2, -1)[1],
    lambda x, y: x.unsqueeze(0).squeeze(0),
    lambda x, y: x.add_(1),
    lambda x, y: x.mul_(y),
    lambda x, y: x.copy_(y),
    lambda x, y: x[:, :2].fill_(3),
    lambda x, y: x.t_(),
    lambda x, y: torch.sin(y, out=x),
    lambda x, y: torch.rand_like(x),
    lambda x, y: functional.dropout(x, 0.5),
    lambda x, y: x.bernoulli_(0.5),
    lambda x, y: torch.randn(x.shape[0], 32),
    lambda x, y: rocmforge.quant_matmul(x, Q, Q4_0),
    lambda x, y: rocmforge.quant_matmul(x, K, Q4_0),
    lambda x, y: rocmforge.rms_norm(x, NORM, 1e-6),
    lambda x, y: rocmforge.add_rms_norm(x, y, NORM, 1e-6)[1],
    lambda x, y: rocmforge.add_rms_norm(x, y, None, 1e-6)[0],
    lambda x, y: rocmforge.silu_mul(x, y),
    lambda x, y: rocmforge.accumulate_(x, y, torch.zeros((), dtype=torch.int64)),
]


def _evaluate(inputs: list[Tensor], steps: list[tuple[int, int, int]]) -> list[Tensor]:
    values = list(inputs)
    for which, i, j in steps:
        result = STEPS[which](values[i], values[j])
        if isinstance(result, Tensor):
            values.append(result)
    return values


@st.composite
def traced_cases(draw: st.DrawFn, length: int = 10, symbolic: bool | None = None) -> Case:
    """A graph of [n, 32] inputs, traced for n = 4; if it is symbolic, run with another n."""
    count = draw(st.integers(1, 3))
    steps: list[tuple[int, int, int]] = []
    real = [torch.rand(4, 32) for _ in range(count)]
    values = list(real)
    for _ in range(draw(st.integers(1, length))):
        if steps and draw(st.integers(0, 3)) == 0:
            step = draw(st.sampled_from(steps))
        else:
            operands = (draw(st.integers(0, len(values) - 1)) for _ in range(2))
            step = (draw(st.integers(0, len(STEPS) - 1)), *operands)
        try:
            result = STEPS[step[0]](values[step[1]], values[step[2]])
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue
        steps.append(step)
        if isinstance(result, Tensor):
            values.append(result)
    chosen = [draw(st.integers(0, len(values) - 1)) for _ in range(draw(st.integers(1, 2)))]
    if symbolic is None:
        symbolic = draw(st.booleans())

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_evaluate(list(inputs), steps)[i] for i in chosen)

    fresh = [torch.rand(4, 32) for _ in range(count)]
    mode = "symbolic" if symbolic else "real"
    with torch.no_grad():
        try:
            gm = make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=True)(*fresh)
        except Exception:  # what the tracer refuses
            assume(False)
        examples = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
        # Symbols that an op held to 4 are no symbols any more.
        free = symbolic and not any(type(e.shape[0]) is int for e in examples)
        rows = draw(st.sampled_from([4, 6])) if free else 4
        try:
            gm(*[torch.rand(rows, 32) for _ in range(count)])
        except Exception:  # what the tracer gets wrong, and what does not work for six rows
            assume(False)

    def make_inputs() -> list[Tensor]:
        return [torch.randn(rows, 32) for _ in range(count)]

    return Case(gm, make_inputs, examples if symbolic else None)
