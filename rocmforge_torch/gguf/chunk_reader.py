"""Reader threads: the chunks of a plan, in order, in a bounded number of host buffers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from torch import Tensor

from .link import Link, Mark
from .load_plan import Chunk

Fill = Callable[[Chunk, Tensor], None]


class ChunkReader:
    """Gives out one buffer after the other, each filled with the next chunk, and reads ahead.

    A buffer is filled again only after `release`, and after the mark given there was reached. Use
    it as a context manager: leaving it stops the threads and lets go of the buffers.
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
        self._changed = threading.Condition()
        self._made = 0
        self._claimed = 0  # chunks before this one are read, being read, or failed
        self._taken = 0
        self._free: deque[tuple[Tensor, Mark]] = deque()
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
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._ready)
            found = self._ready.pop(self._taken)
            self._taken += 1
        if isinstance(found, BaseException):
            raise found
        return found

    def release(self, buffer: Tensor, mark: Mark) -> None:
        """Give a buffer back; it is free once `mark` is reached."""
        with self._changed:
            self._free.append((buffer, mark))
            self._changed.notify_all()

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._free.clear()
        self._ready.clear()

    def _run(self) -> None:
        while True:
            claim = self._claim()
            if claim is None:
                return
            index, free = claim
            try:
                result: Tensor | BaseException = self._read(index, free)
            except BaseException as failure:  # the loading thread raises it
                result = failure
            del free
            with self._changed:
                self._ready[index] = result
                self._stopped = self._stopped or isinstance(result, BaseException)
                self._changed.notify_all()
            del claim, result

    def _claim(self) -> tuple[int, tuple[Tensor, Mark] | None] | None:
        """The next chunk and the buffer to read it into (None: a new one); None at the end.

        Both are taken at once, so that the first chunk that is missing always has its buffer.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._at_end() or self._free or self._made < self._most
            )
            if self._stopped or self._at_end():
                return None
            index = self._claimed
            self._claimed += 1
            self._changed.notify_all()
            if self._free and (self._made == self._most or self._free[0][1].query()):
                return index, self._free.popleft()
            if self._made < self._most:
                self._made += 1
                return index, None
            return index, self._free.popleft()

    def _at_end(self) -> bool:
        return self._claimed == len(self._chunks)

    def _read(self, index: int, free: tuple[Tensor, Mark] | None) -> Tensor:
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
