"""What a product took on the emulator, in numbers that can be compared between kernels."""

from __future__ import annotations

import torch

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.quant_types import QuantType

from .analysis import CLASSES
from .emulator import Run
from .emulator.trace import LINE

LANES = 32  # of a wave
_WEIGHTS = 0  # the number of the buffer


def counted(run: Run, qtype: QuantType, qweight: torch.Tensor, x: torch.Tensor) -> dict[str, float]:
    """The counts of a product of x [rows, cols] with weights [n, row bytes].

    executed_per_weight: instructions of a lane. line_bytes_per_weight_byte: bytes of the cache
    lines that loads of weights touched, each line once for every load of a wave, by the bytes of
    the matrix. lds_accesses: of waves; conflicts_per_access: passes beyond the fewest (banks.py).
    matrix: matrix instructions of waves; executed_per_matrix: instructions to each, itself with it.
    Raises ValueError when the product is wrong.
    """
    values = quant_ops.dequantize(qweight, qtype.id).double()
    want, size = x @ values.T, x.abs() @ values.abs().T
    error = (torch.from_numpy(run.outputs[0]).double().view_as(want) - want).abs()
    # Sums of the activations are float16 in ggml, and weights in the tile kernels.
    if not (error <= 1e-3 * size).all():
        raise ValueError(f"{qtype.name}: the product is wrong, so its counts say nothing")
    executed = run.counts.total()
    matrix = sum(n for name, n in run.counts.items() if CLASSES["matrix"].match(name))
    return {
        "executed_per_weight": round(executed * LANES / values.numel(), 2),
        "line_bytes_per_weight_byte": round(run.requests[_WEIGHTS] * LINE / qweight.numel(), 2),
        "lds_accesses": run.lds_accesses,
        "conflicts_per_access": round(run.lds_conflicts / max(run.lds_accesses, 1), 3),
        "matrix": matrix,
        "executed_per_matrix": round(executed / matrix, 2) if matrix else 0,
    }
