"""In which pieces the tensors of GGUF files are read: chunks of a bounded size, in file order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .reader import TensorInfo

# Bytes between two tensors that are read along with them rather than skipped.
MOST_GAP = 64 << 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one tensor's bytes in a chunk.

    Attributes:
        info: the tensor.
        start: the byte of its data that the piece begins at, a whole number of blocks.
        at: the byte of the chunk that the piece begins at.
        nbytes: its length.
    """

    info: TensorInfo
    start: int
    at: int
    nbytes: int

    @property
    def is_last(self) -> bool:
        """Whether it ends its tensor."""
        return self.start + self.nbytes == self.info.nbytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring bytes of one file, read in one go.

    Attributes:
        file: the file's index.
        offset: the byte of the file that it begins at.
        nbytes: its length.
        pieces: the tensors' parts in it, in file order, which is also the order they appear in.
    """

    file: int
    offset: int
    nbytes: int
    pieces: tuple[Piece, ...]


def plan_chunks(files: Sequence[Iterable[TensorInfo]], chunk_bytes: int) -> list[Chunk]:
    """Cut the tensors of some files into chunks.

    Small tensors share a chunk, large ones are spread over several, cut between blocks. Every byte
    of every tensor is in exactly one piece; the pieces of a tensor follow each other.

    Args:
        files: the tensors of each file.
        chunk_bytes: the most bytes of a chunk, enough for a block of any type.
    """
    return [
        chunk for file, infos in enumerate(files) for chunk in _chunks(file, infos, chunk_bytes)
    ]


def _chunks(file: int, infos: Iterable[TensorInfo], chunk_bytes: int) -> Iterator[Chunk]:
    pieces: list[Piece] = []
    begin = end = 0
    for info in sorted(infos, key=lambda info: info.offset):
        start, block = 0, info.qtype.block_bytes
        while start < info.nbytes:
            offset, left = info.offset + start, info.nbytes - start
            room = begin + chunk_bytes - offset
            if pieces and (offset - end > MOST_GAP or room < min(left, block)):
                yield Chunk(file, begin, end - begin, tuple(pieces))
                pieces = []
            if not pieces:
                begin, room = offset, chunk_bytes
            nbytes = left if left <= room else room // block * block
            pieces.append(Piece(info, start, offset - begin, nbytes))
            start += nbytes
            end = offset + nbytes
    if pieces:
        yield Chunk(file, begin, end - begin, tuple(pieces))
