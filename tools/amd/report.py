"""docs/isa.md: the measures of every kernel as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .analysis import Measure
from .budget import Budget
from .execution import COLS, EXECUTED, KERNELS, ROWS, TILE_ROWS, row_name
from .peer import ARCH, RECORD, recorded, summary
from .toolchain import CodeObjectFile

SLOW = 40  # seconds that no file should take
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


def render(
    measures: Sequence[Measure], budget: Budget, compiler: str, files: Sequence[CodeObjectFile]
) -> str:
    """The whole page."""
    faults = budget.faults() or ["none"]
    known = "## Known faults\n\n" + "".join(f"- {line}\n" for line in faults)
    parts = [_HEAD.format(compiler=compiler), known, _families(measures, budget)]
    for arch in FULL:
        rows = [m for m in measures if m.arch.name == arch]
        if rows:
            parts.append(f"## {arch}, kernel by kernel\n\n" + _kernels(rows))
    parts += [_ggml(measures, budget), _executed()]
    parts.append(_seconds(files))
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
    record = recorded(RECORD)
    ours = {m.kernel.name: m for m in measures if m.arch.name == ARCH}
    rows = []
    for name, row in record["rows"].items():
        kernel = budget.data["beside_ggml"].get(name)
        if kernel in ours:
            rows.append([f"{name}, ours", *_cells(summary(ours[kernel]), _SUMMARY)])
        rows.append([f"{name}, ggml", *_cells(row, _SUMMARY)])
    header = (
        "one row of x|VGPRs|static LDS|waves|weights a turn|instructions per weight"
        "|cycles per weight|dot|loads|of 16 bytes|in flight"
    )
    return f"## Beside ggml, {ARCH}\n\n{_PEER.format(version=record['version'])}\n" + table(
        header, rows
    )


def _executed() -> str:
    ours = recorded(EXECUTED)["rows"]
    rows = []
    for name, row in recorded(RECORD)["rows"].items():
        own = [row_name(name, kernel) for kernel in KERNELS]
        rows += [[kernel, *_cells(ours[kernel], _COUNTS)] for kernel in own]
        rows.append([row_name(name, "matvec of ggml"), *_cells(row, _COUNTS)])
    header = (
        "product|instructions per weight|line bytes per weight byte|LDS accesses"
        "|conflicts per access|matrix|instructions per matrix instruction"
    )
    return f"## Executed, {ARCH}\n\n{_COUNTED}\n" + table(header, rows)


def _seconds(files: Sequence[CodeObjectFile]) -> str:
    archs: dict[str, list[CodeObjectFile]] = defaultdict(list)
    for file in files:
        archs[file.arch].append(file)
    rows = []
    for arch, group in archs.items():
        slowest = max(group, key=lambda file: file.seconds)
        total = sum(file.seconds for file in group)
        rows.append((arch, len(group), round(total, 1), slowest.source.name, slowest.seconds))
    slow = sorted({file.source.name for file in files if file.seconds > SLOW})
    names = ", ".join(slow) or "none"
    return (
        "## Seconds to compile\n\n"
        "Processor seconds for the device code, without ccache. An architecture with fewer files\n"
        "was compiled in part: one type of every family.\n"
        f"Files that take more than {SLOW} seconds: {names}.\n\n"
        + table("card|files|seconds|slowest file|its seconds", rows)
    )


def _cells(row: dict[str, Any], keys: Sequence[str]) -> list[object]:
    return [row[key] for key in keys]


_SUMMARY = (
    *("vgprs", "lds_bytes", "waves", "weights_per_turn", "instructions_per_weight"),
    *("cycles_per_weight", "dot", "loads", "load16", "bytes_in_flight"),
)
_COUNTS = (
    *("executed_per_weight", "line_bytes_per_weight_byte", "lds_accesses"),
    *("conflicts_per_access", "matrix", "executed_per_matrix"),
)
_PEER = """One-row products of this library, packed weights, and of ggml's HIP backend {version},
read by the same tool (`python -m tools.isa_report --ggml LIBRARY`; docs/amd.md says where the
library comes from). From *weights a turn* on the columns are of the main loop: *weights a turn* of
one lane, *dot*, *loads* and those *of 16 bytes* of one turn.
"""
_COUNTED = f"""Counted while the emulator multiplies {ROWS} x {COLS} weights by one row of x, or
{TILE_ROWS} x {COLS} by a chunk of 16 or 64 rows on matrix units, and the result was right. Our
weights are packed (`python -m tools.isa_report --execute`, and `--ggml LIBRARY` for ggml's).

- *instructions per weight*: of a lane, with everything before and after the main loop.
- *line bytes per weight byte*: a load that a wave executes touches some 128-byte lines of the
  weights; each counts once for that load, with all its bytes, and the sum is divided by the bytes
  of the matrix. 1 is perfect: loads take whole lines, and no two the same. More says what later
  loads have to find in the cache, not that memory is read again. A tile takes 16 rows at once, up
  to 16 bytes of each in a load.
- *LDS accesses*: reads and writes by waves, two for an instruction with two addresses.
  *conflicts per access*: passes over the banks beyond the fewest that the size of the access
  takes. By the model of `tools/amd/emulator/banks.py` there are 32 banks of 4 bytes, each serves
  one word a pass, which lanes can share, and a pass has 32 lanes with up to 4 bytes each, 16 with
  8, 8 with 16.
- *matrix*: matrix instructions by waves; *instructions per matrix instruction*: all that were
  executed, themselves with them.
"""
