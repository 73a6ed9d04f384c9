"""LoRA on GGUF weights, against peft on the same model with plain float weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners import lora
from torch import Tensor, nn

from rocmforge_torch import GGUFTensor
from rocmforge_torch.integrations.peft import (
    GGUFLoraEmbedding,
    GGUFLoraLinear,
    gguf_lora_config,
)
from rocmforge_torch.quant_types import quant_type

VOCAB, HIDDEN, RANK = 64, 256, 4
LINEAR = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[5, 17, 3, 60, 22, 9, 31], [1, 2, 3, 4, 50, 60, 7]])


def quantized(values: Tensor, kind: str, dtype: torch.dtype) -> GGUFTensor:
    blocks = gguf.quantize(values.numpy(), gguf.GGMLQuantizationType[kind])
    return GGUFTensor(torch.from_numpy(blocks), quant_type(kind).id, dtype)


def base_model(
    kind: str = "Q8_0", dtype: torch.dtype = torch.float32, **options: object
) -> nn.Module:
    """A small Llama whose matrices are of a GGML type."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    state = {
        name: quantized(tensor, kind, dtype) if tensor.dim() == 2 else tensor.to(dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.requires_grad_(False)


def plain(model: nn.Module) -> nn.Module:
    """A copy whose weights are ordinary float32 tensors of the same numbers."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            values = weight.dequantize() if isinstance(weight, GGUFTensor) else weight
            setattr(module, name, nn.Parameter(values.float(), requires_grad=False))
    return model


def randomise(model: nn.Module) -> None:
    """Give both matrices of every adapter random numbers, the same for every model of a kind."""
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)


def adapted(model: nn.Module, config: LoraConfig) -> PeftModel:
    found = get_peft_model(model, config)
    randomise(found)
    return found


def step(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of a step."""
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_plain_weights(checkpointing: bool) -> None:
    config = LoraConfig(r=RANK, target_modules=[*LINEAR, "embed_tokens"])
    base = base_model()
    ours = adapted(base, gguf_lora_config(config))
    expected = adapted(plain(base_model()), config)
    if checkpointing:
        prepare_model_for_kbit_training(ours)
        ours.train()
        ours.base_model.model.activation_checkpointing_enable()
        for name, weight in ours.named_parameters():
            weight.requires_grad_("lora_" in name)
    loss, gradients = step(ours)
    expected_loss, expected_gradients = step(expected)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert set(gradients) == set(expected_gradients)
    assert len(gradients) == 2 * (2 * len(LINEAR) + 1)
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * scale, msg=name
        )


def test_a_base_of_bfloat16_trains_adapters_of_float32() -> None:
    config = gguf_lora_config(LoraConfig(r=RANK, target_modules=LINEAR))
    model = adapted(base_model(dtype=torch.bfloat16), config)
    out = model(input_ids=IDS, labels=IDS)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    assert {p.dtype for p in adapters} == {p.grad.dtype for p in adapters} == {torch.float32}


def test_peft_may_prepare_the_model() -> None:
    base = base_model(dtype=torch.bfloat16)
    blocks = base.lm_head.weight.qweight.clone()
    prepared = prepare_model_for_kbit_training(base)
    assert prepared.lm_head.weight.qweight.equal(blocks)
    assert {p.dtype for p in prepared.parameters()} == {torch.float32}
    model = adapted(prepared, gguf_lora_config(LoraConfig(r=RANK, target_modules=LINEAR)))
    loss, gradients = step(model)
    assert loss.isfinite()
    assert len(gradients) == 2 * 2 * len(LINEAR)


def test_trainer_of_transformers(tmp_path: Path) -> None:
    model = get_peft_model(
        base_model(),
        gguf_lora_config(LoraConfig(r=RANK, target_modules=LINEAR, task_type="CAUSAL_LM")),
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        activation_checkpointing=True,
    )
    data = [{"input_ids": ids, "labels": ids} for ids in IDS]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < float(losses[0]) - 0.3
    assert (tmp_path / "checkpoint-6" / "adapter_model.safetensors").is_file()


# The largest step between a number and its stored value, as a share of its block's largest.
ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "Q8_0": lambda largest: largest * (1 / 254 + 2**-11),  # half a step; the scale is a float16
    "F16": lambda largest: largest * 2**-11 + 2**-25,
    "F32": lambda largest: largest * 2**-23,
}


