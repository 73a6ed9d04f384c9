"""`GraphedDecode`: decoding in steps of fixed shape, captured once and replayed for every token."""

from __future__ import annotations

import functools
import threading
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..nn import KVCache, SamplingRows, Step, sample
from ..nn.kv_cache import CacheDtypes
from .device import graph_device
from .host_reads import RefuseHostReads
from .readback import PendingTokens, TokenReader
from .snapshot import Snapshot, observe, same_bits
from .state import DecodeState
from .watch import ModelWatch

VERIFIED_STEPS = 2  # a number that the host left in the graph is wrong from the second on


class DecodeModel(Protocol):
    """What is asked of a model, an `nn.Module`, beside its modules."""

    @property
    def device(self) -> torch.device: ...

    @property
    def offload(self) -> object | None:
        """Which layers are streamed, which no graph can do; None if none is."""

    def modules(self) -> Iterator[nn.Module]: ...

    def new_cache(
        self, batch_size: int, max_seq_len: int, dtype: CacheDtypes | None
    ) -> KVCache: ...

    def hidden(self, input_ids: Tensor, step: Step, cache: KVCache) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


class GraphedDecode:
    """Decodes rows of a cache, any number of them up to `max_batch` at a time.

    A row is free, or being filled (`begin`, then a prefill through the cache that it returns), or
    decoding (`join` until `leave`). `step` computes one token for every row that decodes. On a GPU
    a step is the replay of a graph, captured when a batch of its size (one of `buckets`, the
    smallest that holds the rows) first comes; everywhere else, and where capture fails, the same
    code runs eagerly, and `reason` says why.

    Every method may be called from any thread and on any stream; a step waits for what the object
    was last asked to do on another stream. What fills a row must be done on the stream on which the
    row joins.

    Attributes:
        model: the model.
        cache: keys and values of all rows, and the lengths of those that decode.
        buckets: the batch sizes, ascending.
        captures: how many graphs have been captured so far.
    """

    @torch.inference_mode(False)  # tensors made inside could only be written to inside
    def __init__(
        self,
        model: DecodeModel,
        max_batch: int,
        max_seq_len: int,
        *,
        cache_dtype: CacheDtypes | None = None,
        buckets: Sequence[int] | None = None,
        verify: bool = True,
        capture: bool = True,
    ) -> None:
        """Makes the cache; captures nothing yet.

        Args:
            model: the model, on the device where it stays.
            max_batch: R, rows of the cache.
            max_seq_len: tokens of each row.
            cache_dtype: of keys and values, as `CausalLM.new_cache` takes it.
            buckets: batch sizes to capture; by default powers of two, and max_batch. Kernels may
                differ between batch sizes, and so may the last bits of their results.
            verify: whether to replay every graph before its first use, and compare it bit for bit
                with the same steps done eagerly; one that differs is not used.
            capture: False runs everything eagerly.

        Raises:
            ValueError: max_batch or max_seq_len is not positive, a bucket is no batch size up to
                max_batch, or none is max_batch.
            MemoryError: there is no room for the cache.
        """
        if max_batch < 1 or max_seq_len < 1:
            raise ValueError(
                f"max_batch and max_seq_len must be positive, got {max_batch} and {max_seq_len}"
            )
        self.buckets = _buckets(max_batch, buckets)
        self.cache = model.new_cache(max_batch, max_seq_len, cache_dtype)
        self.captures = 0
        self.model = model
        self._verify = verify
        self._device = graph_device(model.device)
        self._reason = self._device.refusal() if capture else "capture=False"
        if model.offload is not None:
            self._reason = "its layers are streamed"
        self._state = DecodeState(self.cache)
        self._reader = TokenReader(self._device, self._state)
        self._watch = ModelWatch(model.modules())
        self._replays: dict[int, Callable[[], None]] = {}  # of graphs by batch size
        self._lock = threading.RLock()
        self._rows: tuple[int, ...] = ()
        self._size = 0  # the bucket that holds them
        self._begun: dict[int, int] = {}  # of each row that decodes, its length less `_clock`
        self._clock = 0  # steps so far
        self._full = 0  # when a row that decodes has no more room, on that clock
        self._planned = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that decode, in the order of a step's tokens."""
        return self._rows

    @property
    def reason(self) -> str | None:
        """Why steps run eagerly; None where they are captured."""
        return self._reason

    @property
    def pool_bytes(self) -> int:
        """Device memory that the graphs, all buckets together, hold for intermediate results."""
        return self._device.pool_bytes()

    def begin(self, first: int, count: int = 1, kept: int = 0) -> KVCache:
        """Empty `count` rows from number `first` on -> a cache of these rows alone, to be filled.

        Each keeps its first `kept` tokens, which it must have.

        Raises:
            ValueError: there are no such rows, one of them decodes, or a row has no room for the
                tokens that it is to keep.
        """
        with self._lock:
            self._check_free(range(first, first + count))
            self._check_length(first, kept)
            self._device.order()
            with torch.inference_mode(False):
                part = self.cache.sequences(first, count)
                # Lengths of its own: steps of other rows touch those of the whole cache meanwhile.
                part.lengths, part.longest = torch.full_like(part.lengths, kept), kept
            return part

    def join(
        self,
        rows: Sequence[int],
        tokens: Tensor | Sequence[int],
        lengths: Sequence[int],
        sampling: SamplingRows,
    ) -> None:
        """Have rows decode from the next step on.

        Args:
            rows: which, N of them.
            tokens: int64 [N], the last token of each, which is not in the cache yet.
            lengths: how many tokens each has in the cache.
            sampling: how to choose its tokens, tensors [N] on the model's device.

        Raises:
            ValueError: a row is none or decodes already, a length is none that a row can have, or
                there are not N of each.
        """
        with self._lock:
            self._check_free(rows)
            if not self._reason and has_hooks(self.model.modules()):
                self._reader.finish()  # no graph goes while it runs
                self._fall_back("the model has forward hooks, which a replay would not call")
            if {len(tokens), len(lengths), *map(len, sampling)} != {len(rows)}:
                raise ValueError(
                    f"GraphedDecode.join: {len(rows)} rows need as many tokens, lengths and "
                    f"parameters, got {len(tokens)}, {len(lengths)}, {[*map(len, sampling)]}"
                )
            for row, length in zip(rows, lengths, strict=True):
                self._check_length(row, length)
            if not rows:
                return
            self._device.order()
            places = torch.empty(2, len(rows), dtype=torch.int64, device=self.cache.lengths.device)
            self._device.put([[*rows], [*lengths]], places)
            if not isinstance(tokens, Tensor):
                values = torch.empty_like(places[:1])
                self._device.put([[*tokens]], values)
                tokens = values[0]
            with torch.inference_mode():
                self._state.fill(places[0], tokens, places[1], sampling)
            self._begun |= {r: n - self._clock for r, n in zip(rows, lengths, strict=True)}
            self._set_rows((*self._rows, *rows))

    def leave(self, rows: Sequence[int]) -> None:
        """Have rows no longer decode. What they have in the cache stays until it is written over.

        Raises:
            ValueError: a row does not decode.
        """
        with self._lock:
            for row in rows:
                if row not in self._begun:
                    raise ValueError(f"GraphedDecode.leave: row {row} does not decode")
            for row in set(rows):
                del self._begun[row]
            self._set_rows(tuple(row for row in self._rows if row in self._begun))

    def step(self) -> PendingTokens:
        """Start computing one token for every row that decodes.

        Raises:
            ValueError: no row decodes, or one is full.
            RuntimeError: the model has moved to another device.
        """
        with self._lock:
            if not self._rows:
                raise ValueError("GraphedDecode.step: no row decodes; let one join first")
            if self._clock == self._full:
                room = self.cache.max_seq_len
                full = [r for r, n in self._begun.items() if n + self._clock == room]
                raise ValueError(
                    f"GraphedDecode.step: row {full[0]} is full: it has {room} tokens; let it leave"
                )
            self._device.order()
            if not self._watch.unchanged():
                self._start_over()
            if not self._planned:
                self._device.put(self._state.plan_of(self._rows), self._state.plan)
                self._planned = True
            size = self._size
            run = (
                self._replays.get(size)
                or self._captured(size)
                or functools.partial(self._run, size)
            )
            pending = self._reader.read(run, self._rows)
            self._clock += 1
            return pending

    def _set_rows(self, rows: tuple[int, ...]) -> None:
        self._rows = rows
        self._size = self.buckets[bisect_left(self.buckets, len(rows))]
        self._full = min((self.cache.max_seq_len - n for n in self._begun.values()), default=0)
        self._planned = False

    def _check_free(self, rows: Sequence[int]) -> None:
        number = self.cache.batch_size
        if len({*rows}) < len(rows) or not all(0 <= row < number for row in rows):
            raise ValueError(
                f"GraphedDecode: rows must be different numbers from 0 to {number - 1}, "
                f"got {[*rows]}"
            )
        busy = [row for row in rows if row in self._begun]
        if busy:
            raise ValueError(f"GraphedDecode: row {busy[0]} decodes; let it leave first")

    def _check_length(self, row: int, length: int) -> None:
        if not 0 <= length <= self.cache.max_seq_len:
            raise ValueError(
                f"GraphedDecode: a row holds 0 to {self.cache.max_seq_len} tokens, "
                f"got {length} for row {row}"
            )

    def _start_over(self) -> None:
        """The model is another than the one captured."""
        here, there = self.cache.lengths.device, self.model.device
        if here != there:
            raise RuntimeError(
                f"the model moved from {here} to {there}, but the cache of its GraphedDecode did "
                "not; make a new one"
            )
        self._reader.finish()  # no graph goes while it runs
        self._replays.clear()
        self._device = graph_device(here)  # with another pool: that of graphs that went is closed
        self._reader = TokenReader(self._device, self._state)
        self._watch = ModelWatch(self.model.modules())

    def _compute(self, size: int) -> Tensor:
        """One step over `size` rows -> logits [B, V]; all input and output is on the device."""
        tokens, step, sampling = self._state.before(size)
        hidden = self.model.hidden(tokens, step, self.cache)[:, -1]
        logits = self.model.logits(hidden)
        chosen = sample(logits, sampling)
        self._state.after(size, chosen)
        return logits

    @torch.inference_mode()
    def _run(self, size: int) -> Tensor:
        """The same, and the copy of its tokens to the host."""
        logits = self._compute(size)
        self._reader.send()
        return logits

    @torch.inference_mode()
    def _captured(self, size: int) -> Callable[[], None] | None:
        """What replays a step, checked; None, a reason and once a warning if there can be none."""
        if self._reason:
            return None
        self._reader.finish()  # what follows writes to the tokens on the host
        steps = min(VERIFIED_STEPS, self._full - self._clock) if self._verify else 1
        before = Snapshot.take(self._state, len(self._rows), steps)
        try:
            with RefuseHostReads():
                wanted = observe(lambda: (self._compute(size), self._state.ring), before, steps)
            replay, logits = self._device.capture(lambda: self._run(size))
            before.restore()
            self.captures += 1

            def replayed() -> tuple[Tensor, Tensor]:
                replay()
                return logits, self._reader.host.to(logits.device)

            if self._verify and not same_bits(wanted, observe(replayed, before, steps)):
                self._fall_back(f"the captured step of {size} rows differs from the eager one")
                return None
        except RuntimeError as error:
            before.restore()
            self._fall_back(f"capture failed: {str(error).partition(chr(10))[0]}")
            return None
        self._replays[size] = replay
        return replay

    def _fall_back(self, reason: str) -> None:
        self._reason = reason
        self._replays.clear()  # none is under way: see _captured
        warnings.warn(f"GraphedDecode runs eagerly: {reason}", RuntimeWarning, stacklevel=5)


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether Python is to run before or after a module."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _buckets(max_batch: int, buckets: Sequence[int] | None) -> tuple[int, ...]:
    if buckets is None:
        powers = (1 << i for i in range(max_batch.bit_length()))
        return tuple(sorted({*powers, max_batch}))
    sizes = tuple(sorted({*buckets}))
    if not sizes or sizes[0] < 1 or sizes[-1] != max_batch:
        raise ValueError(
            f"buckets must be batch sizes, the largest of them max_batch = {max_batch}, "
            f"got {[*buckets]}"
        )
    return sizes
