"""An image model's transformer on GGUF weights: plain nn.Linear modules, thousands of rows, LoRA.

    python examples/image_transformer.py --tokens 1024 --hidden 512 --blocks 2

The blocks are those of Flux (single stream: attention and feed-forward side by side, modulated by
the time step), with the names of its checkpoint; the rotation of queries and keys is left out. The
file is written here, with random weights; load_state_dict reads a real one the same way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from rocmforge_torch import GGUFTensor
from rocmforge_torch.gguf import load_state_dict
from rocmforge_torch.quant_types import quant_type

HEAD_DIM, PATCH, RATIO = 64, 64, 4  # of a head; of a patch of the latent image; feed-forward


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale)


class QKNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = RMSNorm(dim), RMSNorm(dim)


class Modulation(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lin = nn.Linear(hidden, 3 * hidden)


class SingleStreamBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear1 = nn.Linear(hidden, (3 + RATIO) * hidden)
        self.linear2 = nn.Linear((1 + RATIO) * hidden, hidden)
        self.norm = QKNorm(HEAD_DIM)
        self.modulation = Modulation(hidden)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, T, hidden], condition [B, hidden] -> [B, T, hidden]."""
        shift, scale, gate = self.modulation.lin(F.silu(condition))[:, None].chunk(3, -1)
        normed = F.layer_norm(x, (self.hidden,)) * (1 + scale) + shift
        qkv, wide = self.linear1(normed).split([3 * self.hidden, RATIO * self.hidden], -1)
        q, k, v = (part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for part in qkv.chunk(3, -1))
        mixed = F.scaled_dot_product_attention(self.norm.query_norm(q), self.norm.key_norm(k), v)
        narrow = torch.cat([mixed.transpose(1, 2).flatten(2), F.gelu(wide, approximate="tanh")], -1)
        return x + gate * self.linear2(narrow)


class ImageTransformer(nn.Module):
    def __init__(self, hidden: int, blocks: int) -> None:
        super().__init__()
        self.img_in = nn.Linear(PATCH, hidden)
        self.single_blocks = nn.ModuleList(SingleStreamBlock(hidden) for _ in range(blocks))
        self.final = nn.Linear(hidden, PATCH)

    def forward(self, patches: Tensor, condition: Tensor) -> Tensor:
        """patches [B, T, PATCH], condition [B, hidden] -> [B, T, PATCH]."""
        x = self.img_in(patches)
        for block in self.single_blocks:
            x = block(x, condition)
        return self.final(F.layer_norm(x, x.shape[-1:]))


def write_file(path: Path, model: nn.Module, qtype: str) -> None:
    """What a converter does: matrices of whole blocks quantized, the rest as it is."""
    kind = quant_type(qtype)
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 2 and tensor.shape[1] % kind.block_size == 0 and "blocks" in name:
            blocks = torch.ops.rocmforge.quantize(tensor, kind.id)
            writer.add_tensor(name, blocks.numpy(), raw_dtype=gguf.GGMLQuantizationType(kind.id))
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_model(path: Path, hidden: int, blocks: int) -> ImageTransformer:
    """The model with its quantized weights in the mapped file."""
    with torch.device("meta"):
        model = ImageTransformer(hidden, blocks)
    model.load_state_dict(load_state_dict(path), assign=True)
    return model.requires_grad_(False)


def reference(model: nn.Module) -> nn.Module:
    """The same model with ordinary float64 weights."""
    values = {
        name: (t.dequantize(torch.float32) if isinstance(t, GGUFTensor) else t).double()
        for name, t in model.state_dict().items()
    }
    hidden, blocks = model.img_in.out_features, len(model.single_blocks)
    with torch.device("meta"):
        plain = ImageTransformer(hidden, blocks)
    if any(".lora_A." in name for name in values):
        add_lora(plain)
    plain.load_state_dict(values, assign=True)
    return plain.requires_grad_(False)


def add_lora(model: nn.Module, rank: int = 16) -> None:
    """LoRA beside the wide products, with random numbers in both of its matrices."""
    wide = ["linear1", "linear2"]
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=wide, init_lora_weights=False), model)
    model.requires_grad_(False)


def dequantize_each_pass(model: nn.Module, *inputs: Tensor) -> Tensor:
    """What loaders without a kernel do: unpack the weights anew for every pass."""
    values = {
        name: tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor
        for name, tensor in model.state_dict().items()
    }
    return torch.func.functional_call(model, values, inputs)


def seconds(run: Callable[[], Tensor]) -> float:
    run()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error over that of the expected values."""
    return float((found.double() - expected).norm() / expected.norm())


def main(tokens: int, hidden: int, blocks: int, qtype: str) -> dict[str, float]:
    torch.manual_seed(0)
    patches, condition = torch.randn(1, tokens, PATCH), torch.randn(1, hidden)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "image_model.gguf"
        write_file(path, ImageTransformer(hidden, blocks), qtype)
        model = load_model(path, hidden, blocks)
        print(model.single_blocks[0].linear1.weight)
        figures["weights"] = sum(p.numel() for p in model.parameters())
        figures["bytes"] = path.stat().st_size
        print(f"{figures['weights']:,} weights in {figures['bytes']:,} bytes")
        expected = {}
        for name in ("quantized", "with LoRA"):
            if name == "with LoRA":
                add_lora(model)
            expected[name] = reference(model)(patches.double(), condition.double())
            figures[name] = relative_error(model(patches, condition), expected[name])
            took = seconds(lambda: model(patches, condition))
            slow = seconds(lambda: dequantize_each_pass(model, patches, condition))
            print(
                f"{name}: {took:.3f} s a pass, {slow:.3f} s dequantizing each time; "
                f"error {figures[name]:.1e}"
            )
        figures["LoRA"] = relative_error(expected["quantized"], expected["with LoRA"])
        print(f"LoRA changes the result by {figures['LoRA']:.1e}")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--type", dest="qtype", default="Q4_K")
    main(**vars(parser.parse_args()))
