"""The tables of benchmarks/matmul.py, from figures that a computer without a GPU can make up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.matmul_tables import markdown, replace_between_markers


def record(card: str) -> dict[str, Any]:
    def result(name: str, m: int, us: float, size: int) -> dict[str, Any]:
        return {"type": name, "n": 28672, "k": 4096, "rows": m, "us": us, "weight_bytes": size}

    floors = {"read": 4e12, "read_by": "sum", "copy": 3e12, "matrix": 8e14}
    results = [
        result("bf16 linear", 1, 60.0, 2 * 28672 * 4096),
        result("bf16 linear", 2048, 620.0, 2 * 28672 * 4096),
        result("Q4_0", 1, 20.0, 28672 * 4096 // 32 * 18),
        result("Q4_0", 2048, 1202.5, 28672 * 4096 // 32 * 18),
    ]
    return {
        "card": card,
        "torch": "2.11.0",
        "layout": "packed",
        "dtype": "bfloat16",
        "floors": floors,
        "results": results,
        "failed": [],
    }


def test_cells_hold_time_and_part_of_the_floor() -> None:
    lines = markdown(record("Some Card")).splitlines()
    assert "| 28672x4096 | 1 | 2048 |" in lines
    # 66,060,288 bytes at 4 TB/s are 16.5 us; 4.81e11 operations at 800 TFLOP/s 601 us.
    at = lines.index("| Q4_0 | 20.0 (83 %) | 1,202 (50 %) |")
    assert lines[at + 1] == "| bf16 linear | 60.0 (98 %) | 620 (97 %) |"
    assert not any("vllm" in line for line in lines)


def test_peers_stand_beside_ours_on_the_same_card_only() -> None:
    text = markdown(record("NVIDIA H200"))
    assert "| Q4_0 |  | 20.0 / 33.5 (1.7) |  |  |  |  | 1,202 / 18,003 (15.0) |" in text


def test_a_table_replaces_the_one_of_its_card(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = markdown(record("A"))
    begin, end = text.splitlines()[0], text.splitlines()[-1]
    page.write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n")
    replace_between_markers(page, text)
    assert page.read_text() == f"before\n\n{text}\n\nafter\n"
    with pytest.raises(SystemExit, match="has no place for this table"):
        replace_between_markers(page, markdown(record("B")))


def test_figures_of_a_file_need_no_gpu(tmp_path: Path) -> None:
    source = tmp_path / "figures.json"
    source.write_text(json.dumps(record("A")))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.matmul"]
    shown = subprocess.run(
        [*command, "--from", source, "--markdown"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == markdown(record("A"))
    if not torch.cuda.is_available():
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 1
        assert refused.stderr.startswith("There is no GPU that torch can use")
