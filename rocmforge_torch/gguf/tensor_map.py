"""The tensors of GGUF files: views of the mapped files on the CPU, loaded ones on a GPU."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch

from ..tensor import GGUFTensor
from .async_loader import Form, OpenFile, load_tensors
from .byte_order import check_order, is_swapped, swap_bytes_
from .link import CudaLink
from .progress import loading_bar
from .reader import TensorInfo
from .shard import Shard, reopen

PLAIN_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
# Looked up row by row, which needs whole rows of blocks: never packed.
EMBEDDINGS = ("token_embd.weight",)


class TensorMap(Mapping[str, torch.Tensor]):
    """The tensors of a model by name; each is made when it is asked for.

    As long as somebody holds a tensor, asking again gives the same one.
    """

    def __init__(
        self, shards: Sequence[Shard], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._shards = shards
        self._entries = {
            info.name: (shard, info) for shard in shards for info in shard.header.tensors.values()
        }
        self._device = device
        self._dtype = dtype
        self._alive: weakref.WeakValueDictionary[str, torch.Tensor] = weakref.WeakValueDictionary()
        self._kept: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._alive.get(name)
        if tensor is None:
            tensor = self._alive[name] = self._make(*self._entries[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def info(self, name: str) -> TensorInfo:
        """Type, shape, place and size of a tensor, without making it."""
        return self._entries[name][1]

    def load(
        self,
        packed: bool = False,
        progress: bool | None = False,
        only: Callable[[str], bool] | None = None,
    ) -> None:
        """Load every tensor to the GPU now, and keep it until `release`.

        Args:
            packed: quantized matrices get the device layout (`GGUFTensor.qlayout` 1), except
                embedding tables.
            progress: whether to show a bar; None: on a terminal.
            only: says by name which tensors to load; None: all.

        Raises:
            GGUFError, RuntimeError: see `load_tensors`.
        """
        wanted = [
            info
            for shard, info in self._entries.values()
            if not (is_swapped(shard.header) and info.qtype.wide_fields is None)
            and (only is None or only(info.name))
        ]
        self._kept = self._load(wanted, packed, progress)
        self._alive.update(self._kept)

    def release(self) -> None:
        """Hold no tensor any more that nobody else holds."""
        self._kept = {}

    def __repr__(self) -> str:
        return f"TensorMap({len(self)} tensors, device={self._device})"

    def _make(self, shard: Shard, info: TensorInfo) -> torch.Tensor:
        check_order(shard.header, info)
        if self._device.type == "cuda":
            return self._load([info], packed=False, progress=False)[info.name]
        data = torch.frombuffer(
            shard.buffer, dtype=torch.uint8, count=info.nbytes, offset=info.offset
        )
        if is_swapped(shard.header):
            data = data.clone()
            swap_bytes_(data.numpy(), info.qtype)
        return _typed(info, data, self._device, self._dtype)

    def _load(
        self, infos: Sequence[TensorInfo], packed: bool, progress: bool | None
    ) -> dict[str, torch.Tensor]:
        names = {info.name for info in infos}
        total = sum(info.nbytes for info in infos)

        def is_packed(info: TensorInfo) -> bool:
            is_matrix = info.qtype.is_quantized and len(info.shape) == 2
            return packed and is_matrix and info.name not in EMBEDDINGS

        def is_cast(info: TensorInfo) -> bool:
            dtype = PLAIN_DTYPES.get(info.qtype.name)
            return (
                self._dtype is not None
                and dtype is not None
                and dtype.is_floating_point
                and dtype != self._dtype
            )

        def make(info: TensorInfo, data: torch.Tensor) -> torch.Tensor:
            made = _typed(info, data, self._device, self._dtype)
            return made.packed() if is_packed(info) and isinstance(made, GGUFTensor) else made

        form = Form(lambda info: is_packed(info) or is_cast(info), make)
        with ExitStack() as stack:
            files = []
            for shard in self._shards:
                wanted = [info for info in shard.header.tensors.values() if info.name in names]
                if wanted:
                    fileno = reopen(shard)
                    stack.callback(os.close, fileno)
                    files.append(OpenFile(shard.header, fileno, wanted))
            name = os.path.basename(self._shards[0].header.source)
            bar = stack.enter_context(loading_bar(name, total, progress))
            link = CudaLink(self._device)
            return load_tensors(files, link, form, str(self._device), report=bar.update)


def _typed(
    info: TensorInfo, data: torch.Tensor, device: torch.device, dtype: torch.dtype | None
) -> torch.Tensor:
    """The tensor of some bytes, uint8 [nbytes], on a device; a view of them where that can be."""
    plain = PLAIN_DTYPES.get(info.qtype.name)
    if plain is not None:
        values = data.view(plain).view(info.shape)
        return values.to(device=device, dtype=dtype if values.is_floating_point() else None)
    row_bytes = info.shape[-1] // info.qtype.block_size * info.qtype.block_bytes
    blocks = data.view(*info.shape[:-1], row_bytes).to(device)
    return GGUFTensor(blocks, info.qtype.id, dtype or torch.float32)
