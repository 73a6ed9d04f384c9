"""What people plug in, on a GPU: GGUFTensor, transformers, LoRA, compiling, explain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

import rocmforge_torch as rf
from benchmarks.synthetic import PRESETS, write_model
from benchmarks.transformers_decode import theirs
from rocmforge_torch import GGUFTensor, load_model
from rocmforge_torch.integrations.peft import gguf_lora_config
from rocmforge_torch.integrations.transformers import from_gguf
from rocmforge_torch.quant_types import quant_type
from tests.gpu.kernel_names import tile_kernel
from tests.tensor.quantized import quantized

pytestmark = pytest.mark.gpu
IDS = (7919 * torch.arange(48)[None]) % 1900 + 5
EXACT = 2e-3  # of a log-probability, as in test_models.py
KINDS = ("Q4_0", "Q4_K", "Q6_K", "IQ4_NL")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("integrations") / "model.gguf"
    return write_model(file, PRESETS["llama-small"], "Q4_0")


def weight_of(kind: str, rows: int = 384, cols: int = 512) -> GGUFTensor:
    if kind == "IQ4_NL":
        return quantized(kind)
    values = torch.randn(rows, cols)
    return GGUFTensor(
        torch.ops.rocmforge.quantize(values, quant_type(kind).id), quant_type(kind).id
    )


def log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).cpu()


@pytest.mark.usefixtures("exact")
@torch.inference_mode()
def test_transformers_gives_what_our_decoder_does_on_the_cpu(path: Path) -> None:
    model = from_gguf(path, "cuda", torch.float32)
    assert isinstance(model.model.layers[0].self_attn.q_proj.weight, GGUFTensor)
    assert model.model.layers[0].self_attn.q_proj.weight.device.type == "cuda"
    got = log_probabilities(model(IDS.cuda(), use_cache=False).logits)
    want = log_probabilities(load_model(path, dtype=torch.float32)(IDS))
    assert (got - want).abs().max() <= EXACT


def test_a_captured_step_of_transformers_writes_the_same(path: Path) -> None:
    _, eager = theirs(str(path), "cuda", 80, "eager")(40)
    _, captured = theirs(str(path), "cuda", 80, "captured")(40)
    assert captured == eager
    assert len(set(eager)) > 5, "a text that repeats itself would hide a graph that does"


@pytest.mark.parametrize("rows", [1, 5, 40, 3000])
@pytest.mark.parametrize("kind", KINDS)
def test_products(kind: str, rows: int) -> None:
    weight = weight_of(kind)
    x = torch.randn(rows, weight.shape[1], dtype=torch.float16, device="cuda")
    got = functional.linear(x, weight.to("cuda", torch.float16))
    want = x.double() @ weight.dequantize().double().cuda().T
    assert got.dtype == torch.float16
    assert (got.double() - want).square().mean() <= 1e-4 * want.square().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_modules_give_the_same_bits(kind: str) -> None:
    weight = weight_of(kind).to("cuda", torch.bfloat16)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for rows in (1, 40):
        x = torch.randn(rows, weight.shape[1], dtype=torch.bfloat16, device="cuda")
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.usefixtures("exact")
def test_a_step_of_lora_has_the_gradients_of_the_dequantized_model(path: Path) -> None:
    def gradients(device: str) -> dict[str, Tensor]:
        base = from_gguf(path, device, torch.float32)
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
        model = get_peft_model(base, gguf_lora_config(config))
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # B is zero at first, and with it A's gradients
                seeded = torch.Generator().manual_seed(len(name))
                size = 0.02 if "lora_B" in name else 0.05
                parameter.data.copy_(size * torch.randn(parameter.shape, generator=seeded))
        ids = IDS.to(device)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return {
            name: parameter.grad.cpu()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    got, want = gradients("cuda"), gradients("cpu")
    assert got.keys() == want.keys()
    assert len(want) == 4 * PRESETS["llama-small"].layers
    for name, gradient in want.items():
        assert gradient.abs().max() > 0
        error = (got[name] - gradient).norm() / gradient.norm()
        assert error <= 1e-3, name


def test_explain_names_the_kernels(path: Path) -> None:
    uses = rf.explain(load_model(path, "cuda"), rows=(1, 8, 64)).uses
    assert {use.device for use in uses} == {"cuda:0"}
    assert not [use.op for use in uses if use.kernel == "reference"]
    launches = {
        rows: kernels
        for use in uses
        if use.module == "layers.1.attn.out" and use.op == "quant_matmul"
        for rows, kernels in use.launches.items()
    }
    for rows, kernel in ((1, "matvec_kernel"), (8, "multirow_kernel"), (64, tile_kernel())):
        assert any(kernel in name for name in launches[rows]), launches
