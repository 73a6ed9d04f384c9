"""Perplexity of a model quantized anew from its own dequantized weights, beside llama.cpp's.

usage: python -m benchmarks.quantize_quality --model MODEL.gguf --text TEXT [--imatrix-text TEXT]
           [--types Q4_K+pure Q6_K ...] [--chunks 6] [--ctx-size 512] [--peer-python PYTHON]
           [--json]

Every type is written by us and, with PYTHON (an interpreter with llama-cpp-python), by llama.cpp,
from the same float32 weights; both files are scored by our engine with the same text, so that only
the quantizers differ. "TYPE+pure" is all matrices in one type, "TYPE+imatrix" weighs errors by
importance collected with the model over the other text.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TYPES = (
    *("Q6_K+pure", "Q4_K+pure", "Q4_K+pure+imatrix", "Q4_K_M", "Q4_K_M+imatrix"),
    *("Q4_0+pure", "Q4_0+pure+imatrix"),
)


def score(path: Path, text: str, ctx_size: int, chunks: int) -> tuple[float, float]:
    """Perplexity and its standard error."""
    from rocmforge_torch import load_model
    from rocmforge_torch.generate import perplexity

    *_, last = perplexity(load_model(path, progress=False), text, ctx_size, chunks)
    return last.value, last.error


def write(source: Path, target: Path, name: str, options: set[str], imatrix: Path | None) -> int:
    """Quantize with the library; returns the bytes of the tensors."""
    from rocmforge_torch.quantize import Importance, open_model, plan, recipe, write_quantized

    importance = Importance.load(imatrix) if imatrix and "imatrix" in options else None
    model, wanted = open_model(source), recipe(name, "pure" in options)
    plans = plan(model.tensors, model.metadata, wanted, importance is not None)
    write_quantized(target, model, plans, wanted, importance)
    return sum(p.nbytes for p in plans)


def collect(model: Path, text: Path, target: Path, ctx_size: int) -> None:
    from rocmforge_torch import load_model
    from rocmforge_torch.quantize.collect import collect

    found = collect(load_model(model, progress=False), text.read_text(), text.name, ctx_size)
    found.save(target)
    np.savez(target.with_suffix(".npz"), **{k: v.numpy() for k, v in found.means.items()})


def write_by_llama_cpp(source: str, target: str, file_type: int, pure: bool, imatrix: str) -> None:
    """Runs in the peer's interpreter."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = file_type, pure, 1
    if imatrix:
        means = np.load(imatrix)
        kind = llama_cpp.llama_cpp.llama_model_imatrix_data
        entries = (kind * (len(means.files) + 1))()  # the last has no name
        kept = [np.ascontiguousarray(means[name], np.float32) for name in means.files]
        for entry, name, mean in zip(entries, means.files, kept, strict=False):
            entry.name, entry.size = name.encode(), mean.size
            entry.data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(kind))
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit("llama_model_quantize failed")


def by_peer(
    python: str, source: Path, target: Path, name: str, options: set[str], imatrix: Path | None
) -> None:
    from rocmforge_torch.quantize import recipe

    file_type = recipe(name).mix.file_type
    used = str(imatrix.with_suffix(".npz")) if imatrix and "imatrix" in options else ""
    worker = [
        "--worker",
        str(source),
        str(target),
        str(file_type),
        str(int("pure" in options)),
        used,
    ]
    subprocess.run([python, __file__, *worker], check=True, capture_output=True)


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    text = args.text.read_text().removesuffix("\n")
    imatrix = None
    if args.imatrix_text:
        imatrix = folder / "imatrix.gguf"
        collect(args.model, args.imatrix_text, imatrix, args.ctx_size)
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
        if args.peer_python:
            by_peer(args.peer_python, exact, target, name, options, imatrix)
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
    if sys.argv[1:2] == ["--worker"]:
        source, target, file_type, pure, imatrix = sys.argv[2:]
        write_by_llama_cpp(source, target, int(file_type), pure == "1", imatrix)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--imatrix-text", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--chunks", type=int, default=6)
    parser.add_argument("--ctx-size", type=int, default=512)
    parser.add_argument("--peer-python")
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
