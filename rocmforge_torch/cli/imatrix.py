"""`rocmforge imatrix`: which inputs of a model's matrices are large, for `rocmforge quantize`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .flags import ComputeFlags, ModelFlags, WindowFlags, with_flags
from .options import Debug, Json
from .output import console, print_json, progress_bar
from .quantize import Force
from .target import check_target

TextFile = Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="Text to run.")]
Target = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="GGUF file to write.")]
ProcessOutput = Annotated[
    bool,
    typer.Option("--process-output", help="The output matrix too, which quantizes worse by it."),
]


@with_flags
def imatrix(
    source: ModelFlags,
    file: TextFile,
    windows: WindowFlags,
    computing: ComputeFlags,
    output: Target = Path("imatrix.gguf"),
    process_output: ProcessOutput = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model's importance matrix: the mean square of every input of every matrix.

    The text is cut into windows, each begins with BOS, and all positions count, as in llama.cpp.
    """
    from ..quantize.collect import collect
    from . import session

    path = source.path()
    text = session.read_text(file).removesuffix("\n")
    check_target(output, (path, file), force)
    lm = computing.load(path)
    start = time.perf_counter()
    size, limit = windows.ctx_size, windows.limit
    with progress_bar("windows", limit or 0) as bar:
        found = collect(lm, text, file.name, size, limit, process_output, bar.update)
    found.save(output)
    report = {
        "model": str(path),
        "file": str(file),
        "output": str(output),
        "ctx_size": size,
        "windows": found.chunks,
        "tokens": found.chunks * size,
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