@pytest.mark.parametrize(("merge_type", "stored"), [(None, "Q8_0"), ("F16", "F16"), ("F32", "F32")])
@pytest.mark.parametrize("safe", [False, True])
def test_merge_is_the_float64_sum_rounded_once(
    merge_type: str | None, stored: str, safe: bool
) -> None:
    base = base_model()
    config = gguf_lora_config(LoraConfig(r=RANK, target_modules=LINEAR, lora_alpha=8), merge_type)
    model = adapted(base, config)
    model.add_adapter("second", config)
    randomise(model)
    layer = base.model.layers[1].mlp.down_proj
    first = layer.base_layer.weight
    exact = first.dequantize().double()
    sizes = exact.abs()
    for name in ("default", "second"):
        b, a = (matrix[name].weight.detach().double() for matrix in (layer.lora_B, layer.lora_A))
        exact = exact + 8 / RANK * b @ a
        sizes = sizes + 8 / RANK * b.abs() @ a.abs()
    model.merge_adapter(["default"], safe_merge=safe)
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"], safe_merge=safe)
    merged = layer.base_layer.weight
    assert isinstance(merged, GGUFTensor)
    assert quant_type(merged.qtype).name == stored
    size = max(quant_type(stored).block_size, 1)
    largest = exact.abs().unflatten(1, (-1, size)).amax(-1, keepdim=True)
    bound = ROUNDING[stored](largest).expand(-1, -1, size).flatten(1)
    in_float = (RANK + 3) * 2**-23 * sizes  # the sum that is rounded, of that many terms
    assert ((merged.dequantize().double() - exact).abs() <= bound + in_float).all()

    model.unmerge_adapter()
    assert layer.base_layer.weight.qweight.equal(first.qweight)
    assert layer.base_layer.weight.qtype == first.qtype
    assert not layer.merged


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("tied", [False, True])
def test_merge_and_unload_gives_the_stock_model_back(tied: bool) -> None:
    base = base_model(tie_word_embeddings=tied)
    targets = LINEAR if tied else [*LINEAR, "embed_tokens"]
    model = adapted(base, gguf_lora_config(LoraConfig(r=RANK, target_modules=targets), "F32"))
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        merged = model.merge_and_unload()
        found = merged(input_ids=IDS).logits
    assert type(merged) is transformers.LlamaForCausalLM
    assert type(merged.model.layers[0].self_attn.q_proj) is nn.Linear
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight or not tied
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("exact")
def test_adapters_are_saved_and_loaded(tmp_path: Path) -> None:
    config = LoraConfig(r=RANK, target_modules=LINEAR)
    model = adapted(base_model(), gguf_lora_config(config))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        saved = gguf_lora_config(LoraConfig.from_pretrained(tmp_path))
        again = PeftModel.from_pretrained(base_model(), tmp_path, config=saved)
        assert again(input_ids=IDS).logits.equal(expected)
        again.merge_and_unload()
        # The adapter is an ordinary one: it fits the plain model, without this package.
        other = PeftModel.from_pretrained(plain(base_model()), tmp_path)
        torch.testing.assert_close(other(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_modules_get_the_layer_that_their_weight_needs() -> None:
    config = LoraConfig(r=RANK, target_modules=[*LINEAR, "embed_tokens"])
    ours = gguf_lora_config(config)
    assert config._custom_modules is None  # a copy was changed, and nothing of peft
    model = base_model()
    layer = model.model.layers[0].mlp
    layer.down_proj = nn.Linear(512, HIDDEN)
    get_peft_model(model, ours)
    assert type(layer.down_proj) is lora.Linear
    assert type(model.model.layers[1].mlp.down_proj) is GGUFLoraLinear
    assert type(model.model.embed_tokens) is GGUFLoraEmbedding
    assert peft.tuners.lora.Linear is lora.Linear


def test_types_without_a_quantizer_need_a_merge_type() -> None:
    model = base_model()
    random = np.random.default_rng(0).integers(0, 64, (HIDDEN, HIDDEN // 256 * 66), np.uint8)
    iq2 = GGUFTensor(torch.from_numpy(random), quant_type("IQ2_XXS").id)
    model.model.layers[0].self_attn.q_proj.weight = nn.Parameter(iq2, requires_grad=False)
    config = LoraConfig(r=RANK, target_modules=["q_proj"])
    kept = adapted(copy.deepcopy(model), gguf_lora_config(config))
    with pytest.raises(ValueError, match=r"merge_type must be a type with a quantizer.*IQ2_XXS"):
        kept.merge_adapter()
    adapted(model, gguf_lora_config(config, "Q8_0")).merge_and_unload()
    assert quant_type(model.model.layers[0].self_attn.q_proj.weight.qtype).name == "Q8_0"


def test_safe_merge_refuses_what_is_not_finite() -> None:
    model = adapted(base_model(), gguf_lora_config(LoraConfig(r=RANK, target_modules=["q_proj"])))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.lora_A["default"].weight.data[0, 0] = float("nan")
    before = layer.base_layer.weight
    with pytest.raises(ValueError, match=r"adapters \['default'\] is not finite"):
        model.merge_adapter(safe_merge=True)
    assert layer.base_layer.weight is before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be one of .* got 'pissa'"),
        ({"lora_bias": True}, "lora_bias must be off"),
        ({"use_dora": True}, "use_dora must be off"),
    ],
)
def test_other_kinds_of_lora_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        gguf_lora_config(LoraConfig(target_modules=LINEAR, **options))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="got IQ1_S"):
        gguf_lora_config(LoraConfig(), "IQ1_S")
    with pytest.raises(ValueError, match="unknown GGML type 'Q9'"):
        gguf_lora_config(LoraConfig(), "Q9")
    with pytest.raises(TypeError, match=r"config must be a peft\.LoraConfig, got dict"):
        gguf_lora_config({})
