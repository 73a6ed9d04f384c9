"""`rocmforge quantize`: what it writes is read by us and by gguf-py alike."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from commands import Run, start

from rocmforge_torch import load_gguf
from rocmforge_torch.quantize import target_types
from rocmforge_torch.tensor import GGUFTensor

BY_GGUF_PY = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
MATRICES = ("token_embd.weight", "blk.0.attn_q.weight", "output.weight", "blk.0.experts.weight")


def values(path: Path, name: str) -> np.ndarray:
    """A tensor's values as gguf-py reads them."""
    (tensor,) = (t for t in gguf.GGUFReader(path).tensors if t.name == name)
    shape = tensor.shape.tolist()[::-1]
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def types(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", BY_GGUF_PY)
def test_matrices_are_what_gguf_py_makes_of_them(
    run: Run, small_file: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "out.gguf"
    assert run("quantize", small_file, target, name.lower(), "--pure").code == 0
    qtype = gguf.GGMLQuantizationType[name]
    for tensor in MATRICES:
        expected = gguf.quants.dequantize(
            gguf.quants.quantize(values(small_file, tensor), qtype), qtype
        )
        assert types(target)[tensor] == name
        np.testing.assert_array_equal(values(target, tensor), expected)


@pytest.mark.parametrize("name", target_types())
def test_every_type_loads_again(run: Run, small_file: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.gguf"
    report = run("quantize", small_file, target, name, "--pure", "--json").json
    assert report["type"] == name
    file, source = load_gguf(target), load_gguf(small_file)
    assert list(file.tensors) == list(source.tensors)
    assert report["tensor_bytes"] == file.nbytes
    for tensor in MATRICES:
        before, after = (_floats(f.tensors[tensor]) for f in (source, file))
        assert file.tensors.info(tensor).qtype.name == name
        assert after.shape == before.shape
        # Of normal values the ternary types keep a third; zeros would keep nothing.
        assert (after - before).square().mean() < 0.7 * before.square().mean()


def test_metadata_keeps_values_and_types(run: Run, small_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    assert run("quantize", small_file, target, "Q4_K_S").code == 0
    before, after = (gguf.GGUFReader(path).fields for path in (small_file, target))
    kept = [key for key in before if key.startswith(("test.", "general.architecture"))]
    assert len(kept) == 17
    for key in kept:
        assert after[key].types == before[key].types
        assert after[key].contents() == before[key].contents()
    assert after["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_S
    assert after["general.quantization_version"].contents() == 2


def test_what_is_no_matrix_stays(run: Run, small_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    result = run("quantize", small_file, target, "Q4_K", "--pure")
    found = types(target)
    assert found["token_embd.weight"] == "Q4_K"
    assert found["blk.0.attn_norm.weight"] == "F32"
    assert found["blk.0.ffn_gate_inp.weight"] == "F32"
    # 96 elements a row are three blocks of 32, 30 are none.
    assert found["blk.0.ffn_up.weight"] == "Q5_0"
    assert found["blk.0.ffn_odd.weight"] == "F16"
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight"):
        np.testing.assert_array_equal(values(target, name), values(small_file, name))
    assert "rows are no multiple of Q4_K's block" in " ".join(result.out.split())
    assert "Tensors quantized already: 1." in result.err


def test_own_types_for_output_and_embedding(run: Run, small_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    flags = ("--output-tensor-type", "Q6_K", "--token-embedding-type", "f16")
    assert run("quantize", small_file, target, "Q4_0", *flags).code == 0
    found = types(target)
    assert found["output.weight"] == "Q6_K"
    assert found["token_embd.weight"] == "F16"
    assert found["blk.0.attn_q.weight"] == "Q4_0"


def test_refusals(run: Run, small_file: Path, tmp_path: Path) -> None:
    before = small_file.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(small_file)
    existing = tmp_path / "existing.gguf"
    existing.write_text("mine")
    for target, type_name, complaint in (
        (small_file, "Q4_0", "is the input itself"),
        (link, "Q4_0", "is the input itself"),
        (existing, "Q4_0", "--force replaces it"),
        (tmp_path, "Q4_0", "is a directory"),
        (tmp_path / "no" / "out.gguf", "Q4_0", "is no directory"),
        (tmp_path / "out.gguf", "Q4_K_XL", "is no type or mix: choose one of F32, "),
        (tmp_path / "out.gguf", "iq1_s", "is no type to quantize to: choose one of F32, "),
    ):
        result = run("quantize", small_file, target, type_name)
        assert result.code == 1
        assert complaint in result.err
    assert small_file.read_bytes() == before
    assert existing.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["existing.gguf", "link.gguf"]

    assert run("quantize", small_file, existing, "Q4_0", "--force").code == 0
    assert types(existing)["blk.0.attn_q.weight"] == "Q4_0"


def test_interrupted_write_leaves_nothing(
    run: Run, small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocmforge_torch.quantize import write

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_pieces", interrupt)
    result = run("quantize", small_file, tmp_path / "out.gguf", "Q4_0")
    assert result.code == 130
    assert result.err.endswith("rocmforge: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_sentence(small_file: Path) -> None:
    process = start("quantize", small_file, "/proc/out.gguf", "Q4_0")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "/proc/out.gguf" in err
    assert "Traceback" not in err


def _floats(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, GGUFTensor):
        return tensor.dequantize(torch.float32)
    return tensor.float()
