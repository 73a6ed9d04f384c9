"""How long torch.compile(backend="rocmforge") takes for the decoding step of a model.

usage: python -m benchmarks.compile_time [--preset llama-8b] [--type Q4_0] [--inductor]
           [--device cuda] [--json FILE]

The first call of the step is timed, tracing and passes included, and later ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.decode_graph import CachedStep, example_inputs
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import load_model


@torch.inference_mode()
def measure(preset: str, qtype: str, device: str, inductor: bool) -> dict[str, float]:
    """Seconds of the eager step, of the first compiled call and of a later one."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.gguf", PRESETS[preset], qtype)
        step = CachedStep(load_model(path, device), 1, 512).eval()
        inputs = example_inputs(step)
        compiled = torch.compile(step, backend="rocmforge", options={"inductor": inductor})
        step(*inputs)  # loads kernels

        def seconds(call: CachedStep) -> float:
            start = time.perf_counter()
            call(*inputs).sum().item()
            return time.perf_counter() - start

        return {
            "eager": seconds(step),
            "first": seconds(compiled),
            "later": min(seconds(compiled) for _ in range(5)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", choices=PRESETS, default="llama-8b")
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--inductor", action="store_true", help="for what is not ours")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds = measure(args.preset, args.type, args.device, args.inductor)
    print(f"{args.preset} {args.type} on {args.device}, inductor: {args.inductor}")
    print(
        f"first call {seconds['first']:.1f} s, a later one {1e3 * seconds['later']:.1f} ms; "
        f"the same step run eagerly {1e3 * seconds['eager']:.1f} ms"
    )
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
