"""Perplexity of a model quantized anew from its own dequantized weights, beside llama.cpp's.

usage: python -m benchmarks.quantize_quality --model MODEL.gguf --text TEXT [--imatrix-text TEXT]
           [--types Q4_K+pure Q6_K ...] [--chunks 6] [--ctx-size 512] [--ggml libggml-base.so]
           [--json]

Every type is written by us and by llama.cpp's quantizer (xllamacpp's of the extra `test`, or the
library that --ggml names; left out without either), tensor by tensor in the same types, from the
same float32 weights; both files are scored by our engine with the same text, so that only the
quantizers differ. "TYPE+pure" is all matrices in one type, "TYPE+imatrix" weighs errors by
importance collected with the model over the other text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.quantize_error import Ggml
from rocmforge_torch import load_model
from rocmforge_torch.generate import perplexity
from rocmforge_torch.gguf import TensorSource, write_gguf
from rocmforge_torch.quantize import Importance, Plan, open_model, plan, recipe, write_quantized
from rocmforge_torch.quantize.collect import collect

TYPES = (
    *("Q6_K+pure", "Q4_K+pure", "Q4_K+pure+imatrix", "Q4_K_M", "Q4_K_M+imatrix"),
    *("Q4_0+pure", "Q4_0+pure+imatrix"),
)


def score(path: Path, text: str, ctx_size: int, chunks: int) -> tuple[float, float]:
    """Perplexity and its standard error."""
    *_, last = perplexity(load_model(path, progress=False), text, ctx_size, chunks)
    return last.value, last.error


def write(
    source: Path,
    target: Path,
    name: str,
    options: set[str],
    imatrix: Path | None,
    ggml: Ggml | None = None,
) -> int:
    """Quantize with the library, or in the same types with ggml; returns the tensors' bytes."""
    importance = Importance.load(imatrix) if imatrix and "imatrix" in options else None
    model, wanted = open_model(source), recipe(name, "pure" in options)
    plans = plan(model.tensors, model.metadata, wanted, importance is not None)
    if ggml is None:
        write_quantized(target, model, plans, wanted, importance)
    else:
        sources = [
            TensorSource(
                p.source.name, p.target, p.source.shape, partial(by_ggml, ggml, p, importance)
            )
            for p in plans
        ]
        write_gguf(target, model.metadata, sources)
    return sum(p.nbytes for p in plans)


def by_ggml(ggml: Ggml, plan: Plan, importance: Importance | None) -> Iterator[Tensor]:
    """The blocks of a tensor as llama.cpp makes them."""
    if not plan.changes:
        yield plan.source.load()
        return
    weights = importance.columns(plan.source) if importance else None
    for _, rows in plan.source.rows():
        yield ggml(rows, plan.target, None if weights is None else weights[0])


def write_importance(model: Path, text: Path, target: Path, ctx_size: int) -> None:
    found = collect(load_model(model, progress=False), text.read_text(), text.name, ctx_size)
    found.save(target)


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    text = args.text.read_text().removesuffix("\n")
    ggml = Ggml.find(args.ggml)
    imatrix = None
    if args.imatrix_text:
        imatrix = folder / "imatrix.gguf"
        write_importance(args.model, args.imatrix_text, imatrix, args.ctx_size)
    exact = folder / "f32.gguf"
    write(args.model, exact, "F32", set(), None)
    value, error = score(args.model, text, args.ctx_size, args.chunks)
    rows: list[dict[str, Any]] = [{"type": "as it is", "ours": value, "error": error}]
    if not args.json:
        show(rows[0])
    for wanted in args.types:
        name, *flags = wanted.split("+")
        options = set(flags)
        if "imatrix" in options and imatrix is None:
            continue
        target, start = folder / "out.gguf", time.perf_counter()
        nbytes = write(exact, target, name, options, imatrix)
        seconds = time.perf_counter() - start
        value, error = score(target, text, args.ctx_size, args.chunks)
        row = {"type": wanted, "ours": value, "error": error, "bytes": nbytes, "seconds": seconds}
        if ggml is not None:
            write(exact, target, name, options, imatrix, ggml)
            row["llama.cpp"] = score(target, text, args.ctx_size, args.chunks)[0]
        rows.append(row)
        if not args.json:
            show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    peer = f"{row['llama.cpp']:.4f}" if "llama.cpp" in row else "–"
    size = f"{row['bytes'] / 2**20:.1f} MiB" if "bytes" in row else "–"
    seconds = f"{row['seconds']:.0f} s" if "seconds" in row else "–"
    print(f"| {row['type']} | {row['ours']:.4f} | {peer} | {size} | {seconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--imatrix-text", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--chunks", type=int, default=6)
    parser.add_argument("--ctx-size", type=int, default=512)
    parser.add_argument("--ggml", help="libggml-base.so of llama.cpp; default: xllamacpp's")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.json:
        print("| type | perplexity | llama.cpp's | weights | written in |")
        print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    if args.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
