"""docs/isa.md: the measures of every kernel as tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .analysis import Measure
from .budget import Budget
from .peer import RECORD, summary

FULL = ("gfx1100", "gfx1201", "gfx942")  # the architectures whose kernels are listed one by one

_HEAD = """# What the compiler made of the kernels

Written by `python -m tools.isa_report --update` (`make amd`), compiler: {compiler}. This is rung 2
of docs/amd.md: the code is compiled and read, not run.

- *waves*: waves that one SIMD holds at once, by registers, LDS and block size; the most is 16 on
  RDNA and 8 on CDNA.
- *main loop*: the innermost loop with the most matrix and dot instructions, else the most bytes
  loaded. Its instructions are counted without waits and scheduling hints; its cycles are
  llvm-mca's block reciprocal throughput: what one wave takes to issue a turn, memory aside.
- *in flight*: bytes of weight loads outstanding per compute unit when a wave first waits, with all
  waves that fit (kernels without weights: bytes of all their loads).
- Scratch is zero in every kernel, except for the known faults below.
"""


def render(measures: Sequence[Measure], budget: Budget, compiler: str) -> str:
    """The whole page."""
    faults = budget.faults() or ["none"]
    known = "## Known faults\n\n" + "".join(f"- {line}\n" for line in faults)
    parts = [_HEAD.format(compiler=compiler), known, _families(measures, budget)]
    for arch in FULL:
        rows = [m for m in measures if m.arch.name == arch]
        if rows:
            parts.append(f"## {arch}, kernel by kernel\n\n" + _kernels(rows))
    parts.append(_ggml(measures, budget))
    return "\n".join(parts)


def table(header: str, rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. header: titles parted by "|"; the first column is text."""
    titles = header.split("|")
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _families(measures: Sequence[Measure], budget: Budget) -> str:
    groups: dict[tuple[str, str], list[Measure]] = defaultdict(list)
    for m in measures:
        row = budget.row(m.kernel.name)
        groups[(row["kernels"] if row else m.kernel.name, m.arch.name)].append(m)
    rows = [
        (
            f"`{pattern}`",
            arch,
            len(group),
            max(m.kernel.vgprs for m in group),
            max(m.kernel.lds_bytes for m in group),
            min(m.occupancy for m in group),
            min(m.counts["dot"] for m in group),
            min(m.counts["matrix"] for m in group),
            max((m.loop.cycles for m in group if m.loop), default=0),
            min(m.in_flight for m in group),
        )
        for (pattern, arch), group in groups.items()
    ]
    return "## All architectures\n\nThe worst variant of each row of the budget.\n\n" + table(
        "kernels|card|variants|VGPRs|LDS|waves|dot|matrix|loop cycles|in flight", rows
    )


def _kernels(measures: Sequence[Measure]) -> str:
    header = (
        "kernel|VGPRs|SGPRs|LDS|waves|code bytes|loads|of 16 bytes|stores|LDS ops|dot|matrix"
        "|loop|loop cycles|in flight"
    )
    return table(header, [_kernel_row(m) for m in measures])


def _kernel_row(m: Measure) -> list[object]:
    c = m.counts
    return [
        f"`{m.kernel.name}`",
        m.kernel.vgprs,
        m.kernel.sgprs,
        m.kernel.lds_bytes,
        m.occupancy,
        m.code_bytes,
        *(c[kind] for kind in ("load", "load16", "store", "lds", "dot", "matrix")),
        m.loop.instructions if m.loop else "",
        m.loop.cycles if m.loop else "",
        m.in_flight,
    ]


def _ggml(measures: Sequence[Measure], budget: Budget) -> str:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    ours = {m.kernel.name: m for m in measures if m.arch.name == "gfx1100"}
    rows = []
    for name, row in record["rows"].items():
        rows.append([f"ggml {name}", *_summary_row(row)])
        kernel = budget.data["beside_ggml"].get(name)
        if kernel:
            judged = budget.row(kernel) or {}
            rows.append(
                [f"`{kernel}`", *_summary_row(summary(ours[kernel], judged["weights_per_turn"]))]
            )
    header = (
        "one row of x|VGPRs|waves|weights a turn|instructions|per weight|cycles per weight"
        "|dot|loads|of 16 bytes|in flight"
    )
    return (
        "## Beside ggml, gfx1100\n\n"
        f"One-row products of ggml's HIP backend, {record['version']}, read by the same tool:\n"
        "`python -m tools.isa_report --ggml PATH/TO/libggml-hip.so` (docs/amd.md says where the "
        "library comes from).\n\n" + table(header, rows)
    )


def _summary_row(row: dict[str, Any]) -> list[object]:
    return [row[key] for key in _SUMMARY]


_SUMMARY = (
    *("vgprs", "waves", "weights_per_turn", "instructions", "instructions_per_weight"),
    *("cycles_per_weight", "dot", "loads", "load16", "bytes_in_flight"),
)
