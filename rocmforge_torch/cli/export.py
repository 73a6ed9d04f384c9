"""`rocmforge export`: a model as a PyTorch program."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .errors import CommandError
from .flags import ModelFlags, with_flags
from .options import CacheType, Debug, Json
from .output import console, note, print_json, size
from .target import check_target

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE.pt2", help="Archive to write.")
]
Aot = Annotated[
    bool,
    typer.Option("--aot", help="Compile with AOTInductor, for this processor and this PyTorch."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE.pt2 if it exists.")]


@with_flags
def export(
    source: ModelFlags,
    output: Output,
    ctx_size: options.CtxSize = 0,
    cache_type_k: options.CacheTypeK = CacheType.f16,
    cache_type_v: options.CacheTypeV = CacheType.f16,
    dtype: options.ActivationDtype = None,
    aot: Aot = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as a PyTorch program (.pt2) with its weights quantized.

    The program takes prompts and tokens, batches of any size, and a cache of up to --ctx-size
    tokens; docs/export.md says how to run it.
    """
    from ..models.export import export_model
    from . import session

    path = source.path()
    if output.suffix != ".pt2":
        raise CommandError(f"{output}: the name of an archive must end in .pt2")
    check_target(output, (), force)
    lm = session.load(path, "cpu", dtype, None, False)
    if aot and not as_json:
        note("Compiling, which takes a minute or two.")
    start = time.perf_counter()
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    export_model(lm, output, ctx_size=ctx_size or None, cache_dtype=cache_dtype, aot=aot)
    report: dict[str, Any] = {
        "model": str(path),
        "output": str(output),
        "architecture": lm.config.architecture,
        "ctx_size": ctx_size or lm.config.context_length,
        "compiled": aot,
        "model_bytes": sum(file.stat().st_size for file in lm.file.paths),
        "output_bytes": output.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        print_json(report)
        return
    console().print(
        f"{output}: {size(report['output_bytes'])} (the model: {size(report['model_bytes'])}), "
        f"contexts up to {report['ctx_size']} tokens, in {report['seconds']:.1f} s",
        soft_wrap=True,
    )
