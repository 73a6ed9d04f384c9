"""Bank conflicts of LDS accesses whose passes can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tools.amd.emulator.banks import bank_conflicts

LANES = np.arange(32)


def displaced_pairs() -> NDArray[np.int64]:
    """Two 16-byte pieces of every eight lanes are a round of the banks away from their places."""
    return 16 * LANES + np.where(LANES % 8 < 2, 128 + 32, 0)


@pytest.mark.parametrize(
    ("start", "size", "conflicts"),
    [
        pytest.param(4 * LANES, 4, 0, id="neighbouring words"),
        pytest.param(4 * LANES + 500, 4, 0, id="neighbouring words from any bank on"),
        pytest.param(4 * (LANES * 5 % 32), 4, 0, id="words in another order"),
        pytest.param(0 * LANES, 4, 0, id="one word for all"),
        pytest.param(2 * LANES, 2, 0, id="two lanes to a word"),
        pytest.param(8 * LANES, 4, 1, id="every second word"),
        pytest.param(12 * LANES, 4, 0, id="every third word"),
        pytest.param(16 * LANES, 4, 3, id="every fourth word"),
        pytest.param(128 * LANES, 4, 31, id="one bank"),
        pytest.param(132 * LANES, 4, 0, id="one bank, but for a word between the rows"),
        pytest.param(128 * (LANES // 16), 4, 1, id="two words of a bank, for 16 lanes each"),
        pytest.param(8 * LANES, 8, 0, id="8 bytes: neighbours"),
        pytest.param(16 * LANES, 8, 2, id="8 bytes: every second, two passes turn into four"),
        pytest.param(16 * LANES, 16, 0, id="16 bytes: neighbours"),
        pytest.param(16 * (LANES % 16), 16, 0, id="16 bytes: both halves of the wave alike"),
        pytest.param(32 * LANES, 16, 4, id="16 bytes: every second, four passes turn into eight"),
        pytest.param(128 * LANES, 16, 28, id="16 bytes: four banks"),
        pytest.param(144 * LANES, 16, 0, id="16 bytes: a piece between the rows"),
        pytest.param(displaced_pairs(), 16, 4, id="16 bytes: two of eight lanes on others' banks"),
        pytest.param(12 * LANES, 12, 0, id="12 bytes: neighbours"),
    ],
)
def test_a_wave_of_32(start: NDArray[np.int64], size: int, conflicts: int) -> None:
    assert bank_conflicts(LANES, start, size) == conflicts


def test_lanes_keep_their_pass_when_others_are_masked_off() -> None:
    """Lanes 0 and 8 are of two passes of 16-byte accesses, lanes 0 and 7 of one."""
    start = np.array([0, 128])
    assert bank_conflicts(np.array([0, 8]), start, 16) == 0
    assert bank_conflicts(np.array([0, 7]), start, 16) == 1
    assert bank_conflicts(np.array([0, 8]), start, 4) == 1


def test_halves_of_a_wave_of_64_do_not_meet() -> None:
    lanes = np.arange(64)
    assert bank_conflicts(lanes, 4 * lanes, 4) == 0
    assert bank_conflicts(lanes, 8 * lanes, 4) == 2
