"""Tiny modules of the kinds that people run: convolutional blocks, attention, language models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from rocmforge_torch.nn import QuantLinear, RMSNorm

VOCAB, HIDDEN, INNER = 96, 64, 96
Q4_0 = 2


class BasicBlock(nn.Module):
    """Two convolutions and the input, as in ResNet-18; the last activation is in place."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Bottleneck(nn.Module):
    """Three convolutions and a strided short cut, as in ResNet-50."""

    def __init__(self, channels: int = 8, inner: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))
            for i, o, k, s in ((channels, inner, 1, 1), (inner, inner, 3, 2), (inner, 16, 1, 1))
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, 16, 1, 2), nn.BatchNorm2d(16))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, layer in enumerate(self.layers):
            y = layer(y)
            if i < 2:
                y = self.relu(y)
        return self.relu(y + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection: MobileNetV3."""

    def __init__(self, channels: int = 8, expanded: int = 16) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(channels, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.Hardswish()
        )
        self.depthwise = nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded)
        self.squeeze = nn.Conv2d(expanded, 4, 1)
        self.excite = nn.Conv2d(4, expanded, 1)
        self.project = nn.Sequential(nn.Conv2d(expanded, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.depthwise(self.expand(x)), inplace=True)
        scale = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))
        y = y * functional.hardsigmoid(self.excite(scale))
        return x + self.project(y)


class ViTBlock(nn.Module):
    """Patches, then attention and a feed-forward network, with dropout."""

    def __init__(self, channels: int = 8, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Linear(16 * channels, dim)
        self.position = nn.Parameter(torch.randn(1, 4, dim) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, dim), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
        x = self.patches(patches.flatten(3).flatten(1, 2)) + self.position
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) / (c // self.heads) ** 0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.norm2(x))


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(2, 8))
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.leave = nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.silu(self.enter(x))
        low = functional.max_pool2d(functional.leaky_relu_(self.down(skip), 0.1), 2)
        low = functional.interpolate(low, scale_factor=2, mode="nearest")
        up = self.up(low)
        far = functional.interpolate(low, size=up.shape[-2:], mode="bilinear", align_corners=False)
        return self.leave(torch.cat([skip, up, far[:, :8]], 1)).softmax(1)


VISION: dict[str, Callable[[], nn.Module]] = {
    "basic block": BasicBlock,
    "bottleneck": Bottleneck,
    "inverted residual": InvertedResidual,
    "vit": ViTBlock,
    "unet": UNet,
}

DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WINDOWED = {**DECODER, "head_dim": 32, "sliding_window": 8}
GPT2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4}
# (torch cannot run what run_decompositions makes of GPT-2's fused attention.)
GPT2 |= {"bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
BERT = {k: v for k, v in DECODER.items() if k != "num_key_value_heads"}
T5 = {"vocab_size": VOCAB, "d_model": HIDDEN, "d_kv": 16, "d_ff": INNER, "num_layers": 2}
T5 |= {"num_heads": 4, "feed_forward_proj": "gated-gelu"}
MAMBA = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "state_size": 8}

# name -> transformers' module and configuration, and the options of the latter.
LANGUAGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", WINDOWED),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", WINDOWED),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", DECODER),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "bert": ("BertModel", "BertConfig", BERT),
    "t5": ("T5EncoderModel", "T5Config", T5),
    "mamba": ("MambaForCausalLM", "MambaConfig", MAMBA),
}


class Scores(nn.Module):
    """Tokens int [B, T] to the first output of a model of transformers, without a cache."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.model(ids, **self.options)[0]
        return scores


def language_model(name: str, quantized: bool = False) -> Scores:
    """A tiny random model; if `quantized`, its linear layers hold Q4_0 blocks and its RMS norms, if
    they are Llama's, are ours."""
    model_class, config_class, options = LANGUAGE[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**options)
    model = getattr(transformers, model_class)(config).eval().requires_grad_(False)
    if quantized:
        replace_modules(model)
    options = {} if name in ("bert", "t5") else {"use_cache": False}
    return Scores(model, **options)


def replace_modules(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.in_features % 32 == 0:
                blocks = torch.ops.rocmforge.quantize(child.weight, Q4_0)
                bias = None if child.bias is None else child.bias.detach()
                setattr(parent, name, QuantLinear(blocks, Q4_0, bias))
            elif type(child).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm", "Phi3RMSNorm"):
                setattr(parent, name, RMSNorm(child.weight.detach(), child.variance_epsilon))
