"""The budget: our kernels are inside it, and a kernel that leaves it fails the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools import isa_report
from tools.amd.architectures import CHECKED
from tools.amd.budget import BUDGET, Budget
from tools.amd.toolchain import Toolchain

SPILLING = """
extern "C" __global__ void spilling(float* x, int at) {
  float values[512];
  for (int i = 0; i < 512; ++i) values[i] = x[i * at];
  for (int i = 0; i < 512; ++i) values[(i * at) & 511] += values[i];
  for (int i = 0; i < 512; ++i) x[i] = values[i];
}
"""
COPYING = """
extern "C" __global__ void copying(const float* x, float* out, int n) {
  for (int i = threadIdx.x; i < n; i += 64) out[i] = x[i];
}
"""
EVERY_KERNEL = {"scratch_bytes": 0, "vgpr_spills": 0}


@pytest.fixture
def report(
    toolchain: Toolchain, kernel_source: Callable[[str], Path], tmp_path: Path
) -> Callable[..., int]:
    """Runs the report over one kernel and one budget row."""
    budget, doc = tmp_path / "budget.json", tmp_path / "isa.md"

    def run(text: str, row: dict[str, Any] | None, *options: str) -> int:
        if row is not None:
            data = {
                "compiler": toolchain.release,
                "every_kernel": EVERY_KERNEL,
                "beside_ggml": {},
                "rows": [row],
            }
            budget.write_text(Budget(data).text())
        paths = ["--budget", str(budget), "--doc", str(doc), "--source", str(kernel_source(text))]
        return isa_report.main([*paths, *options])

    return run


def test_our_kernels_are_inside_the_budget(
    toolchain: Toolchain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kernel on gfx1100, one type of every family on the others."""
    archs = [option for arch in CHECKED for option in ("--arch", arch)]
    assert isa_report.main([*archs, "--representative"]) == 0, capsys.readouterr().out


