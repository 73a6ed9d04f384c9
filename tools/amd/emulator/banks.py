"""Bank conflicts of LDS accesses, by a model of RDNA3 and CDNA3.

A compute unit has 32 banks of four bytes, words stand in them one after the other, and a bank
serves one word a clock; what meets at a bank waits for its turn (RDNA3 ISA, section 12.1). A pass
over the banks so moves 128 bytes at most: lanes take part in their order, as many as fit with the
bytes that each asks for, 32 with up to 4 bytes, 16 with 8, 8 with 12 or 16. That is how AMD
describes `ds_write_b128` (Composable Kernel, "Understanding AMD GPU LDS and Bank Conflicts"); which
lanes RDNA3 takes together is not published. Lanes at one word share it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BANKS = 32  # of a compute unit
WORD = 4  # bytes of a bank that one pass reads or writes
_LANES = {1: 32, 2: 16, 3: 8, 4: 8}  # of a pass, by the words of an access


def bank_conflicts(lanes: NDArray[np.int64], start: NDArray[np.int64], size: int) -> int:
    """Passes of one access of a wave beyond the fewest for its size.

    lanes: the numbers of those that are active. start: byte address of each. size: bytes per lane.
    """
    # Patterns that are whole rounds of the banks apart conflict alike: a kernel has few.
    start = start - start[0] // (BANKS * WORD) * (BANKS * WORD)
    return _conflicts(lanes.tobytes(), start.tobytes(), size)


@lru_cache(maxsize=1 << 14)
def _conflicts(lanes: bytes, start: bytes, size: int) -> int:
    first = np.frombuffer(start, np.int64)[:, None]
    words = (first + np.arange(0, size, min(size, WORD))) // WORD
    groups = np.frombuffer(lanes, np.int64)[:, None] // _LANES[words.shape[1]]
    wanted = np.unique(np.stack(np.broadcast_arrays(groups, words)).reshape(2, -1), axis=1)
    conflicts = 0
    for group in np.unique(wanted[0]):
        banks = wanted[1, wanted[0] == group] % BANKS
        conflicts += int(np.bincount(banks).max()) - 1
    return conflicts
