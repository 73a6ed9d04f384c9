"""`load_state_dict`: names, shapes and numbers of image models' files, against gguf-py and
diffusers' own loader."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import GGUFQuantizationConfig, LTXVideoTransformer3DModel
from diffusers.models.model_loading_utils import load_gguf_checkpoint
from diffusers.quantizers.gguf import utils as diffusers_gguf
from image_files import random_state, write_image_gguf
from torch import nn

from rocmforge_torch import GGUFError, GGUFTensor
from rocmforge_torch.gguf import load_state_dict

# A linear layer, a stack of them, 1 x 1 and 3 x 3 convolutions, a kernel of three dimensions, and a
# linear layer with rows of 320 elements, which a block of 256 does not divide.
SHAPES = {
    "blocks.0.qkv.weight": (96, 512),
    "blocks.0.qkv.bias": (96,),
    "experts.weight": (2, 32, 256),
    "proj_in.weight": (64, 256, 1, 1),
    "conv.weight": (32, 64, 3, 3),
    "conv.bias": (32,),
    "patch_embedding.weight": (64, 4, 1, 2, 2),
    "time_embed.weight": (64, 320),
    "mlp.weight": (8, 64),
    "pos_embed": (1, 7, 64),
}
KINDS = {
    "blocks.0.qkv.weight": "Q8_0",
    "blocks.0.qkv.bias": "BF16",
    "experts.weight": "Q4_0",
    "proj_in.weight": "folded Q5_1",
    "conv.weight": "folded Q8_0",
    "time_embed.weight": "folded TQ2_0",
    "mlp.weight": "folded Q4_1",
    "pos_embed": "F16",
}
QUANTIZED = {"blocks.0.qkv.weight", "experts.weight", "mlp.weight"}
# The types of gguf-py's quantizer and of blocks of random bytes that diffusers reads.
DIFFUSERS_TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_image_gguf(tmp_path / "image.gguf", random_state(SHAPES), KINDS)


def stored(name: str) -> np.ndarray:
    """What gguf-py reads back of a tensor, in the shape of the checkpoint."""
    kind = gguf.GGMLQuantizationType[KINDS.get(name, "F32").rpartition(" ")[2]]
    values = random_state(SHAPES)[name]
    rows = values.reshape(-1, 256) if KINDS.get(name, "").startswith("folded") else values
    return gguf.dequantize(gguf.quantize(rows, kind), kind).reshape(values.shape)


def test_shapes_and_numbers_of_the_checkpoint(path: Path) -> None:
    state = load_state_dict(path)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SHAPES
    assert {name for name, tensor in state.items() if isinstance(tensor, GGUFTensor)} == QUANTIZED
    for name, tensor in state.items():
        values = tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor
        np.testing.assert_array_equal(values.float().numpy(), stored(name))


def test_dtype_is_of_all_of_them(path: Path) -> None:
    state = load_state_dict(path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    expected = torch.from_numpy(stored("conv.weight")).bfloat16()
    assert state["conv.weight"].equal(expected)


def test_prefix(tmp_path: Path) -> None:
    shapes = {"model.diffusion_model.a.weight": (4, 32), "first_stage_model.b.weight": (4, 32)}
    path = write_image_gguf(tmp_path / "all.gguf", random_state(shapes), {})
    assert set(load_state_dict(path, prefix="model.diffusion_model.")) == {"a.weight"}
    with pytest.raises(ValueError, match=r"prefix must begin .* got 'net\.'.*first_stage_mo"):
        load_state_dict(path, prefix="net.")


def test_lost_dimensions_of_size_one_come_back(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1, 7, 64))
            self.proj = nn.Conv2d(64, 64, 1, bias=False)
            self.linear = nn.Linear(64, 32, bias=False)

    values = random_state(
        {"pos_embed": (7, 64), "proj.weight": (64, 64), "linear.weight": (32, 64)}
    )
    kinds = {"proj.weight": "Q8_0", "linear.weight": "Q8_0"}
    path = write_image_gguf(tmp_path / "sd3.gguf", values, kinds, "sd3")
    with torch.device("meta"):
        model = Model()
    model.load_state_dict(load_state_dict(path, like=model), assign=True)
    np.testing.assert_array_equal(model.pos_embed[0].detach().numpy(), values["pos_embed"])
    assert isinstance(model.linear.weight, GGUFTensor)
    x = torch.randn(1, 64, 5, 5, generator=torch.Generator().manual_seed(0))
    matrix = torch.from_numpy(
        gguf.dequantize(
            gguf.quantize(values["proj.weight"], gguf.GGMLQuantizationType.Q8_0),
            gguf.GGMLQuantizationType.Q8_0,
        )
    )
    torch.testing.assert_close(model.proj(x), torch.einsum("oi,bihw->bohw", matrix, x))


@pytest.mark.parametrize(
    ("shape", "problem"),
    [([7, 64], "does not hold 512 elements"), ([-8, -64], "does not hold"), ([8.0, 64.0], "integ")],
)
def test_a_wrong_shape_is_refused(tmp_path: Path, shape: list[float], problem: str) -> None:
    path = tmp_path / "bad.gguf"
    writer = gguf.GGUFWriter(path, "sdxl")
    writer.add_array("comfy.gguf.orig_shape.w", shape)
    writer.add_tensor("w", np.zeros((2, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=problem):
        load_state_dict(path)


@pytest.mark.parametrize("kind", DIFFUSERS_TYPES)
def test_numbers_are_those_of_diffusers(tmp_path: Path, kind: str) -> None:
    qtype = gguf.GGMLQuantizationType[kind]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (24, 512 // block_size * block_bytes), np.uint8)
    # Any bytes are a block, but a scale must be no NaN or infinity: exponents below 16.
    halves = blocks.reshape(-1, block_bytes).view(np.uint8)
    halves[:, 1::2] &= 0xBF
    path = tmp_path / "random.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_tensor("w", blocks, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours = load_state_dict(path)["w"]
    theirs = load_gguf_checkpoint(path)["w"].as_tensor().view(-1, block_bytes)
    decode = diffusers_gguf.dequantize_functions[qtype]
    expected = decode(theirs, block_size, block_bytes, dtype=torch.float32).reshape(24, 512)
    assert isinstance(ours, GGUFTensor)
    assert tuple(ours.shape) == (24, 512)
    assert ours.dequantize().equal(expected)


@pytest.mark.usefixtures("exact")
def test_models_of_diffusers_load_it(tmp_path: Path) -> None:
    """Through `from_single_file`, which knows the names; against diffusers' own GGUF layers."""
    options = {
        "in_channels": 32,
        "out_channels": 32,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "caption_channels": 64,
        "num_layers": 2,
    }
    torch.manual_seed(0)
    state = {
        key.replace("proj_in", "patchify_proj")
        .replace("time_embed", "adaln_single")
        .replace("norm_q", "q_norm")
        .replace("norm_k", "k_norm"): value.numpy()
        for key, value in LTXVideoTransformer3DModel(**options).state_dict().items()
    }
    kinds = {key: "Q8_0" for key, v in state.items() if v.ndim == 2 and ".weight" in key}
    path = write_image_gguf(tmp_path / "ltx.gguf", state, kinds, "ltxv")
    (tmp_path / "config.json").write_text(json.dumps(options))

    ours = LTXVideoTransformer3DModel.from_single_file(
        load_state_dict(path, dtype=torch.float32), config=str(tmp_path)
    )
    assert isinstance(ours.transformer_blocks[0].ff.net[2].weight, GGUFTensor)
    theirs = LTXVideoTransformer3DModel.from_single_file(
        str(path),
        config=str(tmp_path),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    inputs = {
        "hidden_states": torch.randn(1, 24, 32),
        "encoder_hidden_states": torch.randn(1, 8, 64),
        "encoder_attention_mask": None,
        "timestep": torch.tensor([500]),
        "num_frames": 2,
        "height": 3,
        "width": 4,
    }
    with torch.no_grad():
        found, expected = ours(**inputs).sample, theirs(**inputs).sample
    # Theirs rounds every weight to float16, independently of each other.
    assert (found - expected).norm() < 2**-11 * expected.norm()
