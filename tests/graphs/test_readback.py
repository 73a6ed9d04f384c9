"""Reading tokens of steps that a device takes its time to run."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rocmforge_torch.graphs.device import HostDevice, HostEvent
from rocmforge_torch.graphs.readback import PendingTokens, TokenReader
from rocmforge_torch.graphs.state import RING, DecodeState
from rocmforge_torch.nn import KVCache

ROWS = 5


class LateDevice(HostDevice):
    """Runs what was asked of it when the host waits, and no more than it waits for.

    Attributes:
        asked: what has not run yet.
        steps: how many steps have run.
    """

    def __init__(self) -> None:
        self.asked: deque[Callable[[], None] | LateEvent] = deque()
        self.steps = 0

    def event(self) -> LateEvent:
        return LateEvent(self)

    def run_next(self) -> None:
        first = self.asked.popleft()
        if isinstance(first, LateEvent):
            first.passed = True
        else:
            first()
            self.steps += 1


class LateEvent(HostEvent):
    def __init__(self, device: LateDevice) -> None:
        self.device = device
        self.passed = True

    def record(self) -> None:
        assert self.passed, "the host lost the point that it has not waited for"
        self.passed = False
        self.device.asked.append(self)

    def synchronize(self) -> None:
        while not self.passed:
            self.device.run_next()


class Steps:
    """Steps that choose random tokens.

    Attributes:
        chosen: the tokens of every step that was started.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.device = LateDevice()
        self.state = DecodeState(KVCache(1, ROWS, 8, 1, 4, torch.float16))
        self.reader = TokenReader(self.device, self.state)
        self.reader.host.fill_(-1)
        self.chosen: list[list[int]] = []

    def start(self) -> PendingTokens:
        size = self.chance.randint(1, ROWS)
        tokens = [self.chance.randrange(1000) for _ in range(size)]
        self.chosen.append(tokens[: self.chance.randint(1, size)])  # the others fill the batch

        state, host = self.state, self.reader.host  # no step keeps its reader, as no replay does

        def step() -> None:
            state.after(size, torch.tensor(tokens))
            host.copy_(state.ring)

        def ask() -> None:
            self.device.asked.append(step)

        return self.reader.read(ask, tuple(range(len(self.chosen[-1]))))


@given(st.integers(0, 2**32))
def test_tokens_read_at_any_time(seed: int) -> None:
    """Whatever ran, started and was read in between."""
    chance = random.Random(seed)
    steps = Steps(chance)
    unread: dict[int, PendingTokens] = {}
    for _ in range(60):
        what = chance.random()
        if what < 0.5:
            pending = steps.start()
            unread[len(steps.chosen) - 1] = pending
        elif what < 0.8 and unread:
            number = chance.choice(sorted(unread))
            assert unread.pop(number).wait() == steps.chosen[number]
        elif steps.device.asked:
            steps.device.run_next()
    for number, pending in unread.items():
        assert pending.wait() == steps.chosen[number]


def test_the_host_waits_for_no_more_than_it_must() -> None:
    steps = Steps(random.Random(1))
    started = [steps.start() for _ in range(RING)]
    assert steps.device.steps == 0
    assert started[0].wait() == steps.chosen[0]
    assert steps.device.steps == 1
    started.append(steps.start())
    assert steps.device.steps == 1, "the tokens of the first step had been read"
    started.append(steps.start())
    assert steps.device.steps == 2
    steps.reader.finish()
    assert steps.device.steps == RING + 2
    assert [pending.wait() for pending in started] == steps.chosen


def test_a_reader_after_another() -> None:
    """As when a model has changed, after an odd number of steps."""
    steps = Steps(random.Random(1))
    assert steps.start().wait() == steps.chosen[0]
    steps.reader = TokenReader(steps.device, steps.state)
    for number in range(1, 4):
        assert steps.start().wait() == steps.chosen[number]


@pytest.mark.parametrize("read", [False, True])
def test_memory_outlives_the_steps_that_use_it(read: bool) -> None:
    steps = Steps(random.Random(1))
    pending = [steps.start() for _ in range(RING)]
    if read:
        assert [p.wait() for p in pending] == steps.chosen
        steps.device.asked.append(pytest.fail)
    device = steps.device
    del steps.reader
    assert device.steps == RING
