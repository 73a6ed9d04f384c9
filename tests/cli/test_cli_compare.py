"""`rocmforge compare`: errors against numpy and gguf-py, divergence against torch in float64."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import gguf
import numpy as np
import pytest
import torch
from commands import Run

from rocmforge_torch import load_gguf, load_model
from rocmforge_torch.gguf import typed_metadata, write_gguf

TEXT = "It was the best of times, it was the worst of times. " * 8
WINDOW, CHUNKS = 32, 3


@pytest.fixture
def coarse(run: Run, tiny_model: Path, tmp_path: Path) -> Path:
    assert run("quantize", tiny_model, tmp_path / "q4.gguf", "Q4_0").code == 0
    return tmp_path / "q4.gguf"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def values(path: Path) -> dict[str, np.ndarray]:
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)
        for t in gguf.GGUFReader(path).tensors
    }


def test_errors_of_tensors(run: Run, tiny_model: Path, coarse: Path) -> None:
    report = run("compare", tiny_model, coarse, "--json").json
    first, second = values(tiny_model), values(coarse)
    assert [row["name"] for row in report["tensors"]] == list(first)
    for row in report["tensors"]:
        a, b = first[row["name"]], second[row["name"]]
        assert row["shape"] == list(a.shape)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-12)
        assert row["relative"] == pytest.approx(
            np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12
        )
        assert row["largest"] == np.abs(a - b).max()
        assert (row["rmse"] == 0) == (row["first"] == row["second"])
    assert {(row["first"], row["second"]) for row in report["tensors"]} >= {("Q8_0", "Q4_0")}
    assert report["divergence"] is None
    assert report["only_in_a"] == report["only_in_b"] == []


def test_divergence_of_predictions(run: Run, tiny_model: Path, coarse: Path, text: Path) -> None:
    flags = ("-f", text, "-c", WINDOW, "--chunks", CHUNKS, "--exact", "--json")
    found = run("compare", tiny_model, coarse, *map(str, flags)).json["divergence"]
    models = [load_model(path) for path in (tiny_model, coarse)]
    ids = torch.tensor(models[0].tokenizer.encode(TEXT)[: WINDOW * CHUNKS]).view(CHUNKS, WINDOW)
    ids[:, 0] = models[0].tokenizer.bos_id
    with torch.inference_mode():
        p, q = (
            torch.distributions.Categorical(logits=model(ids)[:, WINDOW // 2 : -1].double())
            for model in models
        )
        kl = torch.distributions.kl_divergence(p, q)
        following = ids[:, WINDOW // 2 + 1 :]
        perplexities = [d.log_prob(following).mean().neg().exp().item() for d in (p, q)]
    assert found["exact"]
    assert found["positions"] == kl.numel()
    close = {"rel": 1e-4}  # logits in float32, one window at a time or all together
    assert found["kl"] == pytest.approx(kl.mean().item(), **close)
    assert found["windows"][0] == pytest.approx(kl[0].mean().item(), **close)
    assert found["kl_max"] == pytest.approx(kl.max().item(), **close)
    assert found["kl_median"] == pytest.approx(np.quantile(kl, 0.5), **close)
    assert found["kl_99"] == pytest.approx(np.quantile(kl, 0.99), **close)
    error = kl.std(correction=0).item() / math.sqrt(kl.numel() - 1)
    assert found["kl_error"] == pytest.approx(error, **close)
    same = (p.logits.argmax(-1) == q.logits.argmax(-1)).double().mean().item()
    assert found["same_top"] == pytest.approx(same)
    assert [found["perplexity_a"], found["perplexity_b"]] == pytest.approx(perplexities, **close)


def test_a_file_and_itself(run: Run, tiny_model: Path, text: Path) -> None:
    flags = ("-f", text, "-c", "64", "--chunks", "1")
    report = run("compare", tiny_model, tiny_model, *flags, "--json").json
    assert (report["divergence"]["kl"], report["divergence"]["same_top"]) == (0, 1)
    out = run("compare", tiny_model, tiny_model, *flags).out
    assert "21 tensors hold the same numbers, 0 others." in out
    assert "KL divergence 0.000000" in out


def test_the_table(run: Run, tiny_model: Path, coarse: Path) -> None:
    out = run("compare", tiny_model, coarse).out
    row = next(line.split() for line in out.splitlines() if "blk.1.ffn_up.weight" in line)
    assert row[1:6] == ["Q8_0", "Q4_0", "64", "×", "32"]
    assert row[7].endswith("%")
    assert "tensors hold the same numbers, " in out


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_plot(run: Run, tiny_model: Path, coarse: Path, text: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    picture = text.with_suffix(suffix)
    flags = ("-f", text, "-c", "32", "--chunks", "2", "--plot", picture)
    assert run("compare", tiny_model, coarse, *flags).code == 0
    if suffix == ".png":
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        words = "".join(ElementTree.parse(picture).getroot().itertext())
        for word in ("relative error of tensors", "attn_q", "ffn_down", "KL divergence so far"):
            assert word in words


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Path:
    """Without one tensor, with another instead; and with another token."""
    file = load_gguf(tiny_model)
    tensors = dict(file.tensors)
    tensors["extra.weight"] = tensors.pop("output_norm.weight")
    tokens = ["other", *file.metadata["tokenizer.ggml.tokens"][1:]]
    metadata = typed_metadata(file) | {"tokenizer.ggml.tokens": tokens}
    write_gguf(tmp_path / "changed.gguf", metadata, tensors.items())
    return tmp_path / "changed.gguf"


def test_tensors_of_one_file_only(run: Run, tiny_model: Path, changed: Path) -> None:
    result = run("compare", tiny_model, changed)
    assert "Only in A: output_norm.weight\nOnly in B: extra.weight" in result.out


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (("--chunks", "0"), 2, "--chunks"),
        (("--plot", "a.pdf"), 1, "--plot draws FILE.svg or FILE.png, not a.pdf"),
        (("--plot", "/no/where/a.svg"), 1, "/no/where is no directory"),
        (("-f", "/no/file"), 1, "/no/file: No such file or directory"),
    ],
)
def test_refusals(
    run: Run, tiny_model: Path, flags: tuple[str, ...], code: int, complaint: str
) -> None:
    result = run("compare", tiny_model, tiny_model, *flags)
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert complaint in result.err


def test_other_shapes_and_vocabularies(
    run: Run, tiny_model: Path, small_file: Path, text: Path, tmp_path: Path
) -> None:
    result = run("compare", tiny_model, small_file)
    assert result.code == 1
    assert "has shape" in result.err
    file = load_gguf(tiny_model)
    tokens = ["other", *file.metadata["tokenizer.ggml.tokens"][1:]]
    metadata = typed_metadata(file) | {"tokenizer.ggml.tokens": tokens}
    write_gguf(tmp_path / "b.gguf", metadata, file.tensors.items())
    result = run("compare", tiny_model, tmp_path / "b.gguf", "-f", text, "-c", "32")
    assert (result.code, "different vocabularies" in result.err) == (1, True)
