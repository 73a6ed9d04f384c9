"""`rocmforge imatrix`: which inputs of a model's matrices are large, for `rocmforge quantize`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import console, print_json, progress_bar
from .perplexity import Chunks, Window
from .quantize import Force
from .target import check_target

TextFile = Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="Text to run.")]
Target = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="GGUF file to write.")]
ProcessOutput = Annotated[
    bool,
    typer.Option("--process-output", help="The output matrix too, which quantizes worse by it."),
]


def imatrix(
    file: TextFile,
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    output: Target = Path("imatrix.gguf"),
    ctx_size: Window = 512,
    chunks: Chunks = -1,
    process_output: ProcessOutput = False,
    force: Force = False,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    dtype: options.ActivationDtype = None,
    exact: options.Exact = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model's importance matrix: the mean square of every input of every matrix.

    The text is cut into windows, each begins with BOS, and all positions count, as in llama.cpp.
    """
    from ..quantize.collect import collect
    from . import session

    if chunks == 0:
        raise typer.BadParameter("must be at least 1, or -1 for all", param_hint="--chunks")
    path = model_path(model, model_option, demo)
    text = session.read_text(file).removesuffix("\n")
    check_target(output, (path, file), force)
    lm = session.load(path, device, dtype, threads, exact)
    start = time.perf_counter()
    limit = chunks if chunks > 0 else None
    with progress_bar("windows", limit or 0) as bar:
        found = collect(lm, text, file.name, ctx_size, limit, process_output, bar.update)
    found.save(output)
    report = {
        "model": str(path),
        "file": str(file),
        "output": str(output),
        "ctx_size": ctx_size,
        "windows": found.chunks,
        "tokens": found.chunks * ctx_size,
        "matrices": len(found.means),
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        print_json(report)
    else:
        console().print(
            f"{output}: inputs of {report['matrices']} matrices over {report['tokens']} tokens, "
            f"in {report['seconds']:.1f} s"
        )
