"""LoRA on GGUF weights, with Hugging Face peft.

peft trains on a `GGUFTensor` as it is: its own LoRA layers call the base layer, whose product and
gradient are the kernels'. What they cannot do is merge, which adds to the weight in place.
`gguf_lora_config` gives a `LoraConfig` the layers that can, by peft's own way for custom layers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from ..ops.reference import QUANTIZABLE, quantizable_names
from ..quant_types import QuantType, quant_type
from ..tensor import GGUFTensor

# The ways of peft to start an adapter that leave the base weight as it is.
STARTS = (True, False, "gaussian", "eva", "orthogonal")


def gguf_lora_config(config: LoraConfig, merge_type: str | None = None) -> LoraConfig:
    """A copy of `config` whose adapters can be merged into GGUF weights.

    It is for `get_peft_model`, for `model.add_adapter`, and for loading a saved adapter,
    `PeftModel.from_pretrained(model, folder, config=gguf_lora_config(saved_config))`. Modules with
    plain weights get peft's own layers, and what is saved is an ordinary adapter.

    A merged weight is summed in float32 and quantized again: it differs from the exact sum by the
    rounding of its type. Unmerging puts the first weight back, bit for bit.

    Args:
        config: what to adapt, by plain LoRA.
        merge_type: the GGML type of merged weights, such as "Q8_0" or "F16"; by default each weight
            keeps its own.

    Raises:
        TypeError: `config` is no `LoraConfig`.
        ValueError: `config` asks for a change of the base weights or for another kind of LoRA, or
            `merge_type` is no type, or one without a quantizer.
    """
    if not isinstance(config, LoraConfig):
        raise TypeError(f"config must be a peft.LoraConfig, got {type(config).__name__}")
    if config.init_lora_weights not in STARTS:
        raise ValueError(
            f"init_lora_weights must be one of {STARTS} to leave GGUF weights as they are, "
            f"got {config.init_lora_weights!r}"
        )
    for field in dataclasses.fields(config):
        other_kind = field.name == "lora_bias" or field.metadata.get("is_lora_variant")
        if other_kind and getattr(config, field.name):
            raise ValueError(
                f"{field.name} must be off: only plain LoRA can be merged into GGUF weights"
            )
    kind = None if merge_type is None else _quantizable(quant_type(merge_type))
    config = copy.deepcopy(config)
    makers: dict[type[nn.Module], Any] = {
        nn.Linear: _maker(GGUFLoraLinear, kind),
        nn.Embedding: _maker(GGUFLoraEmbedding, kind),
    }
    config._register_custom_module(makers)
    return config


class _Merging(LoraLayer):
    """Merging for a base layer whose weight is a `GGUFTensor`; the parent of both layers."""

    merge_type: QuantType | None = None
    unmerged: GGUFTensor | None = None  # the weight before any adapter was merged

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Replace the base layer's weight by its sum with adapters, quantized.

        Args:
            safe_merge: raise ValueError, and change nothing, if the sum is not finite.
            adapter_names: which adapters; by default those in use.
        """
        holders = {*self.lora_A, *self.lora_embedding_A}
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in holders]
        if not names:
            return
        adapters: Any = self  # of peft's classes, beside this one in both layers
        base: Any = self.get_base_layer()
        first: GGUFTensor = base.weight.detach() if self.unmerged is None else self.unmerged
        kind = self.merge_type or _quantizable(quant_type(first.qtype))
        with torch.no_grad():
            # All at once, so that several adapters are rounded once.
            total = first.dequantize(torch.float32)
            for name in (*self.merged_adapters, *names):
                total += adapters.get_delta_weight(name)
            if safe_merge and not total.isfinite().all():
                raise ValueError(f"the sum with adapters {names} is not finite everywhere")
            blocks = torch.ops.rocmforge.quantize(total, kind.id)
            merged = GGUFTensor(blocks, kind.id, first.dtype)
            if first.qlayout and kind.is_quantized:
                merged = merged.packed()
        self.unmerged = first
        base.weight = nn.Parameter(merged, requires_grad=False)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the weight back that was there before any adapter was merged."""
        if self.unmerged is None:
            return
        base: Any = self.get_base_layer()
        first = self.unmerged.to(base.weight.device)  # the model may have been moved meanwhile
        base.weight = nn.Parameter(first, requires_grad=False)
        self.unmerged = None
        self.merged_adapters.clear()


class GGUFLoraLinear(_Merging, Linear):
    """peft's LoRA layer of `nn.Linear`, its base weight [out_features, in_features] in blocks."""


class GGUFLoraEmbedding(_Merging, Embedding):
    """peft's LoRA layer of `nn.Embedding`, its base weight [num_embeddings, dim] in blocks."""


def _maker(
    layer: Callable[..., _Merging], merge_type: QuantType | None
) -> Callable[..., _Merging | None]:
    """What peft calls for each module of a type; None leaves the module to peft's own layers."""

    def make(
        module: nn.Module, adapter_name: str, parameter_name: str | None = None, **options: Any
    ) -> _Merging | None:
        base: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if parameter_name is not None or not isinstance(base.weight, GGUFTensor):
            return None
        made = layer(module, adapter_name, **options)
        made.merge_type = merge_type
        return made

    return make


def _quantizable(kind: QuantType) -> QuantType:
    if kind.id not in QUANTIZABLE:
        raise ValueError(
            f"merge_type must be a type with a quantizer ({', '.join(quantizable_names())}), "
            f"got {kind.name}"
        )
    return kind
