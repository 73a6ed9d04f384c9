"""`rocmforge tune`: what it writes, keeps and says, with times that are made up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import Run

from rocmforge_torch import config, extension
from rocmforge_torch.tuning import measure, tables
from rocmforge_torch.tuning.limits import Limits
from rocmforge_torch.tuning.search import Times, kernel_for

tune = importlib.import_module("rocmforge_torch.cli.tune")
ARCH = "gfx1100"
BEST = Limits(4, 8, 192)  # of the times


def times(row: Any, shape: Any, rows: Any, device: Any, done: Any) -> Times:
    found: dict[int, dict[str, float]] = {}
    for m, kernel in measure.trials(rows):
        found.setdefault(m, {})[kernel] = 10.0 if kernel == kernel_for(BEST, m) else 11.0
        done(1)
    return found


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretends that there is a card; gives the user's file for it."""
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path / "own"))
    monkeypatch.setattr(tune, "_gpu", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(extension, "architecture", lambda index: ARCH)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "AMD Radeon RX 7900 XTX")
    monkeypatch.setattr(measure, "measure", times)
    return tmp_path / "own" / f"{ARCH}.json"


def test_what_was_found_is_kept_and_shown(run: Run, card: Path) -> None:
    result = run("tune", "--types", "q4_k,Q8_0")
    assert (result.code, result.err) == (0, "")
    table = tables.read(card, ARCH)
    assert list(table.types) == ["Q8_0", "Q4_K"]
    assert set(table.types.values()) == {BEST}
    assert (table.device, table.torch) == ("AMD Radeon RX 7900 XTX", torch.__version__)
    assert "AMD Radeon RX 7900 XTX (gfx1100): the most rows of each kernel" in result.out
    (line,) = (line for line in result.out.splitlines() if "Q4_K" in line)
    # 4 of 16 numbers of rows: 3, 4, 16 and 192 were 11 us.
    assert line.split() == ["Q4_K", "2", "→", "4", "16", "→", "8", "128", "→", "192", "2.4%"]
    assert f"{card}: read from now on" in " ".join(result.out.split("\n"))


def test_the_same_for_machines(run: Run, card: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    result = run("tune", "--types", "Q4_0", "--shapes", "64x32,32x64", "-o", other, "--json")
    report = result.json
    assert result.code == 0
    assert not card.exists()
    assert {key: report[key] for key in ("device", "architecture", "output", "in_use")} == {
        "device": "AMD Radeon RX 7900 XTX",
        "architecture": ARCH,
        "output": str(other),
        "in_use": False,
    }
    (found,) = report["types"]
    assert found["before"] == {"matvec": 2, "multirow": 16, "tile": 128}
    assert found["after"] == {"matvec": 4, "multirow": 8, "tile": 192}
    assert found["type"] == "Q4_0"
    assert {t["shape"] for t in found["times"]} == {"64x32", "32x64"}
    assert len(found["times"]) == 2 * len(measure.trials(measure.ROWS))
    assert {"shape": "64x32", "rows": 4, "kernel": "matvec", "us": 10.0} in found["times"]


def test_types_that_were_not_measured_stay(run: Run, card: Path) -> None:
    old = {"Q4_0": Limits(0, 0, 0), "Q6_K": Limits(1, 2, 3)}
    tables.write(card, tables.Table(ARCH, "card", "2.9", old))
    assert run("tune", "--types", "Q4_0").code == 0
    assert tables.read(card, ARCH).types == {"Q4_0": BEST, "Q6_K": Limits(1, 2, 3)}


def test_every_quantization_type_by_default(run: Run, card: Path) -> None:
    assert run("tune").code == 0
    kept = json.loads(card.read_text())["types"]
    assert {"Q4_0", "IQ1_M", "TQ2_0", "NVFP4"} <= kept.keys()
    assert not {"F32", "F16", "BF16"} & kept.keys()


def test_limits_before_that_were_not_measured(
    run: Run, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_force = importlib.import_module("rocmforge_torch.tuning.in_force")
    monkeypatch.setattr(in_force, "limits_of", lambda device, qtype: Limits(0, 0, 0))
    (line,) = (s for s in run("tune", "--types", "Q4_0").out.splitlines() if "Q4_0" in s)
    assert line.rstrip().endswith("?")
    assert run("tune", "--types", "Q4_0", "--json").json["types"][0]["saved"] is None


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--types", "Q4_9"), 1, "unknown GGML type 'Q4_9'"),
        (("--types", "Q4_0,BF16"), 2, "BF16 is not quantized"),
        (("--shapes", "4096"), 2, "must be like 4096x4096,4096x14336, got '4096'"),
        (("--shapes", "0x64"), 2, "must be like 4096x4096,4096x14336, got '0x64'"),
        (("--types", "Q4_K", "--shapes", "64x32"), 1, "k = 32 must be a non-negative multiple of"),
        (("-o", "."), 1, ". is a directory, not a file to write"),
    ],
)
def test_what_cannot_be_asked(
    run: Run, card: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    result = run("tune", *args)
    assert result.code == code
    assert says in result.err
    assert not card.exists()


def test_a_file_that_is_no_table_is_not_replaced(run: Run, card: Path) -> None:
    card.parent.mkdir()
    card.write_text('{"types": {}}')
    result = run("tune", "--types", "Q4_0")
    assert (result.code, result.err) == (1, f"rocmforge: {card}: architecture is missing\n")
    assert card.read_text() == '{"types": {}}'


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_without_a_gpu(run: Run, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run("tune", "--device", device)
    assert result.code == 1
    assert result.err.startswith(f"rocmforge: {device}: there is no such GPU that torch can use")
    assert result.err.count("\n") == 1


def test_without_the_kernels_or_a_choice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(extension, "_loaded", {})
    assert "the GPU kernels are not built" in run("tune").err
    library = SimpleNamespace(rocmforge_set_exact=lambda value: None)
    monkeypatch.setattr(extension, "_loaded", {"gpu": library})
    monkeypatch.setattr(config, "exact", True)
    assert "ROCMFORGE_EXACT leaves one kernel" in run("tune").err
