"""The pooled allocator and the memory plan on real work, beside PyTorch's own allocator.

usage: python -m benchmarks.allocator [MODEL] [--preset llama-small] [--requests 1000]
           [--device cuda] [--json FILE] [--plot FILE]

Three workloads: decoding (one token a step), a prompt of 2,048 tokens in pieces of 512, and
requests of varying lengths. Each is done up to four ways: by the model as it is (eager), by its
optimised graph (graph), by the graph with a memory plan, whose arena comes from the pooled
allocator (planned), and, for decoding on a GPU, by GraphedDecode (captured). A graph is made for
one shape, so that requests are padded to the next of a few lengths, in `graph` and `planned` alike.

Bytes and allocations are counted in a run of their own, without a clock: on a GPU by PyTorch's
caching allocator; on the CPU, where PyTorch does not cache, by the profiler, which sees all that
PyTorch asks of malloc. What was there before (weights, the cache of keys and values) does not
count. Times are medians of steps that the ways take turns in.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.decode_graph import CachedStep, example_inputs, graph_of
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import TensorAllocator, load_model, with_allocator
from rocmforge_torch.fx import optimize
from rocmforge_torch.generate import Sampler, SamplingParams
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.models import CausalLM

PIECE = 512  # tokens of a prompt at a time, as in generation
PROMPT = 2048
BUCKETS = (16, 32, 64, 128, 256)  # lengths that a request is padded to
WINDOW = 50  # steps that the profiler watches at a time
Run = Callable[[int], Any]  # does step number i


def request_lengths(count: int, seed: int = 0) -> list[int]:
    """Lengths from 1 to the largest bucket, short ones more often."""
    draw = random.Random(seed)
    return [round(BUCKETS[-1] ** draw.random()) for _ in range(count)]


def padded(length: int) -> int:
    return next(bucket for bucket in BUCKETS if bucket >= length)


def count_and_peak(changes: Iterable[int]) -> tuple[int, int]:
    """How many of some changes of bytes are allocations, and the most bytes at a time."""
    count = live = peak = 0
    for change in changes:
        count += change > 0
        live += change
        peak = max(peak, live)
    return count, peak


class Graphs:
    """Graphs of several lengths, their arenas from one allocator."""

    def __init__(self, step: CachedStep, lengths: Iterable[int], level: int) -> None:
        self.allocator = TensorAllocator()
        self.graphs = {}
        for length in lengths:
            gm, inputs = graph_of(step, length)
            self.graphs[length] = optimize(gm, inputs, level=level)

    def __call__(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with with_allocator(self.allocator):
            scores: torch.Tensor = self.graphs[ids.shape[1]](ids, lengths)
            return scores

    def plans(self) -> list[dict[str, int]]:
        return [vars(gm.meta["memory_plan"]) for gm in self.graphs.values()]


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(runs: dict[str, Run], steps: int, device: torch.device) -> dict[str, float]:
    """Seconds of a step, the median, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for i in range(steps):
        for name in order.sample([*runs], len(runs)):
            wait_for(device)
            start = time.perf_counter()
            runs[name](i)
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def counted(run: Run, steps: int, device: torch.device) -> dict[str, int]:
    """Of all steps: requests to PyTorch's allocator, on a GPU those of them that reached the
    driver, and the most bytes in use above what was before."""
    if device.type == "cuda":
        return _counted_on_gpu(run, steps, device)
    requests = peak = 0
    for start in range(0, steps, WINDOW):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            for i in range(start, min(start + WINDOW, steps)):
                run(i)
        found = watched.profiler.kineto_results.events()
        changes = [(e.start_ns(), e.nbytes()) for e in found if e.name() == "[memory]"]
        count, most = count_and_peak(nbytes for _, nbytes in sorted(changes, key=lambda c: c[0]))
        requests, peak = requests + count, max(peak, most)
    return {"requests": requests, "peak_bytes": peak}


