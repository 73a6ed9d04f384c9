"""`rocmforge perplexity`: the values of the library, window by window."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from commands import Run

from rocmforge_torch import config, load_model
from rocmforge_torch.generate import perplexity

TEXT = "It was the best of times, it was the worst of times. " * 8


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_running_values(run: Run, tiny_model: Path, text: Path) -> None:
    expected = list(perplexity(load_model(tiny_model), TEXT, ctx_size=32, chunks=8))
    flags = ("-f", text, "--ctx", "32", "--chunks", "8")
    report = run("perplexity", tiny_model, *flags, "--json").json
    assert report["windows"] == [window.value for window in expected]
    assert report["perplexity"] == expected[-1].value
    assert report["error"] == expected[-1].error
    assert report["positions"] == 8 * 15
    assert report["exact"] is False

    out = run("perplexity", "-m", tiny_model, *flags).out
    first, second, last = out.splitlines()
    assert first.startswith(f"[1/8] {expected[0].value:.4f}  [2/8] {expected[1].value:.4f}")
    assert second.endswith(f"[8/8] {expected[7].value:.4f}")
    assert last.startswith(f"Perplexity {expected[7].value:.4f} ± {expected[7].error:.4f} over 120")


def test_all_of_the_text_by_default(run: Run, tiny_model: Path, text: Path) -> None:
    report = run("perplexity", tiny_model, "-f", text, "-c", "64", "--json").json
    assert len(report["windows"]) == len(load_model(tiny_model).tokenizer.encode(TEXT)) // 64


def test_exact(run: Run, tiny_model: Path, text: Path) -> None:
    flags = ("-f", text, "--ctx", "32", "--chunks", "1", "--exact", "--json")
    assert run("perplexity", tiny_model, *flags).json["exact"] is True
    assert config.exact


def test_cache_types(run: Run, tiny_model: Path, text: Path) -> None:
    flags = ("-f", text, "--ctx", "32", "--chunks", "2", "--json")
    without = run("perplexity", tiny_model, *flags).json
    assert without["cache_types"] is None
    exact = run("perplexity", tiny_model, *flags, "-ctk", "f32", "-ctv", "f32").json
    assert exact["cache_types"] == ["f32", "f32"]
    assert exact["windows"] == pytest.approx(without["windows"], rel=1e-4)
    coarse = run("perplexity", tiny_model, *flags, "-ctk", "fp8").json
    assert coarse["cache_types"] == ["fp8", "f16"]
    assert coarse["windows"] != without["windows"]
    entropies = [[math.log(value) for value in report["windows"]] for report in (coarse, without)]
    assert entropies[0] == pytest.approx(entropies[1], rel=0.01)


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (("--ctx", "2048"), 1, "fills no window of 2048"),
        (("--ctx", "2"), 2, "--ctx"),
        (("--chunks", "0"), 2, "--chunks"),
        (("-f", "/no/such/file"), 1, "/no/such/file: No such file or directory"),
    ],
)
def test_refusals(
    run: Run, tiny_model: Path, text: Path, flags: tuple[str, ...], code: int, complaint: str
) -> None:
    result = run("perplexity", tiny_model, "-f", text, *flags)
    assert result.code == code
    assert complaint in result.err
    assert result.err.count("\n") == 1


def test_file_is_needed(run: Run, tiny_model: Path) -> None:
    result = run("perplexity", tiny_model)
    assert result.code == 2
    assert "--file" in result.err


@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize("command", ["perplexity", "compare", "imatrix", "generate"])
def test_gpu_layers_reach_the_loader(
    command: str, by: str, run: Run, tiny_model: Path, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whose complaint is that the device has none."""
    words = {
        "perplexity": (tiny_model, "-f", text),
        "compare": (tiny_model, tiny_model, "-f", text),
        "imatrix": (tiny_model, "-f", text, "-o", tmp_path / "imatrix.gguf"),
        "generate": ("-m", tiny_model, "-p", "x"),
    }[command]
    if by == "variable":
        monkeypatch.setenv("ROCMFORGE_GPU_LAYERS", "1")
        failed = run(command, *words)
    else:
        failed = run(command, *words, "-ngl", "1")
    assert failed.code == 1
    assert failed.err == "rocmforge: gpu_layers is for a GPU, the device is cpu\n"
