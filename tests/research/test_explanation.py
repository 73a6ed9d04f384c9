"""What `explain` says, against what is known by construction or by another road."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from tiny_models import TINY, build, write_gguf

import rocmforge_torch as rf
from rocmforge_torch import GGUFTensor, extension
from rocmforge_torch.nn import QuantLinear
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.research.arithmetic import EXACT, INT8, arithmetic

ops = torch.ops.rocmforge


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> rf.models.CausalLM:
    """Matrices of layer 0 in Q8_0, those of the others in float32."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    plain = write_gguf(TINY["qwen3"], build(TINY["qwen3"]), path.with_name("plain.gguf"))
    file = rf.load_gguf(plain)
    q8_0 = quant_type("Q8_0").id

    def changed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.startswith("blk.0.") or tensor.dim() < 2 or tensor.shape[1] % 32:
            return tensor
        return GGUFTensor(ops.quantize(tensor, q8_0), q8_0)

    tensors = [(name, changed(name, tensor)) for name, tensor in file.tensors.items()]
    rf.gguf.write_gguf(path, rf.gguf.typed_metadata(file), tensors)
    return rf.load_model(path)


def test_every_op_of_the_model_is_there(tiny: rf.models.CausalLM) -> None:
    uses = rf.explain(tiny, rows=(1, 3)).uses
    found = {(use.module, use.op): use for use in uses}
    assert len(found) == len(uses)
    for i in range(3):
        kind = "Q8_0" if i == 0 else "F32"
        assert found[f"layers.{i}.attn.out", "quant_matmul"].weight == kind
        assert found[f"layers.{i}.attn.out", "quant_matmul"].shape == (64, 128)
        assert found[f"layers.{i}.mlp.gate_up.0", "quant_matmul_gated"].weight == kind
        assert found[f"layers.{i}.attn", "rope_kv_cache_write_"].weight == ""
        assert found[f"layers.{i}.attn.core", "attention"].dtype == "float32"
    assert found["output", "quant_matmul"].shape == (96, 64)
    assert found["token_embd", "quant_embedding"].layout == "file"
    assert found["", "add_rms_norm"].module == ""
    instructions = extension.cpu_instruction_set()
    assert {use.kernel for use in uses} == {f"native ({instructions})"}
    assert {use.device for use in uses} == {"cpu"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


def test_as_data_and_as_a_table(tiny: rf.models.CausalLM) -> None:
    explanation = rf.explain(tiny, rows=(1, 2))
    data = json.loads(json.dumps(explanation.as_dicts()))
    assert [entry["module"] for entry in data] == [use.module for use in explanation.uses]
    lines = str(explanation).splitlines()
    assert lines[0].split()[:3] == ["Module", "Op", "Weight"]
    assert any(line.startswith("layers.1-2.attn.out ") and "F32 64x128" in line for line in lines)
    assert any(line.startswith("layers.0.attn.out ") and "Q8_0" in line for line in lines)
    assert len(lines) < len(explanation.uses)


def test_the_model_computes_as_before(tiny: rf.models.CausalLM) -> None:
    ids = torch.arange(7)[None]
    before = tiny(ids)
    rf.explain(tiny)
    assert torch.equal(tiny(ids), before)
    assert not rf.config.exact


def rounds(linear: QuantLinear, rows: int) -> bool:
    """The other road: how far a product is from float64, where 8 bits show."""
    torch.manual_seed(rows)
    x = torch.randn(rows, linear.in_features)
    want = x.double() @ linear.weight.dequantize().double().T
    error = (linear(x) - want).square().mean() / want.square().mean()
    return bool(error > 1e-8)  # float32 has 1e-14, 8 bits 1e-5


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ3_S", "F32", "BF16"])
@pytest.mark.parametrize("size", [(8, 256), (512, 512)])
def test_arithmetic_shows_in_the_error(name: str, rows: int, size: tuple[int, int]) -> None:
    kind = gguf.GGMLQuantizationType[name]
    if name == "IQ3_S":  # gguf-py cannot quantize to it: random blocks with scales of about 1
        rng = np.random.default_rng(0)
        blocks = rng.integers(0, 256, (size[0], size[1] // 256, 110), dtype=np.uint8)
        blocks[..., :2] = np.array([1.0], np.float16).view(np.uint8)
        qweight = torch.from_numpy(blocks.reshape(size[0], -1))
    else:
        values = torch.randn(size, generator=torch.Generator().manual_seed(1))
        qweight = ops.quantize(values, int(kind))
    linear = QuantLinear(qweight, int(kind))
    want = INT8 if rounds(linear, rows) else EXACT
    assert arithmetic(linear, rows, torch.float32) == want
    # What the library says it takes, by the same road; docs/cpu_kernels.md gives the rows.
    kernel = extension.product_kernel("cpu", int(kind), rows, *size)
    exact = "double_product" if size == (8, 256) else "float_product"
    assert kernel == (exact if want == EXACT else "dot" if rows <= 2 else "panel_product")


@pytest.mark.usefixtures("exact")
def test_exact(tiny: rf.models.CausalLM) -> None:
    uses = rf.explain(tiny, rows=(1, 40)).uses
    products = [use for use in uses if use.arithmetic]
    assert {kind for use in products for kind in use.arithmetic.values()} == {EXACT}
    assert all(use.why.endswith("config.exact") for use in products)
    kernels = {kernel for use in products for kernel in use.products.values()}
    assert kernels == {"float_product", "double_product"}
    assert rf.config.exact


def test_zeros_are_no_riddle() -> None:
    linear = QuantLinear(torch.zeros(512, 544, dtype=torch.uint8), quant_type("Q8_0").id)
    assert arithmetic(linear, 4, torch.float32) == EXACT


def test_an_op_without_a_kernel(tiny: rf.models.CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: "rms" not in op
    )
    found = {use.op: (use.kernel, use.why) for use in rf.explain(tiny, rows=(1,)).uses}
    assert found["rms_norm"] == ("reference", "not in the CPU library")
    assert found["attention"][1] == "CPU library"


def test_products_name_the_kernel_for_each_number_of_rows(tiny: rf.models.CausalLM) -> None:
    explanation = rf.explain(tiny, rows=(1, 2, 64))
    found = {(use.module, use.op): use for use in explanation.uses}
    # [256, 64] of Q8_0: 2 rows are 2^15 products, 64 are 2^20.
    gate_up = found["layers.0.mlp.gate_up.0", "quant_matmul_gated"]
    assert gate_up.products == {1: "double_product", 2: "double_product", 64: "panel_product"}
    assert found["token_embd", "quant_embedding"].products == {}
    assert found["layers.0.attn", "rope_kv_cache_write_"].products == {}
    table = str(explanation)
    assert "1-2: double_product (float); 64: panel_product (8-bit activations)" in table


def test_without_a_library_no_kernel_is_named(
    tiny: rf.models.CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: "matmul" not in op
    )
    uses = {use.op: use for use in rf.explain(tiny, rows=(1,)).uses}
    assert uses["quant_matmul"].kernel == "reference"
    assert uses["quant_matmul"].products == {}
    assert uses["quant_matmul"].arithmetic.keys() == {1}


def test_no_library_says_nothing() -> None:
    if "gpu" not in extension.loaded():
        assert extension.product_kernel("cuda", 8, 1, 64, 64) == ""
    assert extension.product_kernel("cpu", 999, 1, 64, 64) == ""


@pytest.mark.parametrize("rows", [0, 129])
def test_refusals(tiny: rf.models.CausalLM, rows: int) -> None:
    with pytest.raises(ValueError, match=f"rows must be from 1 to the context of 128, got {rows}"):
        rf.explain(tiny, rows=(rows,))
