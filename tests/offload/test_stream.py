"""The order of copies and computations, on a device whose copies are late.

(That of tests/gguf/fake_link.py.) There a copy over memory that is still read, or a read before its
copy, is an assertion."""

from __future__ import annotations

import random

import pytest
import torch
from fake_link import FakeLink, FakeMark
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rocmforge_torch.offload import WeightStream


def pieces(sizes: list[int]) -> list[Tensor]:
    return [torch.full((size,), i + 1, dtype=torch.uint8) for i, size in enumerate(sizes)]


def use(stream: WeightStream, link: FakeLink, made: list[Tensor], index: int) -> None:
    """Compute from a piece: it must be all there."""
    part = stream.buffers[stream.take(index)][: made[index].nbytes]
    link.read(part)
    assert torch.equal(part, made[index])
    link.step()
    stream.done(index)


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=9),
    st.integers(1, 4),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_every_piece_is_there_and_none_is_overwritten(
    sizes: list[int], buffers: int, passes: list[int], seed: int
) -> None:
    """Passes over all pieces, some of which are broken off in the middle of a piece."""
    link, made = FakeLink(seed), pieces(sizes)
    stream = WeightStream(link, made, buffers)
    assert len(stream.buffers) == min(buffers, len(sizes))
    for length in passes:
        for index in range(min(length, len(made))):
            use(stream, link, made, index)
        if length < len(made):
            stream.take(length)  # and then it failed
    for index in range(len(made)):
        use(stream, link, made, index)


@given(st.integers(3, 9), st.integers(1, 5), st.integers(0, 1000))
def test_a_pass_copies_every_piece_once(count: int, passes: int, seed: int) -> None:
    link, made = FakeLink(seed), pieces([8] * count)
    stream = WeightStream(link, made)
    before = link.done_copies + len(link.pending)
    for _ in range(passes):
        for index in range(count):
            use(stream, link, made, index)
    assert link.done_copies + len(link.pending) - before == passes * count


def test_what_fits_into_the_buffers_is_copied_once() -> None:
    link, made = FakeLink(), pieces([8, 8])
    stream = WeightStream(link, made)
    for _ in range(3):
        for index in range(2):
            use(stream, link, made, index)
    assert link.done_copies + len(link.pending) == 2


def test_changed_memory_is_copied_again() -> None:
    link, made = FakeLink(), pieces([8, 8])
    stream = WeightStream(link, made)
    use(stream, link, made, 0)
    made[0].fill_(77)
    stream.forget()
    use(stream, link, made, 0)


class Hasty(FakeLink):
    """A device that one kind of wait is forgotten on."""

    def __init__(self, seed: int, forgotten: str) -> None:
        super().__init__(seed)
        self.forgotten = forgotten

    def copies_wait(self, mark: FakeMark) -> None:
        if self.forgotten != "copies":
            super().copies_wait(mark)

    def compute_waits(self, mark: FakeMark) -> None:
        if self.forgotten != "compute":
            super().compute_waits(mark)


@pytest.mark.parametrize("forgotten", ["copies", "compute"])
def test_the_stand_in_sees_a_forgotten_wait(forgotten: str) -> None:
    seen = 0
    for seed in range(20):
        link, made = Hasty(seed, forgotten), pieces([8] * 5)
        stream = WeightStream(link, made)
        try:
            for index in random.Random(seed).choices(range(5), k=3) + list(range(5)):
                use(stream, link, made, index)
        except AssertionError:
            seen += 1
    assert seen >= 15  # chance may do every copy in time
