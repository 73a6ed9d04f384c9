"""The models that benchmarks and GPU tests write: they load, compute, and are as large as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.load import cached_fraction, drop_from_cache, peak_of, read_rate, resident_bytes
from benchmarks.synthetic import PRESETS, fill, model_bytes, write_model
from rocmforge_torch import load_model
from rocmforge_torch.gguf.async_loader import RingSize

SMALL = [name for name in PRESETS if name.endswith("small")]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("qtype", ["Q4_0", "Q6_K", "BF16"])
def test_models_compute(tmp_path: Path, name: str, qtype: str) -> None:
    shape = PRESETS[name]
    model = load_model(write_model(tmp_path / "m.gguf", shape, qtype))
    assert model.file.nbytes == model_bytes(shape, qtype)
    assert model.file.tensors.info("blk.1.ffn_up.weight").qtype.name == qtype
    with torch.inference_mode():
        logits = model(torch.tensor([[5, 6, 7, 1999]]))
    assert logits.isfinite().all()
    assert 0.5 < logits.std() < 5, "activations keep their size through the layers"
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 0.1


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    shape = replace(PRESETS["llama-small"], layers=1)
    files = [write_model(tmp_path / f"{i}.gguf", shape, seed=i // 2).read_bytes() for i in range(3)]
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("gib", [1.0, 4.5, 40.0])
def test_files_are_as_large_as_asked(gib: float) -> None:
    shape = fill(PRESETS["llama-8b"], "Q4_0", gib * 2**30)
    assert model_bytes(shape, "Q4_0") == pytest.approx(gib * 2**30, rel=0.08)


def test_what_the_load_benchmark_measures_with(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    assert read_rate(path, RingSize(buffer_bytes=1 << 20, threads=2)) > 0
    left = drop_from_cache(path)
    assert 0 <= left <= 1
    with path.open("rb") as file:
        file.read()
        assert cached_fraction(file.fileno()) >= left
    with peak_of(resident_bytes) as peak:
        torch.ones(25 << 20).sum()  # 100 MiB, touched
    assert peak[0] < 200 << 20
