"""`rocmforge inspect`: what is in a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import console, count, print_json, printable, size, table

if TYPE_CHECKING:
    from ..gguf import GGUFModelFile

SHOWN_ITEMS = 5  # of a long array
SHOWN_CHARS = 200  # of a long string

Full = Annotated[bool, typer.Option("--full", help="Print long arrays and strings whole.")]


def inspect(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    full: Full = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a file's metadata, and its tensors with their types and sizes."""
    from ..gguf import load_gguf

    file = load_gguf(model_path(model, model_option, demo))
    report = _report(file, full)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _report(file: GGUFModelFile, full: bool) -> dict[str, Any]:
    tensors = list(_tensors(file))
    parameters = sum(tensor["elements"] for tensor in tensors)
    nbytes = sum(tensor["bytes"] for tensor in tensors)
    return {
        "files": [str(path) for path in file.paths],
        "file_bytes": sum(path.stat().st_size for path in file.paths),
        "version": file.headers[0].version,
        "byte_order": {"<": "little", ">": "big"}[file.headers[0].order],
        "architecture": file.architecture,
        "vocab_size": file.vocab_size,
        "parameters": parameters,
        "tensor_bytes": nbytes,
        "bits_per_weight": round(8 * nbytes / parameters, 3) if parameters else None,
        "types": _types(tensors, nbytes),
        "metadata": {key: _value(value, full) for key, value in file.metadata.items()},
        "tensors": tensors,
    }


def _tensors(file: GGUFModelFile) -> Iterator[dict[str, Any]]:
    for name in file.tensors:
        info = file.tensors.info(name)
        elements = math.prod(info.shape)
        yield {
            "name": name,
            "type": info.qtype.name,
            "shape": list(info.shape),
            "elements": elements,
            "bytes": info.nbytes,
            "bits_per_weight": round(8 * info.nbytes / elements, 3),
            "offset": info.offset,
        }


def _types(tensors: Sequence[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """Tensors, elements and bytes of every type, the largest first."""
    types: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        row = types.setdefault(
            tensor["type"], {"type": tensor["type"], "tensors": 0, "elements": 0, "bytes": 0}
        )
        row["tensors"] += 1
        row["elements"] += tensor["elements"]
        row["bytes"] += tensor["bytes"]
    for row in types.values():
        row["share"] = round(row["bytes"] / total, 4)
    return sorted(types.values(), key=lambda row: -row["bytes"])


def _value(value: Any, full: bool) -> Any:
    """A metadata value as JSON has it; a long array becomes its length and its first items."""
    if isinstance(value, str):
        return value if full or len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    shown = value if full else value[:SHOWN_ITEMS]
    items = [_value(item, full) for item in (shown.tolist() if hasattr(shown, "tolist") else shown)]
    return items if len(items) == len(value) else {"length": len(value), "first": items}


def _show(report: dict[str, Any]) -> None:
    out = console()
    metadata = table("Key", "Value", title="Metadata")
    for key, value in report["metadata"].items():
        metadata.add_row(printable(key), _text(value))
    out.print(metadata)

    tensors = table("Name", "Type", ">Shape", ">Size", ">Bits", title="Tensors")
    for tensor in report["tensors"]:
        shape = " × ".join(map(str, tensor["shape"])) or "scalar"
        tensors.add_row(
            printable(tensor["name"]),
            tensor["type"],
            shape,
            size(tensor["bytes"]),
            f"{tensor['bits_per_weight']:.2f}",
        )
    out.print(tensors)

    types = table("Type", ">Tensors", ">Weights", ">Size", ">Share", title="Types")
    for row in report["types"]:
        types.add_row(
            row["type"],
            str(row["tensors"]),
            count(row["elements"]),
            size(row["bytes"]),
            f"{row['share']:.1%}",
        )
    out.print(types)
    for line in _summary(report):
        out.print(line)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        first = ", ".join(_text(item) for item in value["first"])
        return f"[{first}, …] ({value['length']:,} items)"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return printable(value) if isinstance(value, str) else str(value)


def _summary(report: dict[str, Any]) -> Iterator[str]:
    files = report["files"]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    yield f"{printable(files[0])}{more}: {size(report['file_bytes'])}"
    bits = report["bits_per_weight"]
    yield (
        f"GGUF v{report['version']}, {report['byte_order']} endian, "
        f"architecture {printable(str(report['architecture']))}, "
        f"{len(report['tensors'])} tensors, {count(report['parameters'])} weights"
        + (f", {bits:.2f} bits per weight" if bits else "")
    )
