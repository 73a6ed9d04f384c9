"""The card's own floors: bandwidth and matrix rate, in the times of `tuning.timing`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rocmforge_torch import extension
from rocmforge_torch.tuning.timing import Call, Timer


def no_gpu() -> str | None:
    """Why nothing can be measured here, in one sentence."""
    if not torch.cuda.is_available():
        return (
            "There is no GPU that torch can use, and this is about GPU kernels; "
            "benchmarks/cpu_matmul.py measures those of the CPU."
        )
    if not extension.has_gpu_library():
        return "The GPU kernels are not built; `rocmforge doctor` says what is missing."
    return None


@dataclass(frozen=True)
class Floors:
    """What the card does at best: bytes and operations per second."""

    read: float  # bytes/s, reading only
    read_by: str  # what reached it
    copy: float  # bytes/s, read and written
    matrix: float  # bf16 operations/s, 2 per multiplication


def measure_floors(timer: Timer) -> Floors:
    read, read_by, copy = _bandwidth(timer)
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    matrix = 2 * 8192**3 / timer.microseconds([lambda: a @ b]) * 1e6
    return Floors(read, read_by, copy, matrix)


def _bandwidth(timer: Timer) -> tuple[float, str, float]:
    """Bytes/s read and how, and copied."""
    size = 2 << 30
    words = torch.randn(size // 4, device="cuda")
    readers: dict[str, Call] = {
        "sum of 2 GiB of float32": lambda: words.sum(),
        "sums of rows of 2 GiB of float32": lambda: words.view(-1, 1 << 18).sum(1),
        "largest of 2 GiB of float32": lambda: words.amax(),
    }
    rates = {name: size / timer.microseconds([run]) * 1e6 for name, run in readers.items()}
    best = max(rates, key=rates.__getitem__)
    half = size // 8  # elements: as much is read as written
    copy = size / timer.microseconds([lambda: words[:half].copy_(words[half:])]) * 1e6
    return rates[best], best, copy
