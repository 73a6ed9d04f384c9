"""`rocmforge inspect` against what was written, and against gguf-py."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from commands import Run


def test_json_has_metadata_types_and_sizes(run: Run, small_file: Path) -> None:
    report = run("inspect", small_file, "--json").json
    assert report["files"] == [str(small_file)]
    assert report["file_bytes"] == small_file.stat().st_size
    assert (report["version"], report["byte_order"]) == (3, "little")
    assert report["architecture"] == "llama"
    metadata = report["metadata"]
    assert metadata["test.uint64"] == 1 << 60
    assert metadata["test.bool"] is True
    assert metadata["test.string"] == "[bold]a\nline\x1b[2J"
    assert metadata["test.bytes"] == [1, 2, 250]
    first = [f"token {i}" for i in range(5)]
    assert metadata["test.strings"] == {"length": 40, "first": first}

    reader = gguf.GGUFReader(small_file)
    expected = {
        t.name: (t.tensor_type.name, t.shape.tolist()[::-1], t.n_bytes, t.data_offset)
        for t in reader.tensors
    }
    got = {t["name"]: (t["type"], t["shape"], t["bytes"], t["offset"]) for t in report["tensors"]}
    assert got == expected
    elements = sum(int(t.n_elements) for t in reader.tensors)
    nbytes = sum(int(t.n_bytes) for t in reader.tensors)
    assert report["parameters"] == elements
    assert report["tensor_bytes"] == nbytes == sum(row["bytes"] for row in report["types"])
    assert report["bits_per_weight"] == pytest.approx(8 * nbytes / elements, abs=1e-3)
    assert {row["type"]: row["tensors"] for row in report["types"]} == {
        "F32": 6,
        "F16": 1,
        "Q8_0": 1,
    }


def test_full_shows_arrays_whole(run: Run, small_file: Path) -> None:
    metadata = run("inspect", "-m", small_file, "--full", "--json").json["metadata"]
    assert metadata["test.strings"] == [f"token {i}" for i in range(40)]
    assert metadata["test.floats"] == [0.25] * 9


def test_table_is_text_as_the_file_has_it(run: Run, small_file: Path) -> None:
    out = run("inspect", small_file).out
    # Markup stays text, control characters are escaped: a file must not drive the terminal.
    assert r"[bold]a\nline\x1b[2J" in out
    assert "\x1b" not in out
    assert "[token 0, token 1, token 2, token 3, token 4, …] (40 items)" in out
    assert "blk.0.attn_q.weight" in out
    assert "16 × 512" in out
    assert "GGUF v3, little endian, architecture llama, 8 tensors" in out
    assert max(map(len, out.splitlines())) <= 100


def test_demo_model(run: Run, demo_model_path: Path) -> None:
    report = run("inspect", demo_model_path, "--json").json
    assert report["architecture"] == "gemma3"
    assert report["vocab_size"] == 262144
    assert report["metadata"]["tokenizer.ggml.tokens"]["length"] == 262144
    assert {row["type"] for row in report["types"]} == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    assert report["parameters"] == 268_098_176
