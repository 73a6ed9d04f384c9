"""The tensors of mapped GGUF files, made on demand."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence

import torch

from ..tensor import GGUFTensor
from .byte_order import swap_bytes
from .errors import GGUFError, quote
from .reader import Header, TensorInfo
from .shard import Shard

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
NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"


class TensorMap(Mapping[str, torch.Tensor]):
    """The tensors of a model by name; each is made when it is asked for.

    As long as somebody holds a tensor, asking again gives the same one.
    """

    def __init__(
        self, shards: Sequence[Shard], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._entries = {
            info.name: (shard, info) for shard in shards for info in shard.header.tensors.values()
        }
        self._device = device
        self._dtype = dtype
        self._alive: weakref.WeakValueDictionary[str, torch.Tensor] = weakref.WeakValueDictionary()

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

    def __repr__(self) -> str:
        return f"TensorMap({len(self)} tensors, device={self._device})"

    def _make(self, shard: Shard, info: TensorInfo) -> torch.Tensor:
        data = torch.frombuffer(
            shard.buffer, dtype=torch.uint8, count=info.nbytes, offset=info.offset
        )
        if shard.header.order != NATIVE_ORDER:
            data = _to_native_order(data, shard.header, info)
        plain = PLAIN_DTYPES.get(info.qtype.name)
        if plain is not None:
            values = data.view(plain).view(info.shape)
            cast = self._dtype if values.is_floating_point() else None
            return values.to(device=self._device, dtype=cast)
        blocks = data.view(*info.shape[:-1], _row_bytes(info)).to(self._device)
        return GGUFTensor(blocks, info.qtype.id, self._dtype or torch.float32)


def _row_bytes(info: TensorInfo) -> int:
    return info.shape[-1] // info.qtype.block_size * info.qtype.block_bytes


def _to_native_order(data: torch.Tensor, header: Header, info: TensorInfo) -> torch.Tensor:
    if info.qtype.wide_fields is None:
        raise GGUFError(
            f"{info.qtype.name} has no defined big-endian layout; "
            "convert the model to a little-endian file",
            source=header.source,
            subject=f"tensor {quote(info.name)}",
            offset=info.entry,
        )
    return torch.from_numpy(swap_bytes(data.numpy(), info.qtype))
