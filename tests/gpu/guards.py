"""Memory with bands round it: what a kernel writes outside of its tensors shows.

All of it starts as bytes of ones, which are NaN in every floating point type: what a kernel reads
beyond its inputs, or leaves unwritten in its outputs, shows too.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

FILL = 0xFF
BAND = 512  # bytes before and after every tensor, and its alignment, which is the allocator's
CHUNK = 64 << 20


def _rounded_up(value: int, step: int) -> int:
    return -(-value // step) * step


class GuardedMemory:
    """While it is entered, everything that an op of ours allocates on `device` has bands round it.

    The ops allocate through `aten::new_empty`, which is replaced meanwhile. `place` puts inputs
    into the same memory; `faults` says what was overwritten, and forgets all tensors handed out.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.allocated = 0  # tensors, ever
        self._chunks: list[Tensor] = []
        self._used: list[int] = []
        self._spans: list[tuple[int, int, int]] = []  # chunk, begin, end
        self._inputs: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> GuardedMemory:
        self._library = torch.library.Library("aten", "IMPL")
        key = {"cuda": "CUDA", "cpu": "CPU"}[self.device.type]
        self._library.impl("new_empty", self._new_empty, key)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library._destroy()

    def _new_empty(
        self,
        like: Tensor,
        size: list[int],
        *,
        dtype: torch.dtype | None = None,
        layout: torch.layout | None = None,
        device: torch.device | None = None,
        pin_memory: bool | None = None,
    ) -> Tensor:
        dtype = dtype or like.dtype
        return self._bytes(math.prod(size) * dtype.itemsize).view(dtype).view(list(size))

    def _bytes(self, count: int, offset: int = 0) -> Tensor:
        """`count` bytes between bands, `offset` past an aligned address."""
        need = BAND + _rounded_up(offset + count, BAND) + BAND
        if not self._chunks or self._used[-1] + need > len(self._chunks[-1]):
            size = max(CHUNK, need)
            chunk = torch.full((size,), FILL, dtype=torch.uint8, device=self.device)
            self._chunks.append(chunk)
            self._used.append(0)
        begin = self._used[-1] + BAND + offset
        self._used[-1] += need - BAND  # neighbours share a band
        self._spans.append((len(self._chunks) - 1, begin, begin + count))
        self.allocated += 1
        return self._chunks[-1][begin : begin + count]

    def place(self, tensor: Tensor, offset: int = 0) -> Tensor:
        """The same view of a copy of the tensor's storage, moved to guarded memory.

        offset: bytes past an aligned address, a multiple of the element size.
        """
        storage = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        storage.set_(tensor.untyped_storage())
        copy = self._bytes(len(storage), offset)
        copy.copy_(storage)
        self._inputs.append((copy, copy.clone()))
        first = copy.storage_offset() // tensor.element_size() + tensor.storage_offset()
        view = torch.empty(0, dtype=tensor.dtype, device=self.device)
        return view.set_(copy.untyped_storage(), first, tensor.shape, tensor.stride())

    def may_change(self, tensor: Tensor) -> None:
        """Forgets what the placed storage of `tensor` held: an op writes to it."""
        address = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * (
            tensor.element_size()
        )
        self._inputs = [
            (copy, before)
            for copy, before in self._inputs
            if not copy.data_ptr() <= address < copy.data_ptr() + max(len(copy), 1)
        ]

    def faults(self) -> list[str]:
        """One sentence for every changed input and damaged band. Tensors are void afterwards."""
        found = [
            f"an input of {len(copy)} bytes was written to"
            for copy, before in self._inputs
            if not torch.equal(copy, before)
        ]
        for chunk, begin, end in self._spans:
            self._chunks[chunk][begin:end] = FILL
        for index, (chunk, used) in enumerate(zip(self._chunks, self._used, strict=True)):
            written = (chunk[: used + BAND] != FILL).nonzero().flatten().tolist()
            if written:
                chunk.fill_(FILL)
            ends = [(b, e) for c, b, e in self._spans if c == index]
            for byte in written[:: max(len(written) // 4, 1)]:
                begin, end = min(ends, key=lambda s: max(s[0] - byte, byte - s[1] + 1))
                where = f"{begin - byte} before" if byte < begin else f"{byte - end + 1} after"
                found.append(
                    f"{len(written)} bytes written outside, {where} {end - begin} allocated ones"
                )
        del self._chunks[1:]
        self._used = [0] * len(self._chunks)
        self._spans, self._inputs = [], []
        return found


def guarded(value: Any, memory: GuardedMemory) -> Any:
    """Tensors as `GuardedMemory.place` gives them, everything else as it is."""
    return memory.place(value) if isinstance(value, Tensor) else value
