"""Models written with importance: each matrix's own, and llama.cpp's keys about it."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf import write_gguf
from rocmforge_torch.ops.reference import weighted_quantize
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.quantize import Importance, open_model, plan, recipe, write_quantized

Q4_0 = quant_type("Q4_0").id


def test_every_expert_has_its_own_importance(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    experts = torch.randn(3, 8, 64, generator=generator)
    matrix = torch.randn(8, 64, generator=generator)
    tensors = {
        "blk.0.ffn_down_exps.weight": experts,
        "blk.0.attn_q.weight": matrix,
        "blk.0.attn_k.weight": matrix,  # of which nothing is known
        "blk.0.attn_norm.weight": torch.ones(64),
    }
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    old = {"general.architecture": "llama", "quantize.imatrix.dataset": "an older one"}
    write_gguf(source, old, tensors.items())
    means = {
        "blk.0.ffn_down_exps.weight": torch.rand(3, 64, generator=generator) ** 4,
        "blk.0.attn_q.weight": torch.rand(1, 64, generator=generator) ** 4,
    }
    counts = {name: torch.ones(len(rows)) for name, rows in means.items()}
    importance = Importance(means, counts, chunks=5, path="imatrix.gguf")
    model, wanted = open_model(source), recipe("Q4_0", pure=True)
    plans = plan(model.tensors, model.metadata, wanted, imatrix=True)
    done: list[int] = []
    write_quantized(target, model, plans, wanted, importance, done.append)

    got = load_gguf(target)
    expected = [
        weighted_quantize(experts[i], Q4_0, means["blk.0.ffn_down_exps.weight"][i])
        for i in range(3)
    ]
    found = got.tensors["blk.0.ffn_down_exps.weight"]
    assert torch.equal(found.qweight, torch.stack(expected))
    weighed = weighted_quantize(matrix, Q4_0, means["blk.0.attn_q.weight"])
    assert torch.equal(got.tensors["blk.0.attn_q.weight"].qweight, weighed)
    plain = torch.ops.rocmforge.quantize(matrix, Q4_0)
    assert torch.equal(got.tensors["blk.0.attn_k.weight"].qweight, plain)
    assert sum(done) == sum(tensor.numel() for tensor in tensors.values())

    fields = gguf.GGUFReader(target).fields
    assert fields["quantize.imatrix.file"].contents() == "imatrix.gguf"
    assert fields["quantize.imatrix.entries_count"].contents() == 2
    assert fields["quantize.imatrix.chunks_count"].contents() == 5
    assert "quantize.imatrix.dataset" not in fields
