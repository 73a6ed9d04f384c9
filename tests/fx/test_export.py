"""torch.export: programs with quantized weights are saved, loaded and run."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_decoders import ARCHITECTURES, decoder, ids
from tiny_models import CONTEXT, TINY
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rocmforge_torch import GGUFTensor
from rocmforge_torch.fx import optimize
from rocmforge_torch.models import CausalLM
from rocmforge_torch.models.export import DecoderProgram

ops = torch.ops.rocmforge
Q4_0, Q8_0 = 2, 8
STRICT = pytest.mark.parametrize("strict", [False, True])
MODELS = [(name, False) for name in TINY] + [(name, True) for name in ARCHITECTURES.values()]


def saved_and_loaded(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@torch.no_grad()
@pytest.mark.parametrize(("name", "strict"), MODELS)
def test_models(name: str, strict: bool) -> None:
    model = decoder(name)
    # Beyond its original context longrope has other frequencies, which is another program.
    longest = 32 if name == "phi3-longrope" else CONTEXT
    shapes = {"input_ids": {0: Dim("batch", max=64), 1: Dim("tokens", max=longest)}}
    program = torch.export.export(model, (ids(3, 11),), dynamic_shapes=shapes, strict=strict)
    loaded = saved_and_loaded(program)
    state = model.state_dict()
    assert {n for n in loaded.state_dict if "qweight" in n} == {n for n in state if "qweight" in n}
    assert all(torch.equal(loaded.state_dict[n], state[n]) for n in state)
    module = loaded.module()
    for batch, length in ((3, 11), (2, 5), (5, 32)):
        tokens = ids(batch, length)
        assert torch.equal(module(tokens), model(tokens))


class Decoding(nn.Module):
    """The program that `rocmforge export` writes, with its cache in buffers instead of inputs."""

    def __init__(self, model: CausalLM, batch: int, room: int) -> None:
        super().__init__()
        self.program, self.layers = DecoderProgram(model, room), len(model.layers)
        cache = model.new_cache(batch, room, torch.float32)
        self.register_buffer("lengths", cache.lengths)
        for name in "kv":
            for i, tensor in enumerate(getattr(cache, name)):
                self.register_buffer(f"{name}_{i}", tensor)

    def forward(self, input_ids: Tensor) -> Tensor:
        k, v = ([getattr(self, f"{name}_{i}") for i in range(self.layers)] for name in "kv")
        return self.program(input_ids, self.lengths, k, v)


@torch.no_grad()
@STRICT
def test_decoding_with_a_cache(strict: bool) -> None:
    model = decoder("qwen2", layers=2)
    decoding, cache = Decoding(model, 2, 16), model.new_cache(2, 16, torch.float32)
    tokens = ids(2, 8)
    program = torch.export.export(decoding, (tokens[:, :1],), strict=strict)
    assert decoding.lengths.tolist() == [0, 0]
    module = saved_and_loaded(program).module()
    for t in range(8):
        got, want = module(tokens[:, t : t + 1]), model(tokens[:, t : t + 1], cache)
        assert torch.equal(got, want[:, -1])
    state = dict(module.named_buffers())
    assert state["lengths"].tolist() == [8, 8]
    assert torch.equal(state["k_1"][:, :8], cache.k[1][:, :8])


class Ordinary(nn.Module):
    """PyTorch's own layers, with weights from a GGUF file."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(32, 64), nn.Linear(64, 48)
        for layer, qtype in ((self.embedding, Q8_0), (self.linear, Q4_0)):
            blocks = GGUFTensor(ops.quantize(layer.weight.detach(), qtype), qtype)
            layer.weight = nn.Parameter(blocks, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embedding(x))


@torch.no_grad()
@STRICT
def test_parameters_that_are_gguf_tensors(strict: bool) -> None:
    module, x = Ordinary(), torch.randint(32, (3, 5))
    program = torch.export.export(
        module, (x,), dynamic_shapes={"x": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}, strict=strict
    )
    loaded = saved_and_loaded(program)
    weight: Any = loaded.state_dict["linear.weight"]
    assert isinstance(weight, GGUFTensor)
    assert isinstance(weight, nn.Parameter)
    assert weight.qtype == Q4_0
    assert torch.equal(weight.qweight, module.linear.weight.qweight)  # type: ignore[attr-defined]
    x = torch.randint(32, (2, 9))
    assert torch.equal(loaded.module()(x), module(x))


def test_a_gguf_parameter_stays_one_when_saved() -> None:
    file = io.BytesIO()
    torch.save(Ordinary().state_dict(keep_vars=True), file)
    file.seek(0)
    state = torch.load(file)
    assert all(isinstance(state[n], nn.Parameter) for n in ("linear.weight", "embedding.weight"))
    assert type(state["linear.weight"]) is GGUFTensor
    assert not state["linear.weight"].requires_grad


@torch.no_grad()
def test_an_exported_program_is_optimised() -> None:
    model, tokens = decoder("llama"), ids(2, 4)
    module = saved_and_loaded(torch.export.export(model, (tokens,))).module()
    optimised = optimize(module, [tokens], level=2)
    assert torch.equal(optimised(tokens), model(tokens))
    names = [str(n.target) for n in optimised.graph.nodes]
    assert sum("quant_matmul" in n for n in names) < 8  # q, k, v, out, gate, up, down, logits


@torch.no_grad()
def test_another_process_runs_it(tmp_path: Path) -> None:
    model, tokens = decoder("starcoder2"), ids(2, 6)
    torch.export.save(torch.export.export(model, (tokens,)), tmp_path / "model.pt2")
    torch.save((tokens, model(tokens)), tmp_path / "io.pt")
    program = """
import torch, rocmforge_torch
tokens, want = torch.load("io.pt")
with torch.no_grad():
    assert torch.equal(torch.export.load("model.pt2").module()(tokens), want)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
