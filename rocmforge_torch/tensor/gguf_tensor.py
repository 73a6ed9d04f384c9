"""The class: what it holds, how it is made, written down and taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing

from ..ops.checks import FLOATS
from ..quant_types import quant_type, row_elements
from .dispatch import FUNCTIONS, OPS, NoQuantizedForm
from .fallback import without_quantized_form

ops = torch.ops.rocmforge

Context = tuple[int, torch.dtype, int, bool]


class GGUFTensor(Tensor):
    """A tensor whose elements stay in GGUF blocks.

    Outside it has the shape and dtype of the numbers it stands for; inside it holds `qweight`.
    Products compute in the dtype of what they are multiplied with, look-ups and `dequantize` in
    this one's. A weight that requires a gradient gets an ordinary one, of its own size; no
    optimizer can step it.

    Attributes:
        qweight: uint8 [..., rows, row_bytes], the blocks.
        qtype: the GGML type number.
        qlayout: 0: `qweight` holds the blocks as the file has them. 1: as `pack_weight` arranges
            them for the GPU; products are faster, but rows are no longer apart.
        transposed: whether the last two dimensions are seen swapped, [..., row, rows], as in a
            view that `.t()` or `.mT` made; `qweight` is the same.
    """

    qweight: Tensor
    qtype: int
    qlayout: int
    transposed: bool

    @staticmethod
    def __new__(
        cls,
        qweight: Tensor,
        qtype: int,
        dtype: torch.dtype = torch.float32,
        layout: int = 0,
        transposed: bool = False,
    ) -> GGUFTensor:
        """Wrap blocks.

        Args:
            qweight: uint8 [..., row_bytes].
            qtype: the GGML type number.
            dtype: the floating-point dtype to compute in, which the tensor reports as its own.
            layout: 0, or 1 for a matrix that `pack_weight` returned.
            transposed: swap the last two dimensions outside.

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
        if transposed and qweight.dim() < 2:
            raise ValueError(
                f"transposed needs a qweight of two or more dimensions, got {list(qweight.shape)}"
            )
        row = quant_type(qtype)
        size = [*qweight.shape[:-1], row_elements(row, qweight.shape[-1])]
        # As many numbers apart as blocks are, so that contiguous blocks are a contiguous tensor.
        stride = [s // row.block_bytes * row.block_size for s in qweight.stride()[:-1]] + [1]
        if transposed:
            size[-2:], stride[-2:] = size[:-3:-1], stride[:-3:-1]
        return cls._wrap(qweight, (qtype, dtype, layout, transposed), size, stride)

    @classmethod
    def _wrap(
        cls, qweight: Tensor, context: Context, size: Sequence[int], stride: Sequence[int]
    ) -> GGUFTensor:
        qtype, dtype, layout, transposed = context
        row = quant_type(qtype)
        self: GGUFTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            size,
            strides=stride,
            storage_offset=qweight.storage_offset() // row.block_bytes * row.block_size,
            dtype=dtype,
            device=qweight.device,
            requires_grad=False,
        )
        self.qweight = qweight
        self.qtype = qtype
        self.qlayout = layout
        self.transposed = transposed
        return self

    def with_blocks(self, qweight: Tensor, dtype: torch.dtype | None = None) -> GGUFTensor:
        """A tensor like this one in everything, over other blocks (and of another dtype)."""
        return GGUFTensor(qweight, self.qtype, dtype or self.dtype, self.qlayout, self.transposed)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers as an ordinary tensor of the same shape, in `dtype` or else in this one's."""
        dtype = dtype or self.dtype
        blocks = self.unpacked().qweight
        values: Tensor = ops.dequantize(
            blocks, self.qtype, dtype if dtype in FLOATS else torch.float32
        ).to(dtype)
        return values.mT if self.transposed else values

    def packed(self) -> GGUFTensor:
        """The matrix in layout 1, for products on a GPU: a copy, or itself if it is packed."""
        if self.qlayout == 1:
            return self
        blocks = ops.pack_weight(self.qweight, self.qtype)
        return GGUFTensor(blocks, self.qtype, self.dtype, 1, self.transposed)

    def unpacked(self) -> GGUFTensor:
        """The same numbers in layout 0: a copy, or itself if it is not packed."""
        if self.qlayout == 0:
            return self
        blocks = ops.unpack_weight(self.qweight, self.qtype)
        return GGUFTensor(blocks, self.qtype, self.dtype, 0, self.transposed)

    @property
    def _context(self) -> Context:
        return self.qtype, self.dtype, self.qlayout, self.transposed

    def __tensor_flatten__(self) -> tuple[list[str], Context]:
        return ["qweight"], self._context

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor],
        context: Context,
        outer_size: Sequence[int],
        outer_stride: Sequence[int],
    ) -> GGUFTensor:
        return GGUFTensor._wrap(inner["qweight"], context, outer_size, outer_stride)

    def _stable_hash_for_caching(self) -> str:
        """What compiled code depends on, for PyTorch's caches of it."""
        return repr((*self._context, tuple(self.shape), self.stride(), self.device))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        parts = (self.qweight, *self._context)
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter, (GGUFTensor(*parts), self.requires_grad)
        return GGUFTensor, parts

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        traits = {
            ", packed": self.qlayout == 1,
            ", transposed": self.transposed,
            ", requires_grad=True": self.requires_grad,
        }
        return (
            f"GGUFTensor({quant_type(self.qtype).name}, shape={list(self.shape)}, "
            f"dtype={self.dtype}, device={self.device}"
            f"{''.join(trait for trait, holds in traits.items() if holds)})"
        )

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: torch.Size, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor, ...], None]:
        """What `fully_shard` gathers: the blocks of this rank's rows.

        Raises:
            ValueError: the rows do not divide evenly among the ranks. (PyTorch takes padded
                shards only in the shape of the tensor outside.)
        """
        if outer_size[0] % mesh.size():
            raise ValueError(
                f"fully_shard needs the rows of a GGUFTensor, {outer_size[0]}, to divide evenly "
                f"among {mesh.size()} ranks; name the parameter in ignored_params"
            )
        return (self.qweight,), None

    def fsdp_post_all_gather(
        self,
        all_gather_outputs: tuple[Tensor, ...],
        metadata: None,
        param_dtype: torch.dtype,
        *,
        out: Tensor | None = None,
    ) -> tuple[GGUFTensor, tuple[Tensor, ...]] | None:
        """The whole weight, to compute in `param_dtype`; `out` already holds the same memory."""
        if out is not None:
            return None
        return self.with_blocks(all_gather_outputs[0], param_dtype), all_gather_outputs

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = FUNCTIONS.get(func)
        if handler is not None:
            return handler(func, *args, **(kwargs or {}))
        return plainly(func, *args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = OPS.get(func) or OPS.get(func.name())
        reason = ""
        if handler is not None:
            try:
                with _mode_of_views(func, args):
                    result = handler(func, *args, **kwargs)
            except NoQuantizedForm as why:
                reason = str(why)
            else:
                return return_and_correct_aliasing(func, args, kwargs, result)
        elif (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
            return parts  # only inference mode lets composite ops come this far
        return without_quantized_form(cls, func, args, kwargs, reason)


def _mode_of_views(func: Any, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """Views of tensors from outside of inference mode are none of its tensors either."""
    if func.is_view and torch.is_inference_mode_enabled() and not args[0].is_inference():
        return torch.inference_mode(False)
    return nullcontext()


def plainly(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What `func` does where no function of `FUNCTIONS` stands in: ATen, then `OPS`."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


# The name that pickles carry is the public one.
GGUFTensor.__module__ = __package__
torch.serialization.add_safe_globals([GGUFTensor])
