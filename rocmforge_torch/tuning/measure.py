"""Times of every kernel that a product could take, by shape of the weight and number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from torch import Tensor

from .. import extension
from ..quant_types import QuantType, row_bytes
from .in_force import forced
from .limits import KERNELS, MOST, Limits
from .search import Times
from .timing import Call, Timer

Shape = tuple[int, int]  # of a weight: rows, columns

ROWS = (1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# A layer's products of a model of 8 B: of attention, into the feed-forward part and out of it.
SHAPES: tuple[Shape, ...] = ((4096, 4096), (28672, 4096), (4096, 14336))

SECONDS = 0.003  # of repeats, for a figure
ROTATED_BYTES = 512 << 20  # of weights that products take in turn, so that none is in a cache
FEWEST_WEIGHTS = 8  # so that starting a graph is no part of its time
POOL = 1 << 17  # blocks that weights are drawn from
PACKED = 1  # the layout that models on a GPU have
EPS = 1e-6


@dataclass(frozen=True)
class Candidate:
    """A kernel that is timed.

    Attributes:
        forced: limits that make products take it.
        fewest, most: numbers of rows that it is tried at; fewer would be hopeless.
    """

    forced: Limits
    fewest: int
    most: float


CANDIDATES = dict(
    zip(
        KERNELS,
        (
            Candidate(Limits(MOST.matvec, MOST.matvec, MOST.matvec), 1, MOST.matvec),
            Candidate(Limits(0, MOST.multirow, MOST.multirow), 1, MOST.multirow),
            Candidate(Limits(0, 0, MOST.tile), 1, MOST.tile),
            Candidate(Limits(0, 0, 0), 24, inf),
        ),
        strict=True,
    )
)


def trials(rows: Sequence[int]) -> list[tuple[int, str]]:
    """(number of rows, kernel) of everything that is timed at a shape."""
    return [
        (m, kernel)
        for m in rows
        for kernel, candidate in CANDIDATES.items()
        if candidate.fewest <= m <= candidate.most
    ]


@torch.inference_mode()
def measure(
    row: QuantType,
    shape: Shape,
    rows: Sequence[int],
    device: torch.device,
    done: Callable[[int], object],
) -> Times:
    """Microseconds of products with a type's weights [n, k], as a captured model runs them.

    Every other one norms its input on the way, as those do that begin a block.

    Args:
        row: the type; shape: n and k.
        rows: numbers of rows of x [m, k], bfloat16.
        device: a GPU, with its number.
        done: is called with 1 after each of `trials`.

    Raises:
        ValueError: k is no multiple of the type's block.
    """
    found: dict[int, dict[str, float]] = {m: {} for m in rows}
    with torch.cuda.device(device):
        timer = Timer(SECONDS)
        weights = _weights(row, shape, device)
        for m, kernel in trials(rows):
            with forced(device, {row.id: CANDIDATES[kernel].forced}), extension.inputs_at_rest():
                # Some cannot take all shapes.
                if extension.product_kernel(str(device), row.id, m, *shape) == kernel:
                    calls = _calls(row, weights, m, shape[1], device)
                    found[m][kernel] = timer.microseconds(calls, at_least=len(calls))
            done(1)
        torch.cuda.empty_cache()  # what captured graphs held
    return found


def _weights(row: QuantType, shape: Shape, device: torch.device) -> list[Tensor]:
    """Packed weights of random blocks, an even number that fills ROTATED_BYTES."""
    n, k = shape
    size = row_bytes(row, k)
    count = max(FEWEST_WEIGHTS, 2 * -(-ROTATED_BYTES // (2 * n * size)))
    blocks = torch.randint(256, (POOL, row.block_bytes), dtype=torch.uint8, device=device)
    # Random bytes are wild scales now and then; keep the blocks that are not.
    largest = torch.ops.rocmforge.dequantize(blocks, row.id, torch.float32).abs().amax(-1)
    blocks = blocks[(largest > 1e-2) & (largest < 1e2)]
    places = (n * k // row.block_size,)
    return [
        torch.ops.rocmforge.pack_weight(
            blocks[torch.randint(len(blocks), places, device=device)].view(n, size), row.id
        )
        for _ in range(count)
    ]


def _calls(
    row: QuantType, weights: Sequence[Tensor], m: int, k: int, device: torch.device
) -> list[Call]:
    x, residual = torch.randn(2, m, k, device=device).bfloat16()
    scale = torch.ones(k, device=device, dtype=torch.bfloat16)
    ops = torch.ops.rocmforge
    normed = partial(ops.norm_quant_matmul, x, scale, EPS)
    plain = partial(ops.quant_matmul, x)
    return [
        partial(normed, weight, row.id, "none", None, PACKED, residual)
        if i % 2
        else partial(plain, weight, row.id, None, PACKED)
        for i, weight in enumerate(weights)
    ]
