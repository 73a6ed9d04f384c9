"""Decoding eagerly and by captured graphs: tokens/s, host time per token, memory of the graphs.

usage: python -m benchmarks.graphed_decode [MODEL] [--preset llama-8b] [--type Q4_0]
           [--batch 1 --batch 8] [--context N] [--tokens N] [--device cuda] [--json FILE]

Without MODEL, a file of a preset's shape with random weights is written first. Every row starts
with a context of N tokens (of zeros: their values change no time). Both take the same steps, each
started before the tokens of the last one are read, as generation does; the host's time is that of
starting a step, and of reading tokens that are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import load_model
from rocmforge_torch.generate import Sampler, SamplingParams
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.models import CausalLM

WARM_UP = 4


@contextmanager
def model_file(args: argparse.Namespace) -> Iterator[Path]:
    if args.model:
        yield args.model
        return
    with tempfile.TemporaryDirectory() as folder:
        name = f"{args.preset}-{args.type}.gguf"
        yield write_model(Path(folder) / name, PRESETS[args.preset], args.type)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    model: CausalLM, batch: int, context: int, tokens: int, capture: bool
) -> dict[str, Any]:
    room = context + 2 * tokens + WARM_UP + 1
    decode = GraphedDecode(model, batch, room, buckets=[batch], capture=capture)
    for tensor in (*decode.cache.k, *decode.cache.v):
        tensor.view(torch.uint8).zero_()
    sampling = Sampler(SamplingParams(seed=1), batch, model.device).rows
    decode.join(range(batch), [1] * batch, [context] * batch, sampling)
    wait_for(model.device)
    start = time.perf_counter()
    decode.step().wait()
    first = time.perf_counter() - start
    for _ in range(WARM_UP):
        decode.step().wait()

    start = time.perf_counter()
    pending = decode.step()
    for _ in range(tokens - 1):
        following = decode.step()
        pending.wait()
        pending = following
    pending.wait()
    seconds = time.perf_counter() - start

    host = []
    for _ in range(tokens):
        start = time.perf_counter()
        pending = decode.step()
        started = time.perf_counter()
        wait_for(model.device)
        ready = time.perf_counter()
        pending.wait()
        host.append(started - start + time.perf_counter() - ready)
    return {
        "batch": batch,
        "captured": decode.reason is None,
        "reason": decode.reason,
        "tokens_per_second": batch * tokens / seconds,
        "host_microseconds": statistics.median(host) * 1e6,
        "first_step_seconds": first,
        "pool_bytes": decode.pool_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--preset", choices=PRESETS, default="llama-8b")
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with model_file(args) as path:
        model = load_model(path, args.device)
        # Turn about, so that a change of clocks meets both.
        results = [
            measure(model, batch, args.context, args.tokens, capture)
            for batch in args.batch or [1, 8]
            for capture in (False, True)
        ]
        name = path.name
    gpu = model.device.type == "cuda"
    record = {
        "model": name,
        "device": torch.cuda.get_device_name(model.device) if gpu else "cpu",
        "torch": torch.__version__,
        "context": args.context,
        "tokens": args.tokens,
        "results": results,
    }
    report(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))


def report(record: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{record['model']} on {record['device']}, torch {record['torch']}")
    for column in ("batch", "steps", "tokens/s", "host µs", "first step s", "graphs' MiB"):
        table.add_column(column, justify="right")
    for result in record["results"]:
        table.add_row(
            str(result["batch"]),
            "captured" if result["captured"] else "eager",
            f"{result['tokens_per_second']:.1f}",
            f"{result['host_microseconds']:.1f}",
            f"{result['first_step_seconds']:.3f}",
            f"{result['pool_bytes'] / 2**20:.1f}",
        )
    console.print(table)
    for reason in {r["reason"] for r in record["results"]} - {None, "capture=False"}:
        console.print(f"Nothing was captured: {reason}.")


if __name__ == "__main__":
    main()
