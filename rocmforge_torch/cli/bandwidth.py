"""How fast a device reads memory, which bounds generation: it reads every weight for each token."""

from __future__ import annotations

import time

import torch

BYTES = 512 << 20  # far more than any cache holds
PASSES = 5


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of a plain read by all threads, the best of a few passes.

    Takes the maximum of a large tensor: one comparison for each load, nothing written.
    """
    data = torch.ones(BYTES // 4, device=device)
    best = 0.0
    for _ in range(PASSES):
        start = time.perf_counter()
        float(data.amax())  # waits for the device
        best = max(best, BYTES / (time.perf_counter() - start))
    return best
