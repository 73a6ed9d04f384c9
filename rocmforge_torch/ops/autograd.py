"""Derivatives of the ops.

The products have their own: the backward of `quant_matmul` is `quant_matmul_transposed` and the
reverse, so the weights stay quantized in both directions. The other differentiable ops compute
their result again in another way and differentiate that: `quant_matmul_gated` and
`norm_quant_matmul` as the ops that they are made of, so that what holds of those holds of them; the
rest as their reference. In-place ops, and the overloads `out`, refuse tensors that need a gradient.
Under `torch.inference_mode()` and `no_grad()` nothing here costs a kernel or a saved tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import reference
from .out import OUTS
from .registry import LIBRARY, NAMESPACE, check

# Differentiable through the reference: op -> the positions of its differentiable arguments.
THROUGH_REFERENCE: dict[str, tuple[int, ...]] = {
    "rms_norm": (0, 1),
    "add_rms_norm": (0, 1, 2, 4),
    "rope": (0,),
    "silu_mul": (0, 1),
    "gelu_mul": (0, 1),
    "attention": (0, 1, 2, 9, 10),
}

# In place, without a derivative: op -> names of the tensors that must not need a gradient.
WITHOUT_DERIVATIVE: dict[str, tuple[str, ...]] = {
    "accumulate_": ("dst", "src"),
    "kv_cache_write_": ("k_cache", "v_cache", "k", "v"),
    "rope_kv_cache_write_": ("k_cache", "v_cache", "q", "k", "v", "q_norm", "k_norm"),
}


def _needs_grad(ctx: Any, position: int) -> bool:
    # The dispatcher drops trailing arguments that have their default value.
    return position < len(ctx.needs_input_grad) and bool(ctx.needs_input_grad[position])


def _differentiate_as(
    name: str, function: Callable[..., Any], differentiable: tuple[int, ...]
) -> None:
    """The derivative of an op is that of `function`, of the same arguments."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
        ctx.others = [None if isinstance(a, Tensor) else a for a in inputs]
        ctx.tensor_positions = [i for i, a in enumerate(inputs) if isinstance(a, Tensor)]

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        args = list(ctx.others)
        for i, tensor in zip(ctx.tensor_positions, ctx.saved_tensors, strict=True):
            args[i] = tensor
        wanted = [i for i in differentiable if _needs_grad(ctx, i)]
        with torch.enable_grad():
            # A view apiece: one input may have been computed from another.
            inputs = []
            for i in wanted:
                args[i] = args[i].view_as(args[i])
                inputs.append(args[i])
            outputs = function(*args)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        used = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
        found = torch.autograd.grad(
            [out for out, _ in used],
            inputs,
            [grad for _, grad in used],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        result: list[Tensor | None] = [None] * len(args)
        for i, grad in zip(wanted, found, strict=True):
            result[i] = grad
        return tuple(result)

    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY
    )


def _matmul_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, qweight, ctx.qtype, bias, ctx.layout = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(qweight)


def _matmul_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (qweight,) = ctx.saved_tensors
    grad_x = grad_bias = None
    if _needs_grad(ctx, 0):
        if ctx.layout == 1:
            qweight = torch.ops.rocmforge.unpack_weight(qweight, ctx.qtype)
        grad_x = torch.ops.rocmforge.quant_matmul_transposed(grad, qweight, ctx.qtype)
    if _needs_grad(ctx, 3):
        rows = grad.reshape(-1, grad.shape[-1])
        grad_bias = rows.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, None


def _gated_product(
    x: Tensor,
    qweight_gate_up: Tensor,
    qtype: int,
    act: str,
    bias: Tensor | None = None,
    layout: int = 0,
) -> Tensor:
    product = torch.ops.rocmforge.quant_matmul(x, qweight_gate_up, qtype, bias, layout)
    gate, up = product.chunk(2, -1)
    act_mul = {"silu": torch.ops.rocmforge.silu_mul, "gelu": torch.ops.rocmforge.gelu_mul}[act]
    return act_mul(gate, up)


def _norm_product(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    qweight: Tensor,
    qtype: int,
    act: str = reference.UNGATED,
    bias: Tensor | None = None,
    layout: int = 0,
    residual: Tensor | None = None,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    ops = torch.ops.rocmforge
    if residual is not None:
        normed, total = ops.add_rms_norm(x, residual, weight, eps, x_weight)
    else:
        total = x if x_weight is None else ops.rms_norm(x, x_weight, eps)
        normed = ops.rms_norm(total, weight, eps)
    if act == reference.UNGATED:
        return ops.quant_matmul(normed, qweight, qtype, bias, layout), total
    return ops.quant_matmul_gated(normed, qweight, qtype, act, bias, layout), total


# Differentiable through other ops: op -> what it is made of, and as in THROUGH_REFERENCE.
THROUGH_OPS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "quant_matmul_gated": (_gated_product, (0, 4)),
    "norm_quant_matmul": (_norm_product, (0, 1, 6, 8, 9)),
}


def _transposed_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, qweight, ctx.qtype = inputs
    ctx.save_for_backward(qweight)


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (qweight,) = ctx.saved_tensors
    return torch.ops.rocmforge.quant_matmul(grad, qweight, ctx.qtype), None, None


def _refuse_gradients(name: str, overload: str, tensors: tuple[str, ...], what: str) -> None:
    """Has the op refuse a gradient for the arguments `tensors`."""
    op = getattr(getattr(torch.ops.rocmforge, name), overload)
    arguments = op._schema.arguments
    written = [a.name for a in arguments if a.alias_info is not None]

    def run(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        # The dispatcher drops trailing arguments that have their default value.
        given = {a.name: value for a, value in zip(arguments, args, strict=False)} | kwargs
        for tensor in tensors:
            value = given.get(tensor)
            check(
                not (torch.is_grad_enabled() and value is not None and value.requires_grad),
                name,
                f"{tensor} requires a gradient, but {what} has no derivative; call it under "
                "torch.no_grad() or detach the tensor",
            )
        with torch._C._AutoDispatchBelowAutograd():
            result = op.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)
        # What autograd saved of them is void.
        torch.autograd.graph.increment_version([given[key] for key in written])
        return result

    LIBRARY.impl(op.name(), run, "Autograd", with_keyset=True)


def _tensors(op: torch._ops.OpOverload) -> tuple[str, ...]:
    """The names of an op's arguments that are tensors."""
    return tuple(a.name for a in op._schema.arguments if "Tensor" in str(a.type))


for _name, _positions in THROUGH_REFERENCE.items():
    _differentiate_as(_name, getattr(reference, _name), _positions)
for _name, (_made_of, _positions) in THROUGH_OPS.items():
    _differentiate_as(_name, _made_of, _positions)
for _name, _arguments in WITHOUT_DERIVATIVE.items():
    _refuse_gradients(_name, "default", _arguments, "this in-place op")
for _name in OUTS:
    _op = getattr(torch.ops.rocmforge, _name).out
    _refuse_gradients(_name, "out", _tensors(_op), "writing to out")
torch.library.register_autograd(
    f"{NAMESPACE}::quant_matmul", _matmul_backward, setup_context=_matmul_setup, lib=LIBRARY
)
torch.library.register_autograd(
    f"{NAMESPACE}::quant_matmul_transposed",
    _transposed_backward,
    setup_context=_transposed_setup,
    lib=LIBRARY,
)