def test_a_known_fault_needs_a_reason_and_is_repeated(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = {"scratch_bytes": 4096}
    row = {"kernels": "spilling", "allowed": allowed, "reason": "written to spill"}
    assert report(SPILLING, row, "--arch", "gfx1100") == 0
    assert (
        "known fault: spilling: {'scratch_bytes': 4096} allowed: written" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="`allowed` without a reason"):
        report(SPILLING, {"kernels": "spilling", "allowed": allowed}, "--arch", "gfx1100")


def test_a_spilling_kernel_fails_by_name_and_number(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kernels": "spilling", "limits": {"gfx1100": {}}}
    assert report(SPILLING, row, "--arch", "gfx1100") == 1
    out = capsys.readouterr().out
    assert re.search(r"spilling on gfx1100: scratch_bytes is 2\d{3}, must be at most 0", out)
    assert "1 kernels on gfx1100: 1 outside the budget" in out


def test_limits_hold_in_both_directions(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kernels": "copy*", "limits": {"gfx1100": {"vgprs": 1, "occupancy": 17}}}
    assert report(COPYING, row, "--arch", "gfx1100") == 1
    out = capsys.readouterr().out
    assert "copying on gfx1100: vgprs is " in out
    assert ", must be at most 1" in out
    assert "copying on gfx1100: occupancy is 16, must be at least 17" in out


def test_a_kernel_without_a_row_or_limits_fails(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(COPYING, {"kernels": "other"}, "--arch", "gfx942") == 1
    assert "copying on gfx942: no row of the budget matches it" in capsys.readouterr().out
    assert report(COPYING, {"kernels": "copying", "limits": {}}, "--arch", "gfx942") == 1
    assert "its row has no limits for this architecture" in capsys.readouterr().out


def test_measured_limits_are_for_what_a_test_run_compiles(
    toolchain: Toolchain,
    kernel_source: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On all but one architecture that is not everything; design limits hold for the rest, too."""
    copying = kernel_source(COPYING).rename(tmp_path / "copying.hip")
    every = [copying, kernel_source(SPILLING)]
    monkeypatch.setattr(isa_report, "kernel_sources", lambda: every)
    monkeypatch.setattr(isa_report, "representative_sources", lambda: every[:1])
    limits = {"gfx1100": {"occupancy": 99}, "gfx942": {"occupancy": 99}}
    data = {
        "compiler": toolchain.release,
        "every_kernel": EVERY_KERNEL,
        "beside_ggml": {},
        "rows": [{"kernels": "*", "limits": limits}],
    }
    budget = tmp_path / "budget.json"
    budget.write_text(Budget(data).text())
    archs = ["--arch", "gfx1100", "--arch", "gfx942"]
    assert isa_report.main([*archs, "--budget", str(budget)]) == 1
    out = capsys.readouterr().out
    for kernel in ("copying on gfx1100", "copying on gfx942", "spilling on gfx1100"):
        assert re.search(rf"{kernel}: occupancy is \d+, must be at least 99", out)
    assert re.search(r"spilling on gfx1100, gfx942: scratch_bytes is \d+, must be at most 0", out)
    assert "spilling on gfx942: occupancy" not in out


def test_required_instructions(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    limits: dict[str, dict[str, float]] = {"gfx1030": {}, "gfx1100": {}}
    row = {"kernels": "*", "require": {"load": 1, "dot": 1, "matrix": 1}, "limits": limits}
    assert report(COPYING, row, "--arch", "gfx1030", "--arch", "gfx1100") == 1
    out = capsys.readouterr().out
    # A card without matrix units is not asked for their instructions.
    assert "copying on gfx1100: 0 instructions of class matrix, must be at least 1" in out
    assert "copying on gfx1030, gfx1100: 0 instructions of class dot, must be at least 1" in out
    assert "class load" not in out


def test_update_writes_and_tightens_but_never_loosens(
    report: Callable[..., int], tmp_path: Path
) -> None:
    loose = {"vgprs": 200, "occupancy": 1, "lds_bytes": 0}
    row = {"kernels": "copying", "weights": [0], "limits": {"gfx1100": loose}}
    assert report(COPYING, row, "--arch", "gfx1100", "--update") == 0
    limits = Budget.read(tmp_path / "budget.json").rows[0]["limits"]["gfx1100"]
    assert limits["vgprs"] < 20
    assert limits["occupancy"] == 16
    assert limits["bytes_in_flight"] == 4 * 32 * 16 * 2
    assert "| `copying` | gfx1100 | 1 |" in (tmp_path / "isa.md").read_text()
    row["limits"] = {"gfx1100": {"vgprs": 1}}
    assert report(COPYING, row, "--arch", "gfx1100", "--update") == 1
    limits = Budget.read(tmp_path / "budget.json").rows[0]["limits"]["gfx1100"]
    assert limits["vgprs"] == 1


def test_a_row_is_loosened_only_by_name(report: Callable[..., int], tmp_path: Path) -> None:
    row = {"kernels": "copying", "limits": {"gfx1100": {"vgprs": 1}}}
    assert report(COPYING, row, "--arch", "gfx1100", "--update", "--reset", "copying") == 0
    limits = Budget.read(tmp_path / "budget.json").rows[0]["limits"]["gfx1100"]
    assert limits["vgprs"] > 1
    assert report(COPYING, None, "--arch", "gfx1100", "--reset", "nothing") == 2


def test_a_floor_holds_whatever_was_measured(
    report: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kernels": "copying", "weights": [0], "always": {"bytes_in_flight": 16384}, "limits": {}}
    assert report(COPYING, row, "--arch", "gfx1100", "--update") == 1
    assert "bytes_in_flight is 4096, must be at least 16384" in capsys.readouterr().out


def test_another_compiler_is_judged_by_what_does_not_depend_on_it(
    report: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / "budget.json"
    row = {"kernels": "*", "limits": {"gfx1100": {"vgprs": 1}}}
    report(COPYING, row, "--arch", "gfx1100")
    data = json.loads(budget.read_text())
    budget.write_text(Budget({**data, "compiler": "99.0"}).text())
    capsys.readouterr()
    assert report(COPYING, None, "--arch", "gfx1100") == 0
    assert "The measured limits are of LLVM 99.0" in capsys.readouterr().out
    assert report(SPILLING, None, "--arch", "gfx1100") == 1


def test_the_budget_file_is_as_the_tool_writes_it() -> None:
    assert BUDGET.read_text(encoding="utf-8") == Budget.read().text()


def test_unknown_instruction_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no instruction class \{'dots'\}"):
        Budget({"rows": [{"kernels": "*", "require": {"dots": 1}}]})
