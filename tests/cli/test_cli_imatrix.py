"""`rocmforge imatrix`, and what `rocmforge quantize` does with what it writes."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from commands import Run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("What a model reads here decides which of its inputs are large. " * 3)
    return path


def test_matrices_are_weighed(run: Run, tiny_model: Path, text: Path, tmp_path: Path) -> None:
    imatrix, target = tmp_path / "imatrix.gguf", tmp_path / "out.gguf"
    flags = ("-f", text, "-o", imatrix, "--ctx-size", "32", "--chunks", "2")
    report = run("imatrix", tiny_model, *flags, "--json").json
    assert report["tokens"] == 64
    assert report["matrices"] == 14  # seven in each of two layers
    reader = gguf.GGUFReader(imatrix)
    counts = {t.name: t.data for t in reader.tensors if t.name.endswith(".counts")}
    assert len(counts) == 14
    assert {float(count.item()) for count in counts.values()} == {64.0}
    assert reader.fields["imatrix.datasets"].contents() == ["text"]

    plain = run("quantize", tiny_model, tmp_path / "plain.gguf", "Q4_0", "--json").json
    weighed = run("quantize", tiny_model, target, "Q4_0", "--imatrix", imatrix, "--json").json
    assert (plain["weighted"], weighed["weighted"]) == (0, 14)
    fields = gguf.GGUFReader(target).fields
    assert fields["quantize.imatrix.file"].contents() == str(imatrix)
    assert fields["quantize.imatrix.entries_count"].contents() == 14
    shown = run("quantize", tiny_model, target, "Q4_0", "--imatrix", imatrix, "--force")
    assert "Matrices whose errors were weighed by" in shown.out
    assert "imatrix.gguf: 14" in "".join(shown.out.splitlines())


def test_output_is_a_person_s_line(run: Run, tiny_model: Path, text: Path, tmp_path: Path) -> None:
    flags = ("-f", text, "-o", tmp_path / "i.gguf", "-c", "32", "--process-output")
    shown = run("imatrix", tiny_model, *flags)
    assert shown.code == 0
    assert "inputs of 15 matrices over 256 tokens" in " ".join(shown.out.split())


def test_refusals(run: Run, tiny_model: Path, small_file: Path, text: Path, tmp_path: Path) -> None:
    imatrix = tmp_path / "imatrix.gguf"
    for flags, complaint in (
        (("-f", text, "-o", text), "is the input itself"),
        (("-f", tmp_path / "none", "-o", imatrix), "No such file"),
        (("-f", text, "-o", imatrix), "fills no window of 512"),
        (("-f", text, "-o", imatrix, "--chunks", "0"), "must be at least 1"),
    ):
        result = run("imatrix", tiny_model, *flags)
        assert result.code != 0
        assert complaint in result.err
    assert not imatrix.exists()
    assert run("imatrix", tiny_model, "-f", text, "-o", imatrix, "-c", "32").code == 0
    for wrong, complaint in (
        (imatrix, "it is of another model"),
        (text, "no importance matrix"),
        (small_file, "holds no importance"),
    ):
        result = run("quantize", small_file, tmp_path / "o.gguf", "Q4_0", "--imatrix", wrong)
        assert result.code == 1
        assert complaint in result.err