def _counted_on_gpu(run: Run, steps: int, device: torch.device) -> dict[str, int]:
    wait_for(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_stats(device)
    for i in range(steps):
        run(i)
    wait_for(device)
    after = torch.cuda.memory_stats(device)
    keys = {
        "requests": "allocation.all.allocated",
        "driver_allocations": "num_device_alloc",
    }
    found = {name: after[key] - before[key] for name, key in keys.items()}
    base = before["allocated_bytes.all.current"]
    return {**found, "peak_bytes": after["allocated_bytes.all.peak"] - base}


def workloads(
    model: CausalLM, decode_steps: int, prompts: int, requests: int
) -> Iterator[dict[str, Any]]:
    device = model.device
    lengths = request_lengths(requests)

    def tokens(step: CachedStep, count: int, held: int) -> list[torch.Tensor]:
        ids, at = example_inputs(step, count)
        return [ids, at.fill_(held)]

    def decoding(step: CachedStep, way: Callable[..., Any]) -> Run:
        inputs = tokens(step, 1, 64)
        return lambda i: way(*inputs)

    def prompt(step: CachedStep, way: Callable[..., Any]) -> Run:
        pieces = [tokens(step, PIECE, start) for start in range(0, PROMPT, PIECE)]
        return lambda i: [way(*inputs) for inputs in pieces]

    def varying(step: CachedStep, way: Callable[..., Any]) -> Run:
        ready = {n: tokens(step, n, 0) for n in {*lengths, *BUCKETS}}
        pad = (lambda n: n) if way is step else padded
        return lambda i: way(*ready[pad(lengths[i])])

    plans: list[tuple[str, Callable[..., Run], int, int, tuple[int, ...]]] = [
        ("decode", decoding, decode_steps, 128, (1,)),
        (f"prompt of {PROMPT}", prompt, prompts, PROMPT, (PIECE,)),
        (f"{requests} requests", varying, requests, BUCKETS[-1], BUCKETS),
    ]
    for name, workload, steps, context, shapes in plans:
        if not steps:
            continue
        step = CachedStep(model, 1, context)
        graph, planned = (Graphs(step, shapes, level) for level in (3, 4))
        runs = {"eager": workload(step, step)}
        runs |= {"graph": workload(step, graph), "planned": workload(step, planned)}
        if name == "decode" and device.type == "cuda":
            runs["captured"] = captured(model, steps)
        counts = {way: counted(run, steps, device) for way, run in runs.items()}
        seconds = timed(runs, steps, device)
        for way in runs:
            row = {"workload": name, "way": way, "steps": steps, "seconds": seconds[way]}
            row |= counts[way]
            if way == "planned":
                row |= {"pool": vars(planned.allocator.stats()), "plans": planned.plans()}
            yield row


def captured(model: CausalLM, steps: int) -> Run:
    """Decoding by a captured graph, whose pool is allocated by the first step."""
    decode = GraphedDecode(model, 1, 64 + 2 * steps, buckets=[1])
    for tensor in (*decode.cache.k, *decode.cache.v):
        tensor.view(torch.uint8).zero_()
    sampling = Sampler(SamplingParams(temperature=0.0), 1, model.device).rows
    decode.join([0], [1], [64], sampling)
    return lambda i: decode.step().wait()


@contextmanager
def model_file(args: argparse.Namespace) -> Iterator[Path]:
    if args.model:
        yield args.model
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_model(Path(folder) / f"{args.preset}.gguf", PRESETS[args.preset])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--preset", choices=PRESETS, default="llama-small")
    parser.add_argument("--decode-steps", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an image, which takes matplotlib")
    args = parser.parse_args()
    if args.plot:
        check_matplotlib()
    torch.set_num_threads(args.threads)
    with model_file(args) as path, torch.no_grad():
        model = load_model(path, args.device, progress=False)
        rows = list(workloads(model, args.decode_steps, args.prompts, args.requests))
        name = path.name
    gpu = model.device.type == "cuda"
    record = {
        "model": name,
        "device": torch.cuda.get_device_name(model.device) if gpu else "cpu",
        "torch": torch.__version__,
        "rows": rows,
    }
    report(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))
    if args.plot:
        draw(record, args.plot)


def report(record: dict[str, Any]) -> None:
    table = Table(title=f"{record['model']} on {record['device']}, torch {record['torch']}")
    table.add_column("workload")
    for column in ("way", "ms a step", "peak MiB", "requests a step", "driver's, in all"):
        table.add_column(column, justify="right")
    for row in record["rows"]:
        table.add_row(
            row["workload"],
            row["way"],
            f"{row['seconds'] * 1e3:.2f}",
            f"{row['peak_bytes'] / 2**20:.2f}",
            f"{row['requests'] / row['steps']:.0f}",
            f"{row['driver_allocations']:,}" if "driver_allocations" in row else "",
        )
    console = Console()
    console.print(table)
    for row in record["rows"]:
        for plan in row.get("plans", ()):
            console.print(f"{row['workload']}: {plan}")


def check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit(
            "benchmarks.allocator: --plot needs matplotlib: pip install 'rocmforge_torch[bench]'"
        ) from None


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def draw(record: dict[str, Any], path: Path) -> None:
    """Three panels of bars: time, peak, requests; a group for each workload."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = record["rows"]
    names = list(dict.fromkeys(row["workload"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    panels = {
        "ms a step": lambda r: r["seconds"] * 1e3,
        "peak MiB": lambda r: r["peak_bytes"] / 2**20,
        "requests a step": lambda r: r["requests"] / r["steps"],
    }
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (title, value) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        width = 0.8 / len(ways)
        for i, way in enumerate(ways):
            found = [(names.index(r["workload"]), value(r)) for r in rows if r["way"] == way]
            places = [x + (i - (len(ways) - 1) / 2) * width for x, _ in found]
            bars = axes.bar(places, [y for _, y in found], width, label=way)
            axes.bar_label(bars, fmt=_short, fontsize=6.5)
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=10)
    figure.legend(ways, loc="outside lower center", ncols=len(ways), frameon=False)
    figure.suptitle(f"{record['model']}, {record['device']}", fontsize=10)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "allocator"}):
        figure.savefig(path)


if __name__ == "__main__":
    main()
