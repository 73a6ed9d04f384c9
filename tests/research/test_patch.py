"""Heads and experts: where they lie, and files with others there, as gguf-py reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import TINY, build, write_gguf

import rocmforge_torch as rf
from rocmforge_torch import GGUFTensor
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.research import head_parts, part_of, patched, requantized, write_patched

ops = torch.ops.rocmforge
Q8_0, Q4_K = quant_type("Q8_0").id, quant_type("Q4_K").id
EVERYTHING = slice(None)


def quantized(*shape: int, qtype: int = Q8_0) -> GGUFTensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return GGUFTensor(ops.quantize(values, qtype), qtype)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama-biased", "gemma3", "phi3"])
@pytest.mark.usefixtures("exact")
def test_a_head_that_is_cut_out_is_silent(name: str, tmp_path: Path) -> None:
    path = write_gguf(TINY[name], build(TINY[name]), tmp_path / "a.gguf")
    model = rf.load_model(path)
    ids = torch.arange(9)[None]
    for layer, head in ((0, 3), (2, 0)):
        parts = head_parts(model.file, layer, head)
        out = f"blk.{layer}.attn_output.weight"
        changed = patched(model.file.tensors[out], parts[out], torch.zeros(()))
        write_patched(model.file, tmp_path / "b.gguf", {out: changed})

        def silence(module: Any, args: Any, output: torch.Tensor, head: int = head) -> Any:
            output = output.clone()
            output[:, :, head] = 0
            return output

        handle = model.layers[layer].attn.core.register_forward_hook(silence)
        want = model(ids)
        handle.remove()
        torch.testing.assert_close(
            rf.load_model(tmp_path / "b.gguf")(ids), want, rtol=1e-5, atol=1e-5
        )


def test_where_heads_lie(tmp_path: Path) -> None:
    path = write_gguf(TINY["llama-biased"], build(TINY["llama-biased"]), tmp_path / "a.gguf")
    parts = head_parts(rf.load_gguf(path), 1, 3)
    own, shared = slice(48, 64), slice(16, 32)  # head 3 of 4 with 16 numbers; 2 key heads
    assert parts == {
        "blk.1.attn_q.weight": (own, EVERYTHING),
        "blk.1.attn_q.bias": (own, EVERYTHING),
        "blk.1.attn_k.weight": (shared, EVERYTHING),
        "blk.1.attn_k.bias": (shared, EVERYTHING),
        "blk.1.attn_v.weight": (shared, EVERYTHING),
        "blk.1.attn_v.bias": (shared, EVERYTHING),
        "blk.1.attn_output.weight": (EVERYTHING, own),
    }
    for layer, head, complaint in ((3, 0, "layer must be from 0 to 2"), (0, 4, "head must be")):
        with pytest.raises(ValueError, match=complaint):
            head_parts(rf.load_gguf(path), layer, head)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((6, 96), (slice(2, 4), EVERYTHING)),
        ((6, 96), (EVERYTHING, slice(32, 96))),
        ((6, 96), (slice(1, 3), slice(0, 32))),
        ((5, 4, 64), 3),  # an expert
        ((5, 4, 64), (slice(1, 2), slice(32, 64))),
    ],
)
def test_only_the_part_changes(shape: tuple[int, ...], part: Any) -> None:
    tensor = quantized(*shape)
    before = gguf.quants.dequantize(tensor.qweight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    rows, columns = part if isinstance(part, tuple) else (part, EVERYTHING)
    index = (rows, Ellipsis, columns)
    assert np.array_equal(part_of(tensor, part).numpy(), before[index])

    values = torch.randn(before[index].shape)
    after = patched(tensor, part, values)
    assert np.array_equal(tensor.dequantize().numpy(), before)
    want = before.copy()
    stored = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0)
    want[index] = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0)
    got = gguf.quants.dequantize(after.qweight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(got, want)


def test_plain_tensors() -> None:
    tensor = torch.randn(6, 10)
    after = patched(tensor, (slice(1, 3), slice(3, 7)), torch.ones(2, 4))
    assert torch.equal(after[1:3, 3:7], torch.ones(2, 4))
    assert (after != tensor).sum() == 8


def test_a_part_with_fewer_bits() -> None:
    tensor, part = quantized(4, 512), (slice(1, 2), slice(256, 512))
    after = requantized(tensor, part, "Q4_K")
    rounded = ops.dequantize(ops.quantize(part_of(tensor, part), Q4_K), Q4_K, torch.float32)
    want = ops.dequantize(ops.quantize(rounded, Q8_0), Q8_0, torch.float32)
    assert torch.equal(part_of(after, part), want)
    assert (after.qweight != tensor.qweight).any(1).tolist() == [False, True, False, False]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns 16 to 64 \(step 1\) cut blocks of Q8_0"):
        patched(quantized(4, 64), (EVERYTHING, slice(16, 64)), torch.zeros(()))
    with pytest.raises(ValueError, match=r"the part's shape \[2, 64\], got \[3, 64\]"):
        patched(quantized(4, 64), (slice(0, 2), EVERYTHING), torch.zeros(3, 64))
    with pytest.raises(ValueError, match="no whole number of Q4_K's blocks of 256"):
        requantized(quantized(4, 64), (slice(0, 2), EVERYTHING), "Q4_K")
    no_quantizer = GGUFTensor(torch.zeros(2, 82, dtype=torch.uint8), quant_type("IQ2_S").id)
    with pytest.raises(ValueError, match="a tensor of IQ2_S takes no other numbers"):
        patched(no_quantizer, (slice(0, 1), EVERYTHING), torch.zeros(()))
    file = rf.load_gguf(write_gguf(TINY["llama"], build(TINY["llama"]), tmp_path / "a.gguf"))
    with pytest.raises(ValueError, match="the file has no tensor 'x'"):
        write_patched(file, tmp_path / "b.gguf", {"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"must keep its shape \[64\], got \[3\]"):
        write_patched(file, tmp_path / "b.gguf", {"output_norm.weight": torch.ones(3)})
