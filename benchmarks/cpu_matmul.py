"""Speed of the quantized product on the CPU, by type, shape and number of rows.

    python benchmarks/cpu_matmul.py                          every type at the default shape
    python benchmarks/cpu_matmul.py --types Q8_0 --shape 262144x640 --rows 1
    python benchmarks/cpu_matmul.py --json > result.json

Each line gives the fast and the exact path in GB of weight blocks read per second and in billions
of operations per second (2 per multiplication), and torch's float32 linear on the dequantized
weights, timed in turn with them. Times are the least of several rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import rocmforge_torch
from rocmforge_torch import extension
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType, quant_type, row_bytes

QUANTIZED = [QUANT_TYPES[qtype].name for qtype in FORMATS]


@dataclass(frozen=True)
class Result:
    type: str
    n: int
    k: int
    rows: int
    fast_ms: float
    exact_ms: float
    torch_ms: float
    weight_bytes: int

    def gigabytes(self, ms: float) -> float:
        return self.weight_bytes / ms / 1e6

    def gigaops(self, ms: float) -> float:
        return 2 * self.n * self.k * self.rows / ms / 1e6


def random_blocks(row: QuantType, n: int, k: int) -> torch.Tensor:
    """Blocks [n, row_bytes] of random codes under scales of moderate size."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (n * k // row.block_size, row.block_bytes), dtype=np.uint8)
    for offset, size, count in row.wide_fields or ((0, 2, 1),):
        for item in range(min(count, 4)):
            blocks[:, offset + size * (item + 1) - 1] = 0x28 if size == 2 else 0x3C
    if row.name == "MXFP4":
        blocks[:, 0] = 120
    if row.name == "NVFP4":
        blocks[:, :4] = 0x38
    return torch.from_numpy(blocks).view(n, row_bytes(row, k))


def least_ms(functions: list[Callable[[], object]], seconds: float) -> list[float]:
    """The least time of each function in milliseconds, run in turn for `seconds` in all."""
    for function in functions:
        function()
    best = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        rounds += 1
        for i, function in enumerate(functions):
            repeats = 1 if best[i] > 1 else 8
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            best[i] = min(best[i], (time.perf_counter() - start) / repeats * 1e3)
    return best


def measure(name: str, n: int, k: int, rows: list[int], seconds: float) -> Iterator[Result]:
    row = quant_type(name)
    qweight = random_blocks(row, n, k)
    dense = torch.ops.rocmforge.dequantize(qweight, row.id, torch.float32)

    def product(x: torch.Tensor, exact: bool) -> Callable[[], object]:
        def run() -> object:
            rocmforge_torch.config.exact = exact
            return torch.ops.rocmforge.quant_matmul(x, qweight, row.id)

        return run

    for m in rows:
        x = torch.randn(m, k)
        dense_product = partial(torch.nn.functional.linear, x, dense)
        with torch.inference_mode():
            fast, exact, dense_ms = least_ms(
                [product(x, False), product(x, True), dense_product], seconds
            )
        yield Result(name, n, k, m, fast, exact, dense_ms, qweight.numel())
    rocmforge_torch.config.exact = False


def show(results: list[Result], console: Console) -> None:
    table = Table(
        title=f"quant_matmul, {torch.get_num_threads()} threads, "
        f"{extension.cpu_instruction_set()} kernels"
    )
    for heading in ("type", "shape", "rows", "fast ms", "GB/s", "GOPS", "exact ms", "GOPS",
                    "torch f32 ms", "GOPS"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("type", "shape") else "right")
    for r in results:
        table.add_row(
            r.type,
            f"{r.n}x{r.k}",
            str(r.rows),
            f"{r.fast_ms:.3f}",
            f"{r.gigabytes(r.fast_ms):.1f}",
            f"{r.gigaops(r.fast_ms):.0f}",
            f"{r.exact_ms:.3f}",
            f"{r.gigaops(r.exact_ms):.0f}",
            f"{r.torch_ms:.3f}",
            f"{r.gigaops(r.torch_ms):.0f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--types", default=",".join(QUANTIZED), help="comma-separated names")
    parser.add_argument("--shape", default="2048x2048", help="comma-separated NxK")
    parser.add_argument("--rows", default="1,2,4,8,32,128", help="comma-separated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="per line")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [int(m) for m in args.rows.split(",")]
    results: list[Result] = []
    for name in args.types.split(","):
        for shape in args.shape.split(","):
            n, k = map(int, shape.split("x"))
            results += measure(name, n, k, rows, args.seconds)
    if args.json:
        print(json.dumps([asdict(r) for r in results], indent=1))
    else:
        show(results, Console())


if __name__ == "__main__":
    main()
