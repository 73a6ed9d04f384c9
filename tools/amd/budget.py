"""The limits that compiled kernels are held to: tools/amd/isa_budget.json.

compiler       the LLVM release that the measured limits are of
every_kernel   limits for all kernels on all architectures, whatever the compiler
rows           the first whose pattern (`kernels`, with * and ?) matches a kernel judges it:
    weights    byte offsets in the arguments of the pointers to weights (for bytes_in_flight)
    require    at least so many instructions of a class (dot, matrix: where the card has them)
    always     limits on every architecture, whatever the compiler
    limits     by architecture, as measured over all kernels of the row; without this entry a row
               holds to the limits by design alone
    allowed    instead of every_kernel, for a known fault: with `reason`; the report repeats it
    lds        bytes that a launch adds to the kernel's own, for 4096 columns
beside_ggml    type name -> the kernel of ours that docs/isa.md puts beside ggml's
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .analysis import CLASSES, Measure

BUDGET = Path(__file__).with_name("isa_budget.json")
AT_LEAST = ("occupancy", "bytes_in_flight")
LIMITED = ("vgprs", "lds_bytes", "occupancy", "loop_instructions", "loop_cycles", "issue_percent")


@dataclass(frozen=True)
class Breach:
    """One kernel outside its budget on one architecture."""

    kernel: str
    arch: str
    problem: str


class Budget:
    """A budget file in memory."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        for row in self.rows:
            unknown = set(row.get("require", {})) - set(CLASSES)
            if unknown:
                raise ValueError(f"budget row {row['kernels']}: no instruction class {unknown}")
            if "allowed" in row and not row.get("reason"):
                raise ValueError(f"budget row {row['kernels']}: `allowed` without a reason")

    @classmethod
    def read(cls, path: Path = BUDGET) -> Budget:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.data["rows"])

    def row(self, kernel: str) -> dict[str, Any] | None:
        """The row that judges a kernel, by its short name."""
        return next((r for r in self.rows if fnmatchcase(kernel, r["kernels"])), None)

    def weights(self, kernel: str) -> list[int] | None:
        row = self.row(kernel)
        return row.get("weights") if row else None

    def dynamic_lds(self, kernel: str) -> int:
        row = self.row(kernel)
        return int(row.get("lds", 0)) if row else 0

    def judges_measures(self, compiler: str) -> bool:
        """Whether the measured limits are of this compiler's release."""
        return f" {self.data['compiler']}" in f" {compiler}"

    def breaches(self, measures: Iterable[Measure], compiler: str) -> list[Breach]:
        """Everything outside the budget."""
        measured = self.judges_measures(compiler)
        return [b for m in measures for b in self._breaches_of(m, measured)]

    def breaches_of_design(self, measures: Iterable[Measure]) -> list[Breach]:
        """What is outside the limits that do not come from measuring."""
        return [b for m in measures for b in self._breaches_of(m, False)]

    def _breaches_of(self, m: Measure, measured: bool) -> list[Breach]:
        name, arch, numbers = m.kernel.name, m.arch.name, m.numbers
        row = self.row(name)
        if row is None:
            return [Breach(name, arch, "no row of the budget matches it")]
        design = {**self.data["every_kernel"], **row.get("allowed", {})}
        limits = [*design.items(), *row.get("always", {}).items()]
        if measured and "limits" in row:
            own = row["limits"].get(arch)
            if own is None:
                return [Breach(name, arch, "its row has no limits for this architecture")]
            limits += own.items()
        found = []
        for what, limit in limits:
            got = numbers.get(what, 0)
            bound = "at least" if what in AT_LEAST else "at most"
            if got < limit if what in AT_LEAST else got > limit:
                problem = f"{what} is {got:g}, must be {bound} {limit:g}"
                found.append(Breach(name, arch, problem))
        for kind, least in row.get("require", {}).items():
            if m.arch.has(kind) and m.counts[kind] < least:
                problem = f"{m.counts[kind]} instructions of class {kind}, must be at least {least}"
                found.append(Breach(name, arch, problem))
        return found

    def reset(self, pattern: str) -> None:
        """Forgets the measured limits of a row, for `update` to write what is measured now."""
        rows = [row for row in self.data["rows"] if row["kernels"] == pattern]
        if not rows:
            raise ValueError(f"the budget has no row {pattern}")
        for row in rows:
            row["limits"] = {}

    def faults(self) -> list[str]:
        """The known faults, one line each."""
        return [
            f"{row['kernels']}: {row['allowed']} allowed: {row['reason']}"
            for row in self.rows
            if "allowed" in row
        ]

    def update(self, measures: Iterable[Measure], compiler_release: str) -> None:
        """Writes limits that are missing and tightens the others; never loosens one (see reset)."""
        if compiler_release != self.data["compiler"]:
            self.data["compiler"] = compiler_release
            for row in self.rows:
                if "limits" in row:
                    row["limits"] = {}
        worst: dict[tuple[int, str], dict[str, float]] = {}
        by_pattern = {id(row): row for row in self.rows}
        for m in measures:
            judge = self.row(m.kernel.name)
            if judge is None or "limits" not in judge:
                continue
            seen = worst.setdefault((id(judge), m.arch.name), {})
            for what in (*LIMITED, *(("bytes_in_flight",) if "weights" in judge else ())):
                if what in m.numbers:
                    value = m.numbers[what]
                    pick = min if what in AT_LEAST else max
                    seen[what] = pick(seen.get(what, value), value)
        for (key, arch), seen in worst.items():
            limits = by_pattern[key]["limits"].setdefault(arch, {})
            for what, value in seen.items():
                pick = max if what in AT_LEAST else min
                limits[what] = pick(limits.get(what, value), value)

    def text(self) -> str:
        """The file: one line per row and architecture, so that a change reads well."""
        head = {k: v for k, v in self.data.items() if k != "rows"}
        lines = ["{"]
        lines += [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = [_row_text(row) for row in self.rows]
        lines += ['  "rows": [', ",\n".join(rows), "  ]", "}"]
        return "\n".join(lines) + "\n"


def _row_text(row: dict[str, Any]) -> str:
    fields = [f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in row.items() if k != "limits"]
    if "limits" not in row:
        return "    {\n" + ",\n".join(fields) + "\n    }"
    limits = row["limits"]
    inner = ",\n".join(f"        {json.dumps(a)}: {json.dumps(limits[a])}" for a in sorted(limits))
    fields.append('      "limits": {\n' + inner + "\n      }" if limits else '      "limits": {}')
    return "    {\n" + ",\n".join(fields) + "\n    }"
