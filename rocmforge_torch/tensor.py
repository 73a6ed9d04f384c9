"""`GGUFTensor`: a matrix of GGUF blocks that PyTorch sees as a matrix of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .quant_types import quant_type, row_elements

aten = torch.ops.aten
ops = torch.ops.rocmforge

Handler = Callable[..., Any]
FUNCTIONS: dict[Any, Handler] = {}  # torch functions, met before autograd
OPS: dict[Any, Handler] = {}  # ATen overloads, met below autograd


class GGUFTensor(Tensor):
    """A tensor whose elements stay in GGUF blocks.

    Outside it has the shape and dtype of the numbers it stands for; inside it holds `qweight`. It
    is no leaf to train: gradients flow through it, not into it.

    Attributes:
        qweight: uint8 [..., rows, row_bytes], the blocks.
        qtype: the GGML type number.
        qlayout: 0: `qweight` holds the blocks as the file has them. 1: as `pack_weight` arranges
            them for the GPU; products are faster, but rows are no longer apart.
    """

    qweight: Tensor
    qtype: int
    qlayout: int

    @staticmethod
    def __new__(
        cls, qweight: Tensor, qtype: int, dtype: torch.dtype = torch.float32, layout: int = 0
    ) -> GGUFTensor:
        """Wrap blocks.

        Args:
            qweight: uint8 [..., row_bytes].
            qtype: the GGML type number.
            dtype: the floating-point dtype to compute in, which the tensor reports as its own.
            layout: 0, or 1 for a matrix that `pack_weight` returned.

        Raises:
            ValueError: the blocks do not fit the type or the layout, or `dtype` is no
                floating-point dtype.
        """
        if qweight.dtype != torch.uint8 or qweight.dim() == 0:
            raise ValueError(
                f"qweight must be uint8 [..., row_bytes], got {qweight.dtype} {list(qweight.shape)}"
            )
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
        if layout not in (0, 1) or (layout == 1 and qweight.dim() != 2):
            raise ValueError(
                "layout must be 0 (blocks as the file has them), or 1 (packed) for a matrix, got "
                f"{layout} for {list(qweight.shape)}"
            )
        shape = (*qweight.shape[:-1], row_elements(qtype, qweight.shape[-1]))
        self: GGUFTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=qweight.device, requires_grad=False
        )
        self.qweight = qweight
        self.qtype = qtype
        self.qlayout = layout
        return self

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers as an ordinary tensor of the same shape, in `dtype` or else in this one's."""
        blocks = self.unpacked().qweight
        values: Tensor = ops.dequantize(blocks, self.qtype, dtype or self.dtype)
        return values

    def packed(self) -> GGUFTensor:
        """The matrix in layout 1, for products on a GPU: a copy, or itself if it is packed."""
        if self.qlayout == 1:
            return self
        return GGUFTensor(ops.pack_weight(self.qweight, self.qtype), self.qtype, self.dtype, 1)

    def unpacked(self) -> GGUFTensor:
        """The same numbers in layout 0: a copy, or itself if it is not packed."""
        if self.qlayout == 0:
            return self
        return GGUFTensor(ops.unpack_weight(self.qweight, self.qtype), self.qtype, self.dtype)

    def __tensor_flatten__(self) -> tuple[list[str], tuple[int, torch.dtype, int]]:
        return ["qweight"], (self.qtype, self.dtype, self.qlayout)

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor],
        context: tuple[int, torch.dtype, int],
        outer_size: Sequence[int],
        outer_stride: Sequence[int],
    ) -> GGUFTensor:
        return GGUFTensor(inner["qweight"], *context)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        parts = (self.qweight, self.qtype, self.dtype, self.qlayout)
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter, (GGUFTensor(*parts), False)
        return GGUFTensor, parts

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return (
            f"GGUFTensor({quant_type(self.qtype).name}, shape={list(self.shape)}, "
            f"dtype={self.dtype}, device={self.device}{', packed' if self.qlayout else ''})"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = FUNCTIONS.get(func)
        if handler is not None:
            return handler(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        handler = OPS.get(func)
        if handler is None:
            raise NotImplementedError(
                f"{func} is not defined for a GGUFTensor; "
                "call .dequantize() to get an ordinary tensor"
            )
        return handler(func, *args, **(kwargs or {}))


def _handles(table: dict[Any, Handler], *keys: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        table.update(dict.fromkeys(keys, handler))
        return handler

    return register


def _wrap(like: GGUFTensor, qweight: Tensor, dtype: torch.dtype | None = None) -> GGUFTensor:
    return GGUFTensor(qweight, like.qtype, dtype or like.dtype, like.qlayout)


def _with_rows(what: object, tensor: GGUFTensor) -> GGUFTensor:
    if tensor.qlayout:
        raise NotImplementedError(
            f"{what} takes rows, which a packed GGUFTensor has not; call .unpacked() first"
        )
    return tensor


@_handles(FUNCTIONS, functional.linear)
def _linear(input: Tensor, weight: GGUFTensor, bias: Tensor | None = None) -> Tensor:
    if isinstance(input, GGUFTensor) or not isinstance(weight, GGUFTensor):
        raise NotImplementedError(
            "linear takes a GGUFTensor as its weight only; call .dequantize() on the others"
        )
    product: Tensor = ops.quant_matmul(input, weight.qweight, weight.qtype, bias, weight.qlayout)
    return product


@_handles(FUNCTIONS, functional.embedding)
def _embedding(
    input: Tensor,
    weight: GGUFTensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None:
        raise NotImplementedError(
            "embedding with max_norm would change a GGUFTensor; call .dequantize() first"
        )
    weight = _with_rows("embedding", weight)
    rows: Tensor = ops.quant_embedding(input, weight.qweight, weight.qtype, weight.dtype)
    return rows


@_handles(OPS, aten.detach.default, aten.alias.default, aten.clone.default)
def _same_blocks(func: Any, tensor: GGUFTensor, **kwargs: Any) -> GGUFTensor:
    return _wrap(tensor, func(tensor.qweight, **kwargs))


@_handles(OPS, aten._to_copy.default)
def _to_copy(
    func: Any, tensor: GGUFTensor, *, dtype: torch.dtype | None = None, **kwargs: Any
) -> GGUFTensor:
    """Moves the blocks; a new dtype changes what they compute in, not what they are.

    The packed layout is the GPU's: away from there it goes.
    """
    if tensor.qlayout and torch.device(kwargs.get("device") or tensor.device).type == "cpu":
        tensor = tensor.unpacked()
    return _wrap(tensor, func(tensor.qweight, **kwargs), dtype)


@_handles(OPS, aten.select.int, aten.slice.Tensor, aten.index_select.default)
def _rows(func: Any, tensor: GGUFTensor, dim: int = 0, *args: Any, **kwargs: Any) -> GGUFTensor:
    if dim not in (0, -tensor.dim()) or tensor.dim() < 2:
        raise NotImplementedError(
            f"{func} takes rows (dimension 0) of a GGUFTensor of two or more dimensions, got "
            f"dimension {dim} of {tensor.dim()}; call .dequantize() to get an ordinary tensor"
        )
    return _wrap(tensor, func(_with_rows(func, tensor).qweight, 0, *args, **kwargs))


@_handles(OPS, aten.index.Tensor)
def _index(func: Any, tensor: GGUFTensor, indices: Sequence[Tensor | None]) -> GGUFTensor:
    if len(indices) != 1 or tensor.dim() < 2:
        raise NotImplementedError(
            f"{func} takes one index, of rows, for a GGUFTensor of two or more dimensions; "
            "call .dequantize() to get an ordinary tensor"
        )
    return _wrap(tensor, func(_with_rows(func, tensor).qweight, indices))


torch.serialization.add_safe_globals([GGUFTensor])
