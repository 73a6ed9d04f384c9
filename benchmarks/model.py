"""Tokens/s of a whole model on a GPU: decoding, and prompts of any length in one pass.

usage: python -m benchmarks.model [--types Q4_0,Q4_K] [--preset llama-8b] [--tokens 1,8,64,512,2048]
           [--depth 16384] [--json FILE]

For every type a model of the preset's shape with random weights is written and loaded. A pass of T
tokens behind `depth` others computes the scores of the last one; one token is a step of decoding,
greedy choice and the host left out. Every pass is a replay of a captured graph, so that the GPU is
what is timed. The floor is what reading the weights takes at the read bandwidth of the same run, or
multiplying by them at its bf16 matrix rate, whichever is longer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.decode_graph import CachedStep
from benchmarks.gpu_timing import measure_floors, no_gpu
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import extension, load_model
from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import QuantGatedLinear, QuantLinear
from rocmforge_torch.quant_types import QUANT_TYPES
from rocmforge_torch.tuning.timing import Timer


def seconds_of(step: CachedStep, tokens: int, depth: int, timer: Timer) -> float:
    """Of one pass."""
    device = step.model.device
    ids = torch.randint(5, 1000, (1, tokens), device=device)
    lengths = torch.full((1,), depth, dtype=torch.int64, device=device)
    with extension.inputs_at_rest():  # as GraphedDecode captures
        return timer.microseconds([lambda: step(ids, lengths)]) / 1e6


def work_of(model: CausalLM) -> tuple[int, int]:
    """Bytes of the weights that a pass reads, and how many they are."""
    held = [m for m in model.modules() if isinstance(m, QuantLinear | QuantGatedLinear)]
    sizes = [(m.qweight.numel(), QUANT_TYPES[m.qtype]) for m in held]
    return (
        sum(size for size, _ in sizes),
        sum(size // row.block_bytes * row.block_size for size, row in sizes),
    )


@torch.inference_mode()
def measure(preset: str, qtype: str, tokens: list[int], depth: int, timer: Timer) -> dict[str, Any]:
    """Tokens/s of every number of tokens in one pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.gguf", PRESETS[preset], qtype)
        model = load_model(path, "cuda")
    weight_bytes, weights = work_of(model)
    step = CachedStep(model, 1, depth + max(tokens))
    seconds = {t: seconds_of(step, t, depth, timer) for t in tokens}
    return {"type": qtype, "bytes": weight_bytes, "weights": weights, "seconds": seconds}


def report(record: dict[str, Any]) -> None:
    """A table: tokens/s, and per cent of the floor's."""
    allowed = f"{record['read'] / 1e12:.2f} TB/s and {record['rate'] / 1e12:.0f} TFLOP/s allow"
    title = f"{record['preset']} on {record['device']}, depth {record['depth']}"
    table = Table(title=f"{title}: tokens/s (% of what {allowed})")
    table.add_column("type")
    for t in record["tokens"]:
        table.add_column(f"{t}", justify="right")
    for row in record["rows"]:
        cells = []
        for t in record["tokens"]:
            floor = max(row["bytes"] / record["read"], 2 * t * row["weights"] / record["rate"])
            seconds = row["seconds"][t]
            cells.append(f"{t / seconds:,.0f} ({100 * floor / seconds:.0f} %)")
        table.add_row(row["type"], *cells)
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--types", default="Q4_0,Q8_0,Q4_K,Q6_K")
    parser.add_argument("--preset", choices=PRESETS, default="llama-8b")
    parser.add_argument("--tokens", default="1,2,4,8,16,32,64,512,2048")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if reason := no_gpu():
        raise SystemExit(reason)
    tokens = [int(t) for t in args.tokens.split(",")]
    timer = Timer(0.1)
    floors = measure_floors(timer)
    record = {
        "preset": args.preset,
        "device": torch.cuda.get_device_name(),
        "depth": args.depth,
        "tokens": tokens,
        "read": floors.read,
        "rate": floors.matrix,
        "rows": [measure(args.preset, t, tokens, args.depth, timer) for t in args.types.split(",")],
    }
    report(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
