"""`rocmforge quantize`: a GGUF file with its matrices in another type."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Debug, Json, Threads
from .output import console, count, note, print_json, progress_bar, size, table
from .target import check_target

if TYPE_CHECKING:
    from .quantize_plan import Plan

Source = Annotated[Path, typer.Argument(metavar="INPUT", help="GGUF file to read.")]
Target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="GGUF file to write.")]
TypeName = Annotated[str, typer.Argument(metavar="TYPE", help="E.g. Q4_K, Q8_0, MXFP4, BF16.")]
OutputType = Annotated[
    str | None,
    typer.Option("--output-tensor-type", metavar="TYPE", help="Type of the output matrix."),
]
EmbeddingType = Annotated[
    str | None,
    typer.Option("--token-embedding-type", metavar="TYPE", help="Type of the token embedding."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUTPUT if it exists.")]


def quantize(
    source: Source,
    target: Target,
    type_name: TypeName,
    output_tensor_type: OutputType = None,
    token_embedding_type: EmbeddingType = None,
    force: Force = False,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a GGUF file anew with its matrices in TYPE.

    Vectors and small matrices stay as they are. Rows that are no multiple of a K-quant's 256
    take the nearest type with blocks of 32, as in llama.cpp.
    """
    import torch

    from ..gguf import load_gguf
    from . import quantize_file
    from .quantize_plan import plan, target_type

    main_type = target_type(type_name)
    special = [target_type(t) if t else None for t in (output_tensor_type, token_embedding_type)]
    file = load_gguf(source)
    check_target(target, file.paths, force)
    if threads:
        torch.set_num_threads(threads)
    plans = plan(file, main_type, *special)
    again = sum(p.requantizes for p in plans)
    if again and not as_json:
        note(f"Tensors quantized already: {again}. From the original model they would be better.")
    start = time.perf_counter()
    with progress_bar("quantizing", sum(p.elements for p in plans), unit="B") as bar:
        quantize_file.write(file, plans, main_type, target, bar.update)
    report = _report(source, target, main_type.name, plans, time.perf_counter() - start)
    if as_json:
        print_json(report)
    else:
        _show(report, plans)


def _report(
    source: Path, target: Path, type_name: str, plans: list[Plan], seconds: float
) -> dict[str, Any]:
    elements = sum(p.elements for p in plans)
    nbytes = sum(p.nbytes for p in plans)
    return {
        "input": str(source),
        "output": str(target),
        "type": type_name,
        "seconds": round(seconds, 3),
        "parameters": elements,
        "input_tensor_bytes": sum(p.info.nbytes for p in plans),
        "tensor_bytes": nbytes,
        "bits_per_weight": round(8 * nbytes / elements, 3) if elements else None,
        "requantized": sum(p.requantizes for p in plans),
        "fallbacks": sum(p.fell_back for p in plans),
        "tensors": [
            {"name": p.info.name, "from": p.info.qtype.name, "to": p.target.name} for p in plans
        ],
    }


def _show(report: dict[str, Any], plans: list[Plan]) -> None:
    groups: dict[tuple[str, str, str], list[Plan]] = {}
    for p in plans:
        why = f"rows are no multiple of {p.asked.name}'s block" if p.fell_back else ""
        why = why if p.changes else "kept"
        groups.setdefault((p.info.qtype.name, p.target.name, why), []).append(p)
    rows = table("From", "To", ">Tensors", ">Weights", ">Before", ">After", "Note")
    for (before, after, why), members in groups.items():
        rows.add_row(
            before,
            after,
            str(len(members)),
            count(sum(p.elements for p in members)),
            size(sum(p.info.nbytes for p in members)),
            size(sum(p.nbytes for p in members)),
            why,
        )
    out = console()
    out.print(rows)
    out.print(
        f"{report['output']}: {size(report['tensor_bytes'])} of weights, "
        f"{report['bits_per_weight']:.2f} bits each, in {report['seconds']:.1f} s"
    )
