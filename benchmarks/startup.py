"""Memory after loading a model and time to the first token, above what importing torch costs.

usage: python -m benchmarks.startup MODEL [--prompt TEXT] [--ctx-size N] [--repeats N] [--json FILE]

Each figure comes from a fresh process: one that only imports torch, one that loads the model, makes
its tokenizer and KV cache and writes one token. Resident memory is read right after loading (the
allowance is file + KV cache + 150 MB above bare torch) and after the first token.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MB = 1e6


def resident() -> int:
    """Bytes of this process in memory, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def worker_torch() -> dict[str, float]:
    start = time.perf_counter()
    import torch  # noqa: F401

    return {"seconds": time.perf_counter() - start, "resident": resident()}


def worker_model(model_path: str, prompt: str, ctx_size: int) -> dict[str, float]:
    import torch  # noqa: F401

    start = time.perf_counter()
    import rocmforge_torch

    model = rocmforge_torch.load_model(model_path)
    loaded = time.perf_counter()
    after_load = resident()
    tokenizer = model.tokenizer
    tokenized = time.perf_counter()
    next(model.stream(prompt, ctx_size=ctx_size, temperature=0.0, max_tokens=8))
    done = time.perf_counter()
    return {
        "load": loaded - start,
        "tokenizer": tokenized - loaded,
        "first token": done - start,
        "resident after load": after_load,
        "resident after first token": resident(),
        "kv cache": model.new_cache(1, ctx_size).nbytes,
        "vocabulary": tokenizer.vocab_size,
    }


def measure(args: argparse.Namespace, worker: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.startup", args.model]
    command += ["--prompt", args.prompt, "--ctx-size", str(args.ctx_size), "--worker", worker]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--ctx-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=("torch", "model"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "torch":
        print(json.dumps(worker_torch()))
    elif args.worker == "model":
        print(json.dumps(worker_model(args.model, args.prompt, args.ctx_size)))
    else:
        report(args)


def report(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    bare = [measure(args, "torch") for _ in range(args.repeats)]
    ours = [measure(args, "model") for _ in range(args.repeats)]

    def median(runs: list[dict[str, float]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    file_mb = Path(args.model).stat().st_size / MB
    kv_mb = ours[0]["kv cache"] / MB
    torch_mb = median(bare, "resident") / MB
    rows = {
        "import torch": f"{median(bare, 'seconds'):.2f} s, {torch_mb:.0f} MB resident",
        "load, beyond importing torch": f"{median(ours, 'load'):.2f} s",
        "tokenizer": f"{median(ours, 'tokenizer'):.2f} s",
        "start to first token, beyond importing torch": f"{median(ours, 'first token'):.2f} s",
        "resident after load, above torch": (
            f"{median(ours, 'resident after load') / MB - torch_mb:.0f} MB"
        ),
        "resident after first token, above torch": (
            f"{median(ours, 'resident after first token') / MB - torch_mb:.0f} MB"
        ),
        "allowance: file + KV cache + 150 MB": f"{file_mb + kv_mb + 150:.0f} MB",
    }
    table = Table(title=f"{Path(args.model).name}, medians of {args.repeats}", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"torch": bare, "model": ours}, indent=1))


if __name__ == "__main__":
    main()
