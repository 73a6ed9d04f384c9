"""`rocmforge tune`: which kernel this GPU should take for how many rows, measured and kept."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import CommandError
from .options import Debug, Json
from .output import console, print_json, progress_bar, table

if TYPE_CHECKING:
    import torch

    from ..quant_types import QuantType
    from ..tuning.limits import Limits
    from ..tuning.measure import Shape
    from ..tuning.search import Times

Gpu = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="The GPU: cuda (AMD's too), cuda:1.")
]
Types = Annotated[
    str | None,
    typer.Option(
        "--types", metavar="TYPES", help="Quantization types, comma-separated (default: all)."
    ),
]
Shapes = Annotated[
    str | None,
    typer.Option(
        "--shapes",
        metavar="SHAPES",
        help="Weights to measure with, as rows x columns: 4096x4096,4096x14336,...",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="File to write (default: the one that is read for this architecture).",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Tuned:
    """What was found for a type; `saved`: the part of the time before, if that was measured."""

    type: QuantType
    before: Limits
    after: Limits
    saved: float | None
    times: dict[Shape, Times]


def tune(
    device: Gpu = "cuda",
    types: Types = None,
    shapes: Shapes = None,
    output: Output = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure up to how many rows each kernel is the fastest on a GPU, and keep that.

    Times every kernel that a product with quantized weights could take, at 1 to 512 rows, and
    writes a table that is read from then on. Types that are not measured keep what the file says.
    """
    from .. import extension
    from ..tuning import tables

    gpu = _gpu(device)
    rows = _types(types)
    sizes = _shapes(shapes, rows)
    architecture = extension.architecture(gpu.index)
    target = output or tables.user_file(architecture)
    if target.is_dir():
        raise CommandError(f"{target} is a directory, not a file to write")
    kept = tables.read(target, architecture).types if target.exists() else {}
    start = time.perf_counter()
    found = _measured(gpu, rows, sizes)
    written = _write(target, architecture, gpu, {**kept, **{t.type.name: t.after for t in found}})
    report = {
        "device": written.device,
        "architecture": architecture,
        "output": str(target),
        "in_use": target.absolute() == tables.user_file(architecture).absolute(),
        "seconds": round(time.perf_counter() - start, 3),
        "types": [_as_dict(tuned) for tuned in found],
    }
    if as_json:
        print_json(report)
    else:
        _show(report, found)


def _gpu(device: str) -> torch.device:
    import torch

    from .. import extension
    from ..config import config

    place = torch.device(device)
    if place.type != "cuda" or not torch.cuda.is_available():
        raise CommandError(
            f"{device}: there is no such GPU that torch can use, and only kernels of GPUs are "
            "tuned; `rocmforge doctor` says more"
        )
    if not extension.has_gpu_library():
        raise CommandError("the GPU kernels are not built; `rocmforge doctor` says what is missing")
    if config.exact:
        raise CommandError("ROCMFORGE_EXACT leaves one kernel for products: nothing to choose from")
    return extension.check_device(place)


def _types(names: str | None) -> list[QuantType]:
    from ..quant_types import QUANT_TYPES, quant_type

    if names is None:
        return [row for row in QUANT_TYPES.values() if row.is_quantized]
    rows = [quant_type(name.strip()) for name in names.split(",")]
    for row in rows:
        if not row.is_quantized:
            raise typer.BadParameter(f"{row.name} is not quantized", param_hint="--types")
    return rows


def _shapes(text: str | None, types: list[QuantType]) -> list[Shape]:
    from ..quant_types import row_bytes
    from ..tuning.measure import SHAPES

    if text is None:
        return list(SHAPES)
    shapes = []
    for part in text.split(","):
        n, _, k = part.strip().partition("x")
        if not (n.isdecimal() and k.isdecimal() and int(n) and int(k)):
            raise typer.BadParameter(
                f"must be like 4096x4096,4096x14336, got {text!r}", param_hint="--shapes"
            )
        for row in types:
            row_bytes(row, int(k))  # says so where columns do not fit the type's blocks
        shapes.append((int(n), int(k)))
    return shapes


def _measured(gpu: torch.device, rows: list[QuantType], shapes: list[Shape]) -> list[Tuned]:
    from ..tuning import search
    from ..tuning.in_force import limits_of
    from ..tuning.measure import ROWS, measure, trials

    found = []
    with progress_bar("measuring", len(rows) * len(shapes) * len(trials(ROWS))) as bar:
        for row in rows:
            times = {shape: measure(row, shape, ROWS, gpu, bar.update) for shape in shapes}
            relative = search.relative_times(times.values())
            before, after = limits_of(gpu, row.id), search.best_limits(relative)
            old = search.cost(before, relative)
            saved = 1 - search.cost(after, relative) / old if math.isfinite(old) else None
            found.append(Tuned(row, before, after, saved, times))
    return found


def _write(target: Path, architecture: str, gpu: torch.device, types: dict[str, Limits]) -> Any:
    import torch

    from ..quant_types import QUANT_TYPES_BY_NAME
    from ..tuning import tables

    ordered = {name: types[name] for name in QUANT_TYPES_BY_NAME if name in types}
    card, version = torch.cuda.get_device_name(gpu), str(torch.__version__)
    made = tables.Table(architecture, card, version, ordered)
    tables.write(target, made)
    return made


def _as_dict(tuned: Tuned) -> dict[str, Any]:
    return {
        "type": tuned.type.name,
        "before": asdict(tuned.before),
        "after": asdict(tuned.after),
        "saved": None if tuned.saved is None else round(tuned.saved, 4),
        "times": [
            {"shape": f"{n}x{k}", "rows": m, "kernel": kernel, "us": round(us, 3)}
            for (n, k), times in tuned.times.items()
            for m, by_kernel in times.items()
            for kernel, us in by_kernel.items()
        ],
    }


def _show(report: dict[str, Any], found: list[Tuned]) -> None:
    out = console()
    out.print(f"{report['device']} ({report['architecture']}): the most rows of each kernel")
    rows = table("Type", ">Matvec", ">Multirow", ">Tile", ">Time saved")
    for tuned in found:
        ends = zip(asdict(tuned.before).values(), asdict(tuned.after).values(), strict=True)
        cells = [str(new) if old == new else f"{old} → {new}" for old, new in ends]
        saved = "?" if tuned.saved is None else f"{tuned.saved:.1%}"
        rows.add_row(tuned.type.name, *cells, saved)
    out.print(rows)
    use = "read from now on" if report["in_use"] else "not where it is read (docs/cli.md, tune)"
    out.print(f"{report['output']}: {use}; measured in {report['seconds']:.0f} s")
