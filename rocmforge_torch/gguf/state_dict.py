"""`load_state_dict`: a GGUF file that keeps a checkpoint's own tensor names, as image models do.

Files of Flux, SD3, SDXL, Wan and others, as ComfyUI-GGUF and stable-diffusion.cpp write them, hold
the names of the original checkpoint. What differs from it is only shapes, in two ways:

* ComfyUI-GGUF folds a tensor into rows of 256 elements where its own rows are no multiple of a
  block, and notes the shape it had under `comfy.gguf.orig_shape.NAME`;
* ggml's own tools drop leading dimensions of size 1.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor, nn

from ..quant_types import quant_type
from ..tensor import GGUFTensor
from .model_file import GGUFModelFile, load_gguf

SHAPE_KEY = "comfy.gguf.orig_shape."
# Of a matrix or a stack of them; tensors with more dimensions are kernels of convolutions.
QUANTIZED_DIMS = (2, 3)


def load_state_dict(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    prefix: str = "",
    like: nn.Module | None = None,
    packed: bool = False,
) -> dict[str, Tensor]:
    """The tensors of a GGUF file by name, for `module.load_state_dict(..., assign=True)`.

    Shapes are torch's: a linear layer's weight is [out_features, in_features], a convolution's
    [out_channels, in_channels, height, width]. Matrices, and stacks of them, stay quantized where
    their rows are whole blocks. Every other quantized tensor (a convolution's kernel, a folded
    matrix with rows of 320 elements) is dequantized now: no product reads those from blocks.

    Args:
        path: the file; of a split one, any shard.
        device: where tensors are. On the CPU they view the mapped file.
        dtype: what plain and dequantized tensors are cast to and quantized ones compute in; by
            default plain tensors keep theirs, and the others say float32.
        prefix: takes the tensors whose names begin with it, without it:
            ``"model.diffusion_model."`` for the image model of a whole checkpoint.
        like: a module (it may be on the meta device) that says how many dimensions of size 1 a
            tensor has, where the file has lost them.
        packed: on a GPU, quantized matrices get the layout that its products are fastest in.

    Raises:
        GGUFError: the file is no valid GGUF, or notes a shape that the tensor does not have.
        OSError: the file cannot be opened.
        ValueError: no name begins with `prefix`, or `dtype` is no floating-point dtype.
    """
    file = load_gguf(path, device, dtype, packed=packed)
    names = [name for name in file.tensors if name.startswith(prefix)]
    if not names:
        present = sorted({name.partition(".")[0] for name in file.tensors})
        raise ValueError(
            f"prefix must begin the name of a tensor of {file.path}, got {prefix!r}; "
            f"the names begin with {', '.join(present[:8]) or 'nothing: it holds no tensor'}"
        )
    wanted = {} if like is None else {key: t.shape for key, t in like.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name in names:
        key = name.removeprefix(prefix)
        shape = _shape(file, name, wanted.get(key))
        state[key] = _shaped(file.tensors[name], shape)
    file.tensors.release()
    return state


def _shape(file: GGUFModelFile, name: str, wanted: torch.Size | None) -> tuple[int, ...]:
    """The shape that a tensor had in its checkpoint."""
    found = file.tensors.info(name).shape
    shape = _noted_shape(file, SHAPE_KEY + name, math.prod(found)) or found
    if wanted is not None and [n for n in wanted if n != 1] == [n for n in shape if n != 1]:
        return tuple(wanted)
    return shape


def _noted_shape(file: GGUFModelFile, key: str, elements: int) -> tuple[int, ...] | None:
    header = next((header for header in file.headers if key in header.metadata), None)
    if header is None:
        return None
    value = header.metadata[key]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.size == 0:
        raise header.error(key, "a shape must be an array of integers")
    shape = tuple(value.tolist())
    if min(shape) < 1 or math.prod(shape) != elements:
        raise header.error(key, f"the shape {list(shape)} does not hold {elements} elements")
    return shape


def _shaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`tensor` with this shape: quantized where it can be multiplied by, else plain."""
    if not isinstance(tensor, GGUFTensor):
        return tensor.reshape(shape)
    if tuple(tensor.shape) == shape and len(shape) in QUANTIZED_DIMS:
        return tensor
    if len(shape) in QUANTIZED_DIMS and shape[-1] % quant_type(tensor.qtype).block_size == 0:
        blocks = tensor.unpacked().qweight.reshape(*shape[:-1], -1)
        return GGUFTensor(blocks, tensor.qtype, tensor.dtype)
    return tensor.dequantize().reshape(shape)
