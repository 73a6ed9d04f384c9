"""The benchmark of LoRA training's memory: its rows train the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lora_memory import measure
from benchmarks.synthetic import PRESETS, write_model


@pytest.mark.usefixtures("exact")
def test_rows_train_the_same_model(tmp_path: Path) -> None:
    shape = replace(PRESETS["llama-small"], layers=1)
    path = write_model(tmp_path / "model.gguf", shape, "Q8_0")
    gguf, plain = (measure(kind, path, tokens=8, steps=2) for kind in ("gguf", "float32"))
    assert gguf["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert min(gguf["seconds"], plain["seconds"]) > 0
    assert gguf["peak"] >= gguf["loaded"]
