"""`rocmforge quantize`: a model as a GGUF file in another type, from GGUF or from safetensors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Debug, Json, Threads
from .output import console, count, note, print_json, progress_bar, size, table
from .target import check_target

if TYPE_CHECKING:
    from ..quantize import Importance, Plan

Source = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help="GGUF file, or folder of a transformers model."),
]
Target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="GGUF file to write.")]
TypeName = Annotated[
    str, typer.Argument(metavar="TYPE", help="A type or mix: Q4_K_M, Q8_0, MXFP4, BF16, ...")
]
Pure = Annotated[
    bool, typer.Option("--pure", help="All matrices in one type, without the mix's exceptions.")
]
Imatrix = Annotated[
    Path | None,
    typer.Option(
        "--imatrix", metavar="FILE", help="Importance matrix, as `rocmforge imatrix` writes it."
    ),
]
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
    pure: Pure = False,
    imatrix: Imatrix = None,
    output_tensor_type: OutputType = None,
    token_embedding_type: EmbeddingType = None,
    force: Force = False,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as a GGUF file with its matrices in TYPE, as llama.cpp mixes types.

    INPUT is a GGUF file or a folder with config.json, safetensors and tokenizer.json. Vectors and
    small matrices are not quantized. Rows that are no multiple of a K-quant's 256 take the nearest
    type with blocks of 32, as in llama.cpp.
    """
    import torch

    from .. import quantize as library

    wanted = library.recipe(type_name, pure, output_tensor_type, token_embedding_type)
    importance = None if imatrix is None else library.Importance.load(imatrix)
    model = library.open_model(source)
    check_target(target, model.paths, force)
    if threads:
        torch.set_num_threads(threads)
    plans = library.plan(model.tensors, model.metadata, wanted, imatrix is not None)
    again = sum(p.requantizes for p in plans)
    if again and not as_json:
        note(f"Tensors quantized already: {again}. From the original model they would be better.")
    start = time.perf_counter()
    elements = sum(p.source.elements for p in plans)
    with progress_bar("quantizing", elements, unit="B") as bar:
        library.write_quantized(target, model, plans, wanted, importance, bar.update)
    seconds = time.perf_counter() - start
    report = _report(source, target, wanted.name, plans, importance, seconds)
    if as_json:
        print_json(report)
    else:
        _show(report, plans)


def _report(
    source: Path,
    target: Path,
    type_name: str,
    plans: list[Plan],
    importance: Importance | None,
    seconds: float,
) -> dict[str, Any]:
    elements = sum(p.source.elements for p in plans)
    nbytes = sum(p.nbytes for p in plans)
    return {
        "input": str(source),
        "output": str(target),
        "type": type_name,
        "imatrix": None if importance is None else importance.path,
        "weighted": 0 if importance is None else sum(_is_weighted(p, importance) for p in plans),
        "seconds": round(seconds, 3),
        "parameters": elements,
        "input_tensor_bytes": sum(p.source.nbytes for p in plans),
        "tensor_bytes": nbytes,
        "bits_per_weight": round(8 * nbytes / elements, 3) if elements else None,
        "requantized": sum(p.requantizes for p in plans),
        "fallbacks": sum(p.fell_back for p in plans),
        "tensors": [
            {"name": p.source.name, "from": p.source.qtype.name, "to": p.target.name} for p in plans
        ],
    }


def _is_weighted(plan: Plan, importance: Importance) -> bool:
    from ..quantize import uses_importance

    return uses_importance(plan, importance)


def _show(report: dict[str, Any], plans: list[Plan]) -> None:
    groups: dict[tuple[str, str, str], list[Plan]] = {}
    for p in plans:
        why = f"rows are no multiple of {p.asked.name}'s block" if p.fell_back else ""
        why = why if p.changes else "kept"
        groups.setdefault((p.source.qtype.name, p.target.name, why), []).append(p)
    rows = table("From", "To", ">Tensors", ">Weights", ">Before", ">After", "Note")
    for (before, after, why), members in groups.items():
        rows.add_row(
            before,
            after,
            str(len(members)),
            count(sum(p.source.elements for p in members)),
            size(sum(p.source.nbytes for p in members)),
            size(sum(p.nbytes for p in members)),
            why,
        )
    out = console()
    out.print(rows)
    out.print(
        f"{report['output']}: {size(report['tensor_bytes'])} of weights, "
        f"{report['bits_per_weight']:.2f} bits each, in {report['seconds']:.1f} s"
    )
    if report["imatrix"] is not None:
        out.print(
            f"Matrices whose errors were weighed by {report['imatrix']}: {report['weighted']}"
        )
