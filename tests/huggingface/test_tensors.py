"""Folders that transformers saved, converted: our decoder's logits equal transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import TINY, VOCAB, build

from rocmforge_torch import load_gguf, load_model
from rocmforge_torch.gguf import lazy_tensor
from rocmforge_torch.huggingface import FolderError, folder_tensors, open_folder
from rocmforge_torch.quantize import open_model, plan, recipe, write_quantized

TOLERANCE = 1e-4  # tests/models/test_architectures.py's
pytestmark = pytest.mark.usefixtures("exact")


def convert(folder: Path, target: Path, name: str) -> Path:
    model, wanted = open_model(folder), recipe(name)
    write_quantized(target, model, plan(model.tensors, model.metadata, wanted), wanted)
    return target


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("name", TINY)
def test_logits(name: str, tmp_path: Path) -> None:
    theirs = build(TINY[name])
    folder = save(theirs, tmp_path / name, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    ours = load_model(convert(folder, tmp_path / "tiny.gguf", "F32"))
    ids = torch.randint(VOCAB, (2, 70), generator=torch.Generator().manual_seed(1))
    want = theirs(ids, use_cache=False).logits
    assert (ours(ids) - want).abs().max().item() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "target"), [("llama", "F16"), ("llama", "Q8_0"), ("phi3", "Q4_0")]
)
def test_other_types_are_what_gguf_py_makes_of_float32(
    name: str, target: str, tmp_path: Path
) -> None:
    folder = save(build(TINY[name]), tmp_path / name)
    exact = load_gguf(convert(folder, tmp_path / "f32.gguf", "F32"))
    reader = gguf.GGUFReader(convert(folder, tmp_path / "other.gguf", target))
    seen = set()
    for tensor in reader.tensors:
        values = exact.tensors[tensor.name].numpy()
        kind = tensor.tensor_type
        if kind != gguf.GGMLQuantizationType.Q6_K:  # the output of Q4_0, which gguf-py cannot write
            expected = gguf.quants.quantize(values, kind)
            assert tensor.data.tobytes() == expected.tobytes()
        seen.add(kind.name)
    assert {"F32", target} <= seen


def test_bfloat16_folder(tmp_path: Path) -> None:
    """Matrices keep bfloat16's bits; norms are float32, with Gemma's 1 added in float32."""
    theirs = build(TINY["gemma2"]).bfloat16()
    folder = save(theirs, tmp_path / "gemma2")
    file = load_gguf(convert(folder, tmp_path / "tiny.gguf", "BF16"))
    state = theirs.state_dict()
    q = file.tensors["blk.1.attn_q.weight"]
    assert q.dtype == torch.bfloat16
    assert torch.equal(q, state["model.layers.1.self_attn.q_proj.weight"])
    norm = file.tensors["blk.1.attn_norm.weight"]
    want = state["model.layers.1.input_layernorm.weight"].float() + 1
    assert norm.dtype == torch.float32
    assert torch.equal(norm, want)


def test_names_and_order(tmp_path: Path) -> None:
    tensors = folder_tensors(open_folder(save(build(TINY["llama3"]), tmp_path / "llama3")))
    names = [tensor.name for tensor in tensors]
    assert names[:2] == ["rope_freqs.weight", "token_embd.weight"]
    assert names[-2:] == ["output.weight", "output_norm.weight"]
    blocks = [int(name.split(".")[1]) for name in names if name.startswith("blk.")]
    assert blocks == sorted(blocks)


def test_model_inside_a_model_that_also_sees(tmp_path: Path, make_folder: Any) -> None:
    """Gemma 3's larger models keep their text model under a prefix, and configurations short."""
    import json

    theirs = build(TINY["gemma3"])
    config = theirs.config.to_dict()
    state = {f"language_model.{k}": v.contiguous() for k, v in theirs.state_dict().items()}
    del state["language_model.lm_head.weight"]
    folder = make_folder(state | {"vision_tower.a.weight": torch.zeros(1)})
    short = {k: v for k, v in config.items() if k not in ("rms_norm_eps", "tie_word_embeddings")}
    whole = {"model_type": "gemma3", "text_config": short, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(whole))
    ours = load_model(convert(folder, tmp_path / "tiny.gguf", "F32"))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        want = theirs(ids, use_cache=False).logits
        assert (ours(ids) - want).abs().max().item() <= TOLERANCE


def test_tensors_without_a_place_are_refused(make_folder: Any) -> None:
    folder = open_folder(make_folder({"model.layers.0.strange.weight": torch.zeros(2, 2)}))
    with pytest.raises(FolderError, match=r"'model.layers.0.strange.weight' has no place in llama"):
        folder_tensors(folder)
    ints = {"model.embed_tokens.weight": torch.zeros(2, 2, dtype=torch.int8)}
    with pytest.raises(FolderError, match="is I8; only F32, F16, BF16 are converted"):
        folder_tensors(open_folder(make_folder(ints)))


def test_memory_stays_bounded(
    tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix of 128 MiB becomes Q8_0 with a few chunks of float32, here of 4 MiB, in memory."""
    monkeypatch.setattr(lazy_tensor, "CHUNK_ELEMENTS", 1 << 20)
    rows, k = 16384, 4096
    big = torch.zeros(rows, k, dtype=torch.float16)
    big[::100, 5] = 1.0
    folder = make_folder({"model.embed_tokens.weight": big}, vocab_size=rows, hidden_size=k)
    del big
    before, most = _anonymous_bytes(), 0

    def watch(elements: int) -> None:
        nonlocal most
        most = max(most, _anonymous_bytes() - before)

    model, wanted = open_model(folder), recipe("Q8_0")
    plans = plan(model.tensors, model.metadata, wanted)
    write_quantized(tmp_path / "big.gguf", model, plans, wanted, report=watch)
    assert most < 48 << 20  # float32 of all of it would be 256 MiB, its blocks 68 MiB
    data = gguf.GGUFReader(tmp_path / "big.gguf").tensors[0]
    values = gguf.quants.dequantize(data.data[:200], data.tensor_type)
    assert np.flatnonzero(values.sum(1)).tolist() == [0, 100]


def _anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")
