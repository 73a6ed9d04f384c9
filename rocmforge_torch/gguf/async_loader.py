"""Tensors of GGUF files to a device, read, copied and packed at the same time.

Threads read the files into a ring of pinned buffers; a stream of its own copies from there; what a
tensor becomes on the device is computed behind the copy, on the stream that will use it. The host
holds the ring and nothing else of the files, the device the tensors and one scratch buffer.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .byte_order import is_swapped, swap_bytes_
from .chunk_reader import ChunkReader, read_fully
from .errors import GGUFError, quote
from .link import Link
from .load_plan import Chunk, Piece, plan_chunks
from .reader import Header, TensorInfo
from .scratch import Scratch, round_up

Report = Callable[[int], object]


@dataclass(frozen=True)
class OpenFile:
    """A file to load from: its header, its descriptor, the tensors wanted of it."""

    header: Header
    fileno: int
    infos: Sequence[TensorInfo]


@dataclass(frozen=True)
class RingSize:
    """The loader's memory: buffers of buffer_bytes on the host, filled by so many threads.

    The scratch memory on the device is scratch_bytes, or the largest tensor that passes through it.
    """

    buffers: int = 16
    buffer_bytes: int = 16 << 20
    threads: int = 8
    scratch_bytes: int = 64 << 20


@dataclass(frozen=True)
class Form:
    """What tensors become on the device.

    Attributes:
        changes: whether a tensor is computed from its bytes; else it is a view of them.
        make: the tensor, from its bytes on the device, uint8 [nbytes].
    """

    changes: Callable[[TensorInfo], bool]
    make: Callable[[TensorInfo, Tensor], Tensor]


def load_tensors(
    files: Sequence[OpenFile],
    link: Link,
    form: Form,
    place: str,
    size: RingSize | None = None,
    report: Report = lambda nbytes: None,
) -> dict[str, Tensor]:
    """Load tensors; they can be used at once on the stream that computes, the host need not wait.

    Args:
        files: where they are.
        link: the way to the device.
        form: what they become.
        place: the device's name, for messages.
        size: of the ring.
        report: called with the bytes that were handed to the device.

    Raises:
        GGUFError: a file cannot be read or is shorter than it was; names the tensor.
        torch.OutOfMemoryError, RuntimeError: the device has no room, or refused something; names
            the tensor. Whatever was loaded is freed.
    """
    load = _Load(files, link, form, size or RingSize(), report)
    try:
        return load.run()
    except BaseException as failure:
        link.abandon()
        load.forget()
        _forget_frames(failure)
        if isinstance(failure, GGUFError) or not isinstance(failure, Exception):
            raise
        raise load.explain(failure, place) from failure


class _Load:
    def __init__(
        self, files: Sequence[OpenFile], link: Link, form: Form, size: RingSize, report: Report
    ) -> None:
        self._files = files
        self._link = link
        self._form = form
        self._size = size
        self._report = report
        self._total = sum(info.nbytes for file in files for info in file.infos)
        self._landed = 0
        self._subject: tuple[OpenFile, TensorInfo] | None = None
        self._direct: dict[str, Tensor] = {}
        self._scratch: Scratch | None = None
        self._target: Tensor | None = None
        self._loaded: dict[str, Tensor] = {}

    def run(self) -> dict[str, Tensor]:
        self._allocate()
        size = self._size
        chunks = plan_chunks([file.infos for file in self._files], size.buffer_bytes)
        reader = ChunkReader(
            chunks,
            self._fill,
            self._link,
            buffers=size.buffers,
            buffer_bytes=size.buffer_bytes,
            threads=size.threads,
        )
        with reader:
            for chunk in chunks:
                file = self._files[chunk.file]
                self._subject = file, chunk.pieces[0].info
                buffer = reader.take()
                for piece in chunk.pieces:
                    self._subject = file, piece.info
                    self._land(piece, buffer)
                reader.release(buffer, self._link.copied())
        self._link.compute_waits(self._link.copied())
        return self._loaded

    def _allocate(self) -> None:
        """Everything on the device but what is computed, so that copies wait for it only once."""
        largest = total = needed = 0
        for file in self._files:
            for info in file.infos:
                needed += round_up(info.nbytes)
                if self._form.changes(info):
                    largest, total = max(largest, info.nbytes), total + round_up(info.nbytes)
                    if largest == info.nbytes:
                        self._subject = file, info
        scratch = 0
        if largest:
            scratch = round_up(max(largest, min(self._size.scratch_bytes, total)))
        self._link.reserve(scratch + needed)
        if scratch:
            self._scratch = Scratch(self._link, scratch)
        for file in self._files:
            for info in file.infos:
                if not self._form.changes(info):
                    self._subject = file, info
                    self._direct[info.name] = self._link.memory(info.nbytes)
        self._link.copies_wait(self._link.computed())

    def _fill(self, chunk: Chunk, buffer: Tensor) -> None:
        """Read a chunk; runs in a reader's thread."""
        file = self._files[chunk.file]
        view = buffer.numpy().data[: chunk.nbytes]
        try:
            count = read_fully(file.fileno, chunk.offset, view)
        except OSError as failure:
            problem = f"cannot be read: {failure.strerror}"
            raise self._error(file, chunk.pieces[0].info, problem) from failure
        if count < chunk.nbytes:
            cut = next(piece for piece in chunk.pieces if piece.at + piece.nbytes > count)
            end = chunk.offset + count
            raise self._error(file, cut.info, f"the file was cut at byte {end} while it was read")
        if is_swapped(file.header):
            numbers = buffer.numpy()
            for piece in chunk.pieces:
                swap_bytes_(numbers[piece.at : piece.at + piece.nbytes], piece.info.qtype)

    def _error(self, file: OpenFile, info: TensorInfo, problem: str) -> GGUFError:
        subject = f"tensor {quote(info.name)}"
        return GGUFError(problem, source=file.header.source, subject=subject, offset=info.offset)

    def _land(self, piece: Piece, buffer: Tensor) -> None:
        """Queue the copy of a piece and, after the last of a tensor, what is computed from it."""
        info, link = piece.info, self._link
        changes = self._form.changes(info)
        if piece.start == 0 and changes:
            assert self._scratch is not None
            self._target = self._scratch.take(info.nbytes)
        elif piece.start == 0:
            self._target = self._direct.pop(info.name)
        assert self._target is not None
        part = self._target[piece.start : piece.start + piece.nbytes]
        link.copy(part, buffer[piece.at : piece.at + piece.nbytes])
        self._landed += piece.nbytes
        self._report(piece.nbytes)
        if not piece.is_last:
            return
        if changes:
            link.compute_waits(link.copied())
        self._loaded[info.name] = self._form.make(info, self._target)
        if changes:
            assert self._scratch is not None
            self._scratch.done()
        self._target = None

    def forget(self) -> None:
        """Let go of all memory of the device."""
        self._direct.clear()
        self._loaded.clear()
        self._scratch = self._target = None

    def explain(self, failure: Exception, place: str) -> Exception:
        """One sentence for a failure that does not name the tensor."""
        where = f"{place}: {_first_line(failure)}"
        if self._subject is None:
            return RuntimeError(f"cannot load to {where}")
        file, info = self._subject
        source, name = file.header.source, quote(info.name)
        if isinstance(failure, torch.OutOfMemoryError):
            return torch.OutOfMemoryError(
                f"{source}: tensor {name}: no room for its {_mib(info.nbytes)} on {place}, which "
                f"holds {_mib(self._landed)} of the {_mib(self._total)} to load; free some of its "
                "memory, or take a smaller file or another device"
            )
        return RuntimeError(f"{source}: tensor {name}: cannot be loaded to {where}")


def _forget_frames(failure: BaseException) -> None:
    """Let go of what the frames of an exception and of those behind it hold."""
    error: BaseException | None = failure
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _first_line(failure: Exception) -> str:
    return str(failure).strip().partition("\n")[0] or type(failure).__name__


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
