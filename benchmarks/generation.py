"""Prompt and generation tokens/s, beside llama.cpp on the same machine in the same run.

usage: python -m benchmarks.generation MODEL [--peer-python PYTHON] [--json FILE]

PYTHON is an interpreter with llama-cpp-python installed (its own virtual environment will do). The
two programs take turns, each in a fresh process; medians and the ratio of medians are printed.
llama.cpp is measured as its llama-bench does, one decode after the other without sampling; ours
through the same loop that `rocmforge generate` uses, greedy sampling included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PHASES = ("prompt", "generate")


def worker_ours(model_path: str, prompt: int, generate: int, threads: int) -> dict[str, float]:
    import torch

    import rocmforge_torch
    from rocmforge_torch.generate import SamplingParams, generate_tokens

    torch.set_num_threads(threads)
    model = rocmforge_torch.load_model(model_path)
    ids = [(7919 * i) % 30000 + 100 for i in range(prompt)]
    params = SamplingParams(temperature=0.0, max_tokens=generate + 1, ignore_eos=True)
    for _ in generate_tokens(model, [ids[:8]], params):  # warm-up, as llama-bench has one
        pass
    start = time.perf_counter()
    steps = generate_tokens(model, [ids], params)
    next(steps)
    prompted = time.perf_counter()
    count = sum(1 for _ in steps)
    done = time.perf_counter()
    return {"prompt": prompt / (prompted - start), "generate": count / (done - prompted)}


def worker_llamacpp(model_path: str, prompt: int, generate: int, threads: int) -> dict[str, float]:
    import llama_cpp

    llm = llama_cpp.Llama(
        model_path, n_ctx=prompt + generate + 16, n_batch=512, n_threads=threads,
        n_threads_batch=threads, verbose=False,
    )  # fmt: skip
    ids = [(7919 * i) % 30000 + 100 for i in range(prompt)]
    array = llama_cpp.llama_token * prompt

    def decode(tokens: list[int]) -> None:
        values = array(*tokens)  # the batch only points at it
        if llama_cpp.llama_decode(llm.ctx, llama_cpp.llama_batch_get_one(values, len(tokens))):
            raise SystemExit("llama_decode failed")

    def clear() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llm.ctx), True)

    decode(ids[:8])
    decode(ids[:1])
    clear()
    start = time.perf_counter()
    decode(ids)
    prompted = time.perf_counter()
    for token in ids[:1] * generate:
        decode([token])
    done = time.perf_counter()
    return {"prompt": prompt / (prompted - start), "generate": generate / (done - prompted)}


WORKERS = {"rocmforge_torch": worker_ours, "llama.cpp": worker_llamacpp}


def measure(name: str, python: str, args: argparse.Namespace) -> dict[str, float]:
    command = [python, __file__, args.model, "--worker", name]
    for option in ("prompt", "generate", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--peer-python")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        result = WORKERS[args.worker](args.model, args.prompt, args.generate, args.threads)
        print(json.dumps(result))
        return

    pythons = {"rocmforge_torch": sys.executable}
    if args.peer_python:
        pythons["llama.cpp"] = args.peer_python
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    for _ in range(args.repeats):
        for name, python in pythons.items():
            runs[name].append(measure(name, python, args))
    report(runs, args)


def report(runs: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    # Imported here: the peer's interpreter, which runs the worker, need not have rich.
    from rich.console import Console
    from rich.table import Table

    medians = {
        name: {phase: statistics.median(r[phase] for r in results) for phase in PHASES}
        for name, results in runs.items()
    }
    table = Table(title=f"{Path(args.model).name}, {args.threads} threads, tokens/s, medians")
    table.add_column("")
    table.add_column(f"prompt {args.prompt}", justify="right")
    table.add_column(f"generate {args.generate}", justify="right")
    for name, median in medians.items():
        spread = [
            f"{median[phase]:.1f} ({min(r[phase] for r in runs[name]):.1f} to "
            f"{max(r[phase] for r in runs[name]):.1f})"
            for phase in PHASES
        ]
        table.add_row(name, *spread)
    ratios: dict[str, float] = {}
    if "llama.cpp" in medians:
        ours, peer = medians["rocmforge_torch"], medians["llama.cpp"]
        ratios = {phase: ours[phase] / peer[phase] for phase in PHASES}
        table.add_row("ratio", *(f"{ratios[phase]:.2f}" for phase in PHASES))
    Console().print(table)
    if args.json:
        record: dict[str, Any] = {"runs": runs, "medians": medians, "ratios": ratios}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
