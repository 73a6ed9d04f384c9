"""Speed of the quantized product on a GPU, by type, shape and number of rows.

    python -m benchmarks.matmul                                  everything, some minutes
    python -m benchmarks.matmul --types Q4_K,Q6_K --shapes 28672x4096 --rows 1,8
    python -m benchmarks.matmul --layout file --json result.json
    python -m benchmarks.matmul --from result.json --update docs/performance.md     no GPU needed

A figure is microseconds of a call under graph replay, captured as GraphedDecode does it (weights
are at rest), with the weights in memory and not in the cache: calls go round at least 512 MB of
them. Beside it, the part of the card's read bandwidth that the bytes of weights make, or of its
bf16 matrix rate; both are measured first, in the same run, and so is torch's own bf16 `linear`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu_matmul import random_blocks
from benchmarks.gpu_timing import Floors, measure_floors, no_gpu
from benchmarks.matmul_tables import markdown, percent, replace_between_markers, rounded
from rocmforge_torch import extension
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType, quant_type, row_bytes
from rocmforge_torch.tuning.timing import Call, Timer

# Plain numbers last.
TYPES = sorted((QUANT_TYPES[qtype] for qtype in FORMATS), key=lambda row: not row.is_quantized)

SHAPES = "4096x4096,6144x4096,28672x4096,4096x14336,128256x4096"
ROWS = "1,2,4,8,16,32,128,512,2048"
ROTATED_BYTES = 512 << 20
COLD_BYTES = 256 << 20  # several caches: the least that a graph walks through
FEW_ROWS = 32  # what memory, not arithmetic, has to keep up with
POOL = 1 << 16  # blocks that weights are drawn from
LINEAR = "bf16 linear"
LAYOUTS = {"file": 0, "packed": 1}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Result:
    type: str
    n: int
    k: int
    rows: int
    us: float
    weight_bytes: int


@functools.lru_cache(maxsize=1)
def block_pool(row: QuantType) -> Tensor:
    """[POOL, bytes]: random blocks; of plain types, pieces of 32 numbers."""
    k = max(row.block_size, 32)
    return random_blocks(row, POOL, k).cuda()


def weights(row: QuantType, n: int, k: int, layout: int) -> list[Tensor]:
    """Weights [n, row_bytes], drawn from a pool of blocks, that fill ROTATED_BYTES."""
    pool, size = block_pool(row), row_bytes(row, k)
    count = max(2, -(-ROTATED_BYTES // (n * size)))
    drawn = (
        pool[torch.randint(POOL, (n * size // pool.shape[1],), device="cuda")].view(n, size)
        for _ in range(count)
    )
    return [torch.ops.rocmforge.pack_weight(w, row.id) if layout else w for w in drawn]


def calls_of(name: str, n: int, k: int, layout: int) -> tuple[Any, list[Tensor], int]:
    """A function of (x, weight), the weights, and the bytes of one."""
    if name == LINEAR:
        count = max(2, -(-ROTATED_BYTES // (2 * n * k)))
        dense = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        return torch.nn.functional.linear, dense, 2 * n * k
    row = quant_type(name)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.ops.rocmforge.quant_matmul(x, weight, row.id, None, layout)
        return out

    return product, weights(row, n, k, layout), n * row_bytes(row, k)


def measure(
    timer: Timer, name: str, n: int, k: int, rows: list[int], layout: int, dtype: torch.dtype
) -> Iterator[Result]:
    function, all_weights, weight_bytes = calls_of(name, n, k, layout)
    for m in rows:
        x = torch.randn(m, k, device="cuda").to(torch.bfloat16 if name == LINEAR else dtype)
        calls: list[Call] = [functools.partial(function, x, weight) for weight in all_weights]
        us = timer.microseconds(calls, at_least=-(-COLD_BYTES // weight_bytes))
        yield Result(name, n, k, m, us, weight_bytes)


def line(results: list[Result], floors: Floors) -> str:
    """One line of a terminal: a type at a shape, with parts of floors as in the tables."""
    parts = (
        f"{r.rows}: {rounded(r.us)} us ({percent(asdict(r), asdict(floors))})" for r in results
    )
    return f"{results[0].type:<12}{results[0].n}x{results[0].k}  " + "  ".join(parts)


def run(args: argparse.Namespace) -> dict[str, Any]:
    timer = Timer(args.seconds)
    floors = measure_floors(timer)
    card = torch.cuda.get_device_name()
    print(
        f"{card}: reads {floors.read / 1e12:.2f} TB/s ({floors.read_by}), copies "
        f"{floors.copy / 1e12:.2f} TB/s, bf16 {floors.matrix / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    rows = [int(m) for m in args.rows.split(",")]
    record: dict[str, Any] = {
        "card": card,
        "torch": torch.__version__,
        "layout": args.layout,
        "dtype": args.dtype,
        "floors": asdict(floors),
        "results": [],
        "failed": [],
    }
    names, shapes = (LINEAR, *args.types.split(",")), args.shapes.split(",")
    # Products of many rows draw as much power as the card may, and for a while after them it is
    # clocked lower: they come last.
    few, many = [m for m in rows if m <= FEW_ROWS], [m for m in rows if m > FEW_ROWS]
    for part, name, shape in itertools.product(filter(None, (few, many)), names, shapes):
        n, k = map(int, shape.split("x"))
        try:
            with extension.inputs_at_rest():
                found = list(
                    measure(timer, name, n, k, part, LAYOUTS[args.layout], DTYPES[args.dtype])
                )
        except RuntimeError as error:
            record["failed"].append(f"{name} {shape}: {error}")
            continue
        record["results"] += map(asdict, found)
        print(line(found, floors), flush=True)
        if args.json:  # as far as it got
            args.json.write_text(json.dumps(record, indent=1))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--types", default=",".join(row.name for row in TYPES), help="comma-separated names"
    )
    parser.add_argument("--shapes", default=SHAPES, help="comma-separated NxK")
    parser.add_argument("--rows", default=ROWS, help="comma-separated")
    parser.add_argument("--layout", choices=LAYOUTS, default="packed")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of activations")
    parser.add_argument("--seconds", type=float, default=0.03, help="of repeats, for a figure")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--from", type=Path, dest="source", help="figures that --json wrote")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the docs")
    parser.add_argument("--update", type=Path, help="write the tables between a page's markers")
    args = parser.parse_args()
    if args.source:
        record = json.loads(args.source.read_text())
    elif reason := no_gpu():
        raise SystemExit(reason)
    else:
        with torch.inference_mode():
            record = run(args)
    if args.markdown:
        print(markdown(record))
    if args.update:
        replace_between_markers(args.update, markdown(record))
    if record["failed"]:
        raise SystemExit("not measured:\n" + "\n".join(record["failed"]))


if __name__ == "__main__":
    main()
