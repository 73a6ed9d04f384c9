"""`rocmforge compare`: how far a GGUF file is from another one of the same model."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .flags import ComputeFlags, WindowFlags, with_flags
from .options import Debug, Json
from .output import console, print_json, printable, progress_bar, table

if TYPE_CHECKING:
    from ..gguf import GGUFModelFile

First = Annotated[Path, typer.Argument(metavar="A", help="GGUF file that is taken for right.")]
Second = Annotated[Path, typer.Argument(metavar="B", help="GGUF file to compare with it.")]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "-f", "--file", metavar="FILE", help="Text to compare predictions over.", show_default=False
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Draw a picture, .svg or .png.", show_default=False
    ),
]


@with_flags
def compare(
    a: First,
    b: Second,
    windows: WindowFlags,
    computing: ComputeFlags,
    file: TextFile = None,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Errors of B's tensors, and with a text the divergence of its predictions from A's.

    Tensors are compared one after the other, some rows at a time. With -f both models run over the
    text, cut as for perplexity: KL divergence, and how often the likeliest token is the same.
    """
    from . import compare_plot

    if plot is not None:
        compare_plot.check_plot(plot)
    text = None
    if file is not None:
        from . import session

        text = session.read_text(file).removesuffix("\n")
    report: dict[str, Any] = {"a": str(a), "b": str(b), **_tensors(a, b), "divergence": None}
    if text is not None:
        models = [computing.load(path) for path in (a, b)]
        report["divergence"] = _divergence(models, text, windows.ctx_size, windows.limit)
    if plot is not None:
        compare_plot.draw(report, plot)
    if as_json:
        print_json(_finite(report))
    else:
        _show(report)


def _tensors(a: Path, b: Path) -> dict[str, Any]:
    from ..gguf import load_gguf
    from ..research.tensor_errors import only_in_one, tensor_errors

    first, second = load_gguf(a), load_gguf(b)
    rows = []
    with progress_bar("comparing tensors", _common(first, second)) as bar:
        for error in tensor_errors(first, second):
            rows.append(asdict(error))
            bar.update(1)
    only_a, only_b = only_in_one(first, second)
    return {"tensors": rows, "only_in_a": only_a, "only_in_b": only_b}


def _common(a: GGUFModelFile, b: GGUFModelFile) -> int:
    return sum(name in b.tensors for name in a.tensors)


def _divergence(models: list[Any], text: str, ctx_size: int, chunks: int | None) -> dict[str, Any]:
    from ..config import config
    from ..research.divergence import divergence

    values = []
    result = None
    a, b = models
    steps = divergence(a, b, text, ctx_size, chunks)
    with progress_bar("comparing predictions", 0) as bar:
        for result in steps:
            bar.total = result.chunks
            bar.update(1)
            values.append(result.kl)
    assert result is not None  # the text fills at least one window
    found = asdict(result)
    del found["chunk"], found["chunks"]
    return {"ctx_size": ctx_size, "windows": values, "exact": config.exact, **found}


def _finite(value: Any) -> Any:
    """JSON has no infinity: None takes its place."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(report: dict[str, Any]) -> None:
    out = console()
    rows = table("Tensor", "A", "B", ">Shape", ">RMSE", ">Relative", ">Largest")
    differing = [row for row in report["tensors"] if row["rmse"] != 0]
    for row in differing:
        rows.add_row(
            printable(row["name"]),
            row["first"],
            row["second"],
            " × ".join(map(str, row["shape"])),
            f"{row['rmse']:.3e}",
            f"{row['relative']:.3%}",
            f"{row['largest']:.3e}",
        )
    if differing:
        out.print(rows)
    equal = len(report["tensors"]) - len(differing)
    out.print(f"{equal} tensors hold the same numbers, {len(differing)} others.")
    for side in "ab":
        names = report[f"only_in_{side}"]
        if names:
            out.print(f"Only in {side.upper()}: {', '.join(map(printable, names))}")
    found = report["divergence"]
    if found:
        out.print(
            f"KL divergence {found['kl']:.6f} ± {found['kl_error']:.6f} nats over "
            f"{found['positions']} positions (median {found['kl_median']:.6f}, 99 % "
            f"{found['kl_99']:.6f}, largest {found['kl_max']:.6f})"
        )
        out.print(
            f"Same likeliest token {found['same_top']:.2%}; perplexity A "
            f"{found['perplexity_a']:.4f}, B {found['perplexity_b']:.4f}"
        )
