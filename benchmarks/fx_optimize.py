"""How long fx.optimize takes for the decoding step of a Llama, and what each pass does to it.

usage: python -m benchmarks.fx_optimize [--preset llama-small] [--layers 32] [--fused] [--json FILE]

The graph has as many nodes as that of any Llama with so many layers, 32 for the 8B shape; the
weights are narrow by default, because a pass takes time by nodes (only `merge` and `pack` also copy
weights, `merge` none here, where they follow each other in the file). --preset llama-8b takes the
weights of full size: 5 GB on disk.
Query, key and value, and gate and up, are left apart, which gives the passes the most to do;
--fused loads the model as load_model does by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rocmforge_torch
from benchmarks.decode_graph import CachedStep, graph_of
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch.fx import optimize


def measure(
    preset: str, layers: int, level: int, repeats: int, device: str, fused: bool
) -> dict[str, Any]:
    """Seconds of every run, and the report of the fastest."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.gguf", replace(PRESETS[preset], layers=layers))
        model = rocmforge_torch.load_model(path, device, fuse=fused, progress=False)
        start = time.perf_counter()
        gm, inputs = graph_of(CachedStep(model, batch_size=1, context=64))
        traced = time.perf_counter() - start
        runs = []
        for _ in range(repeats):
            start = time.perf_counter()
            optimized = optimize(gm, inputs, level=level)
            runs.append((time.perf_counter() - start, optimized.meta["report"]))
            del optimized
    seconds, report = min(runs, key=lambda run: run[0])
    return {
        "preset": preset,
        "layers": layers,
        "trace seconds": traced,
        "seconds": [run[0] for run in runs],
        "fastest": seconds,
        "passes": [asdict(p) for p in report.passes],
        "table": str(report),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", choices=PRESETS, default="llama-small")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fused", action="store_true", help="merged when loaded, as by default")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.preset, args.layers, args.level, args.repeats, args.device, args.fused)
    print(f"{args.preset}, {args.layers} layers, level {args.level}, {args.device}")
    print(result["table"])
    print(
        f"fx.optimize: {statistics.median(result['seconds']):.2f} s (median of {args.repeats}); "
        f"torch.export before it: {result['trace seconds']:.2f} s"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
