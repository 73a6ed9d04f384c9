"""`rocmforge doctor`: every op on every device, and a broken one is found."""

from __future__ import annotations

import importlib
import shutil

import pytest
import torch
from commands import Run

from rocmforge_torch import extension, ops
from rocmforge_torch.cli import self_test
from rocmforge_torch.cli.self_test import Case, Outcome


def test_every_op_has_cases() -> None:
    assert self_test.CASES.keys() == ops.OPS.keys()


def test_healthy_installation(run: Run) -> None:
    result = run("doctor", "--json")
    report = result.json
    assert result.code == 0
    assert report["healthy"] is True
    assert report["packages"]["torch"] == torch.__version__
    assert report["libraries"]["cpu"].endswith("librocmforge_cpu.so")
    assert report["cpu_instruction_set"] == extension.cpu_instruction_set()
    assert report["devices"][0]["type"] == "cpu"
    rows = {row["op"]: row for row in report["ops"] if row["device"] == "cpu"}
    assert rows.keys() == ops.OPS.keys()
    for row in rows.values():
        assert row["kernel"].startswith("native (")
        assert row["test"] == "passed"
        assert row["cases"] > 0
        assert row["error"] <= row["limit"]
        assert row["problem"] is None


def broken(op: str, device: str) -> Outcome:
    problem = "Q4_K, 1 rows: error 3.0e-01 exceeds 1e-04" if op == "quant_matmul" else None
    return Outcome(op, cases=1, error=0.3 if problem else 0.0, limit=1e-4, problem=problem)


def test_broken_kernel_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run", broken)
    result = run("doctor")
    assert result.code == 1
    assert "failed" in result.out
    advice = " ".join(result.out.split())
    assert "quant_matmul is wrong on cpu: Q4_K, 1 rows: error 3.0e-01 exceeds 1e-04." in advice
    assert "Every op computes what it should." not in result.out


def test_missing_library_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run", lambda op, device: Outcome(op, 1, 0.0, 0.0))
    monkeypatch.setattr(extension, "_loaded", {})
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: False)
    result = run("doctor", "--json")
    assert result.code == 1
    assert {row["kernel"] for row in result.json["ops"]} == {"reference"}
    assert {row["why"] for row in result.json["ops"]} == {"no CPU library"}
    assert any("install a C++17 compiler" in line for line in result.json["advice"])


def test_gpu_without_library_is_told_what_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    gpu = {"type": "cuda", "index": 0, "name": "Radeon RX 7900 XT"}
    (advice,) = importlib.import_module("rocmforge_torch.cli.doctor")._advice(
        {"cpu": "x.so"}, [gpu], []
    )
    assert advice.startswith("Radeon RX 7900 XT has no kernels: put hipcc on PATH")


@pytest.mark.parametrize("damage", ["value", "shape", "dtype", "nan", "crash"])
def test_self_test_finds_a_wrong_result(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        if damage == "crash":
            raise RuntimeError("no\nluck")
        return {
            "value": x + 0.01,
            "shape": x[:1],
            "dtype": x.double(),
            "nan": torch.full_like(x, float("nan")),
        }[damage]

    monkeypatch.setitem(self_test.CASES, "twice", lambda gen: iter([Case("ones", (x,), 1e-6)]))
    monkeypatch.setattr(self_test.reference, "twice", lambda x: x.clone(), raising=False)
    monkeypatch.setattr(torch.ops.rocmforge, "twice", kernel, raising=False)
    outcome = self_test.run("twice", "cpu")
    assert not outcome.passed
    assert outcome.problem is not None
    assert outcome.problem.startswith("ones: " + ("no" if damage == "crash" else "error "))
    assert "\n" not in outcome.problem
