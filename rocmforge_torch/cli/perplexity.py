"""`rocmforge perplexity`: how well a model predicts a text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .flags import ComputeFlags, ModelFlags, WindowFlags, with_flags
from .options import Debug, Json
from .output import console, print_json

TextFile = Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="Text to score.")]
PER_LINE = 6


@with_flags
def perplexity(
    source: ModelFlags,
    file: TextFile,
    windows: WindowFlags,
    computing: ComputeFlags,
    cache_type_k: options.MaybeCacheTypeK = None,
    cache_type_v: options.MaybeCacheTypeV = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Perplexity of a text, by llama.cpp's procedure.

    The text is cut into windows, each begins with BOS, and the second half of each is scored.
    Keys and values are used as they are computed, or stored in a cache of the given types first.
    """
    from .. import generate
    from . import session

    path = source.path()
    text = session.read_text(file).removesuffix("\n")
    lm = computing.load(path)
    start = time.perf_counter()
    values = []
    result = None
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    steps = generate.perplexity(lm, text, windows.ctx_size, windows.limit, cache_dtype)
    for result in steps:
        values.append(result.value)
        if not as_json:
            _show_window(result)
    assert result is not None  # the text fills at least one window
    report: dict[str, Any] = {
        "model": str(path),
        "file": str(file),
        "ctx_size": windows.ctx_size,
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
    rate = windows.ctx_size * len(values) / report["seconds"]
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
