"""Calls of every GPU kernel at awkward shapes, for a tool that watches memory: nothing is compared.

    python -m tools.sanitizer_calls --seconds 60

The most telling calls come first; who runs out of time has left out types, not ops. Inputs are made
on the CPU and copied, so that they count as initialized. Prints one JSON object: calls per op.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rocmforge_torch  # noqa: F401  (its ops)
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType, row_bytes

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ops")]

FIRST_TYPES = ("Q4_K", "Q8_0", "Q4_0", "Q6_K", "IQ4_XS", "MXFP4")
ROWS = (1, 2, 3, 8, 17, 65)
SAMPLES_PER_OP = 6  # of those that the tests of the contract use

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def on_gpu(value: Any) -> Any:
    """The same view of a copy of a tensor's whole memory."""
    if not isinstance(value, Tensor):
        return value
    host: Any = value.untyped_storage()
    # Products copy whole groups of 16 bytes; memory of a card never ends within one.
    memory = torch.zeros(-(-host.nbytes() // 16) * 16, dtype=torch.uint8)
    memory[: host.nbytes()] = torch.empty(0, dtype=torch.uint8).set_(host, 0, (host.nbytes(),))
    storage: Any = memory.untyped_storage().cuda()
    view = torch.empty(0, dtype=value.dtype, device="cuda")
    return view.set_(storage, value.storage_offset(), value.shape, value.stride())


def contract_calls() -> Iterator[Call]:
    """Samples of every op, from the first to the last of its list."""
    from op_samples import SAMPLES  # type: ignore[import-not-found]

    for name, samples in SAMPLES.items():
        every = list(samples())
        for sample in every[:: -(-len(every) // SAMPLES_PER_OP)]:
            call = sample.copy()
            args = tuple(map(on_gpu, call.args))
            yield name, args, {key: on_gpu(value) for key, value in call.kwargs.items()}


def product_calls(row: QuantType) -> Iterator[Call]:
    """A type's products in both layouts, with tails in every direction."""
    from tests.ops.quant_blocks import random_blocks

    block = max(row.block_size, 32)
    for (n, k), layout in itertools.product(((67, 3 * block), (130, 9 * block)), (0, 1)):
        blocks = torch.from_numpy(random_blocks(row, n * k // row.block_size))
        qweight = blocks.view(n, row_bytes(row, k))
        if layout:
            qweight = torch.ops.rocmforge.pack_weight(qweight, row.id)
        for i, m in enumerate(ROWS):
            dtype = (torch.float32, torch.float16, torch.bfloat16)[i % 3]
            x, bias = torch.randn(m, k).to(dtype), torch.randn(n)
            args = (x, qweight, row.id, bias if i % 2 else None, layout)
            yield "quant_matmul", tuple(map(on_gpu, args)), {}


def calls() -> Iterator[Call]:
    quantized = {row.name: row for row in QUANT_TYPES.values() if row.is_quantized}
    first = [quantized.pop(name) for name in FIRST_TYPES]
    yield from product_calls(first[0])
    yield from contract_calls()
    for row in (*first[1:], *quantized.values()):
        yield from product_calls(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="then no more calls are made")
    end = time.monotonic() + parser.parse_args().seconds
    torch.manual_seed(0)
    made: Counter[str] = Counter()
    types: dict[str, None] = {}
    is_complete = True
    for name, args, kwargs in calls():
        if time.monotonic() > end:
            is_complete = False
            break
        getattr(torch.ops.rocmforge, name)(*args, **kwargs)
        torch.cuda.synchronize()
        made[name] += 1
        if name == "quant_matmul":
            types[QUANT_TYPES[args[2]].name] = None
    print(json.dumps({"calls": made, "types": list(types), "complete": is_complete}))


if __name__ == "__main__":
    main()
