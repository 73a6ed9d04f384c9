"""`rocmforge perplexity`: how well a model predicts a text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .options import Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import console, print_json

TextFile = Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="Text to score.")]
Window = Annotated[
    int, typer.Option("-c", "--ctx-size", "--ctx", metavar="N", min=4, help="Tokens of a window.")
]
Chunks = Annotated[
    int,
    typer.Option(
        "--chunks", metavar="N", min=-1, help="Windows to score at most; -1: all of the text."
    ),
]
PER_LINE = 6


def perplexity(
    file: TextFile,
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    ctx_size: Window = 512,
    chunks: Chunks = -1,
    cache_type_k: options.MaybeCacheTypeK = None,
    cache_type_v: options.MaybeCacheTypeV = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    dtype: options.ActivationDtype = None,
    exact: options.Exact = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Perplexity of a text, by llama.cpp's procedure.

    The text is cut into windows, each begins with BOS, and the second half of each is scored.
    Keys and values are used as they are computed, or stored in a cache of the given types first.
    """
    from .. import generate
    from . import session

    if chunks == 0:
        raise typer.BadParameter("must be at least 1, or -1 for all", param_hint="--chunks")
    path = model_path(model, model_option, demo)
    text = session.read_text(file).removesuffix("\n")
    lm = session.load(path, device, dtype, threads, exact)
    start = time.perf_counter()
    values = []
    result = None
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    limit = chunks if chunks > 0 else None
    for result in generate.perplexity(lm, text, ctx_size, limit, cache_dtype):
        values.append(result.value)
        if not as_json:
            _show_window(result)
    assert result is not None  # the text fills at least one window
    report: dict[str, Any] = {
        "model": str(path),
        "file": str(file),
        "ctx_size": ctx_size,
        "windows": values,
        "positions": result.positions,
        "perplexity": result.value,
        "error": result.error,
        "exact": _exact(),
        "cache_types": cache_dtype,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        print_json(report)
        return
    rate = ctx_size * len(values) / report["seconds"]
    console().print(
        f"Perplexity {result.value:.4f} ± {result.error:.4f} over {result.positions} positions "
        f"({rate:.1f} tokens/s)"
    )


def _show_window(result: Any) -> None:
    last = result.chunk == result.chunks
    end = "\n" if last or result.chunk % PER_LINE == 0 else "  "
    print(f"[{result.chunk}/{result.chunks}] {result.value:.4f}", end=end, flush=True)


def _exact() -> bool:
    from ..config import config

    return config.exact
