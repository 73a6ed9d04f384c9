"""`rocmforge bench`: what it counts is what the file holds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from commands import Run

from rocmforge_torch import load_gguf
from rocmforge_torch.cli import bandwidth


@pytest.fixture(autouse=True)
def small_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BYTES", 16 << 20)


def test_json(run: Run, tiny_model: Path) -> None:
    flags = ("-p", "16", "-n", "4", "-r", "3", "--json")
    report = run("bench", tiny_model, *flags).json
    file = load_gguf(tiny_model)
    embedding = file.tensors.info("token_embd.weight").nbytes
    assert report["tensor_bytes"] == file.nbytes
    assert report["weight_bytes_per_token"] == file.nbytes - embedding  # has its own output matrix
    assert report["threads"] == torch.get_num_threads()
    assert report["memory_bandwidth"] > 0
    prompt, generate = report["tests"]
    assert (prompt["test"], prompt["tokens"]) == ("prompt", 16)
    assert (generate["test"], generate["tokens"]) == ("generate", 4)
    for test in report["tests"]:
        assert len(test["all"]) == 3
        assert test["tokens_per_second"] == statistics.median(test["all"])
    assert "bandwidth_fraction" not in prompt
    expected = generate["tokens_per_second"] * report["weight_bytes_per_token"]
    assert generate["bytes_per_second"] == pytest.approx(expected, rel=1e-3)
    assert generate["bandwidth_fraction"] == pytest.approx(
        expected / report["memory_bandwidth"], abs=1e-3
    )


def test_tied_embedding_is_read_as_the_output(run: Run, demo_model_path: Path) -> None:
    flags = ("-p", "0", "-n", "1", "-r", "1", "--json")
    report = run("bench", demo_model_path, *flags).json
    assert report["weight_bytes_per_token"] == report["tensor_bytes"]
    assert [test["test"] for test in report["tests"]] == ["generate"]


def test_table(run: Run, tiny_model: Path) -> None:
    out = run("bench", "-m", tiny_model, "-p", "8", "-n", "2", "-r", "1").out
    assert "prompt 8" in out
    assert "generate 2" in out
    assert "GB/s" in out
    assert max(map(len, out.splitlines())) <= 100
