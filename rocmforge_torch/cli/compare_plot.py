"""The picture of `rocmforge compare --plot`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import CommandError

BLOCK = re.compile(r"blk\.(\d+)\.(.*?)(\.weight)?")


def check_plot(path: Path) -> None:
    """Raise CommandError if no picture can be drawn there, before anything is computed."""
    if path.suffix not in (".svg", ".png"):
        raise CommandError(f"--plot draws FILE.svg or FILE.png, not {path}")
    if not path.parent.is_dir():
        raise CommandError(f"{path.parent} is no directory to write {path.name} into")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise CommandError("--plot needs matplotlib: pip install 'rocmforge_torch[plot]'") from None


def draw(report: dict[str, Any], path: Path) -> None:
    """Relative errors by layer, a line for each kind of tensor, and the divergence by window."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kinds: dict[str, list[tuple[int, float]]] = {}
    for row in report["tensors"]:
        match = BLOCK.fullmatch(row["name"])
        if match and row["relative"]:
            kinds.setdefault(match[2], []).append((int(match[1]), row["relative"]))
    text = report["divergence"]
    figure = Figure(figsize=(10 if text else 6.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if text else 1, squeeze=False)[0]
    for kind, points in kinds.items():
        axes[0].plot(*zip(*points, strict=True), marker=".", label=kind)
    axes[0].set_title("relative error of tensors", fontsize=10)
    axes[0].set_xlabel("layer")
    if kinds:
        axes[0].legend(fontsize=7, frameon=False)
    if text:
        windows = text["windows"]
        axes[1].plot(range(1, len(windows) + 1), windows, marker=".")
        axes[1].set_title(f"KL divergence so far, nats (top-1 {text['same_top']:.1%})", fontsize=10)
        axes[1].set_xlabel("window")
    for panel in axes:
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{Path(report['b']).name} against {Path(report['a']).name}", fontsize=10)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "compare"}):
        figure.savefig(path)
