"""Reader threads: the chunks of a plan, in order, in a bounded number of host buffers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType

from torch import Tensor

from .link import Link, Mark
from .load_plan import Chunk

Fill = Callable[[Chunk, Tensor], None]


class ChunkReader:
    """Gives out one buffer after the other, each filled with the next chunk, and reads ahead.

    A buffer is filled again only after `release`, and after the mark given there was reached. Use
    it as a context manager: leaving it stops the threads and lets go of the buffers.

    What happens wakes the one thread that waits for it: with conditions every chunk would wake all
    of them, to queue for the interpreter's lock before the thread that has something to do.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        fill: Fill,
        link: Link,
        *,
        buffers: int,
        buffer_bytes: int,
        threads: int,
    ) -> None:
        """
        Args:
            chunks: what to read.
            fill: reads a chunk into the beginning of a buffer; called by several threads.
            link: where buffers come from.
            buffers: at most so many exist; one is made only when none is free.
            buffer_bytes: the size of each.
            threads: at most so many chunks are read at a time.
        """
        self._chunks = chunks
        self._fill = fill
        self._link = link
        self._most = buffers
        self._buffer_bytes = buffer_bytes
        self._turn = threading.Lock()
        self._made = 0
        self._claimed = 0  # chunks before this one are read, being read, or failed
        self._taken = 0
        self._free: SimpleQueue[tuple[Tensor, Mark] | None] = SimpleQueue()
        self._read: SimpleQueue[tuple[int, Tensor | BaseException]] = SimpleQueue()
        self._ready: dict[int, Tensor | BaseException] = {}
        self._stopped = False
        count = min(threads, buffers, len(chunks))
        self._threads = [
            threading.Thread(target=self._run, name=f"gguf-reader-{i}", daemon=True)
            for i in range(count)
        ]

    def __enter__(self) -> ChunkReader:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads to be had
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def take(self) -> Tensor:
        """The buffer that the next chunk was read into; waits until it is."""
        while self._taken not in self._ready:
            index, result = self._read.get()
            self._ready[index] = result
        found = self._ready.pop(self._taken)
        self._taken += 1
        if isinstance(found, BaseException):
            raise found
        return found

    def release(self, buffer: Tensor, mark: Mark) -> None:
        """Give a buffer back; it is free once `mark` is reached."""
        self._free.put((buffer, mark))

    def _stop(self) -> None:
        self._stopped = True
        for _ in self._threads:
            self._free.put(None)  # for who waits
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._free = SimpleQueue()
        self._read = SimpleQueue()
        self._ready.clear()

    def _run(self) -> None:
        while (claim := self._claim()) is not None:
            index, free = claim
            try:
                result: Tensor | BaseException = self._fill_next(index, free)
            except BaseException as failure:  # the loading thread raises it
                result = failure
                self._stopped = True
            del free
            self._read.put((index, result))
            del claim, result

    def _claim(self) -> tuple[int, tuple[Tensor, Mark] | None] | None:
        """The next chunk and the buffer to read it into (None: a new one); None at the end.

        Both by one thread at a time, so that the first chunk that is missing always has its buffer.
        """
        with self._turn:
            if self._stopped or self._claimed == len(self._chunks):
                return None
            free = self._next_free()
            if self._stopped:
                return None
            index = self._claimed
            self._claimed += 1
            return index, free

    def _next_free(self) -> tuple[Tensor, Mark] | None:
        """A buffer that was given back; None if there is none and one more may be made."""
        try:
            return self._free.get_nowait()
        except Empty:
            if self._made == self._most:
                return self._free.get()
            self._made += 1
            return None

    def _fill_next(self, index: int, free: tuple[Tensor, Mark] | None) -> Tensor:
        if free is None:
            buffer = self._link.host_buffer(self._buffer_bytes)
        else:
            buffer, mark = free
            mark.synchronize()
        self._fill(self._chunks[index], buffer)
        return buffer


def read_fully(fileno: int, offset: int, view: memoryview) -> int:
    """Fill `view` from a file; returns the bytes read, fewer only where the file ends.

    Raises:
        OSError: the file cannot be read.
    """
    done = 0
    while done < len(view):
        count = os.preadv(fileno, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
