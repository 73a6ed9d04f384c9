"""`LazyTensor`: a model's tensor that is known by name, type and shape, and made when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..quant_types import QuantType, row_bytes
from ..tensor import GGUFTensor
from .model_file import GGUFModelFile

CHUNK_ELEMENTS = 1 << 22  # numbers that exist as float32 at a time, 16 MiB


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file or folder.

    Attributes:
        name: its GGUF name.
        qtype: the type that it is stored in.
        shape: its size in elements, slowest dimension first.
        load: makes it, on the CPU.
    """

    name: str
    qtype: QuantType
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return row_bytes(self.qtype, self.elements)

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """Its numbers in order: the index of a matrix, and float32 [n, K] rows of that.

        So many rows come at a time that memory stays bounded. All but the last two dimensions
        together count matrices.
        """
        tensor = self.load()
        k = self.shape[-1]
        step = max(1, CHUNK_ELEMENTS // k)
        raw = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        for index, matrix in enumerate(raw.reshape(-1, *raw.shape[-2:])):
            for part in matrix.split(step):
                if isinstance(tensor, GGUFTensor):
                    yield index, torch.ops.rocmforge.dequantize(part, tensor.qtype, torch.float32)
                else:
                    yield index, part.float()


def lazy_tensors(file: GGUFModelFile) -> list[LazyTensor]:
    """The tensors of a GGUF file, in its order."""
    infos = [file.tensors.info(name) for name in file.tensors]
    return [
        LazyTensor(i.name, i.qtype, i.shape, partial(file.tensors.__getitem__, i.name))
        for i in infos
    ]
