"""`RocmForgeConfig`: a quantization method of transformers, named "rocmforge".

Importing this module registers it, as transformers' own extension point asks; nothing else changes.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ... import ops  # noqa: F401  (registers the operators)
from ...quant_types import quant_type
from ...tensor import GGUFTensor

METHOD = "rocmforge"
BLOCKS = "_weight_blocks"  # what a saved `weight` is called: uint8 [rows, row_bytes]
logger = logging.getLogger(__name__)


@register_quantization_config(METHOD)
class RocmForgeConfig(QuantizationConfigMixin):
    """Quantize on load: `from_pretrained(folder, quantization_config=RocmForgeConfig("Q4_K"))`.

    Weights of linear layers and embeddings become `GGUFTensor`s, one after the other. Those whose
    rows are not made of whole blocks stay as they are, with one warning that names them.

    Attributes:
        qtype: the GGML type's name.
        modules_to_not_convert: names, or parts of names, of modules that stay as they are.
    """

    def __init__(
        self, qtype: str = "Q4_K", modules_to_not_convert: list[str] | None = None, **kw: Any
    ) -> None:
        """Check the type.

        Raises:
            ValueError: no GGML type has this name, or it has no blocks.
        """
        row = quant_type(qtype)
        if not row.is_quantized:
            raise ValueError(f"qtype must be a quantized GGML type such as Q4_K, got {row.name}")
        self.quant_method = METHOD
        self.qtype = row.name
        self.modules_to_not_convert = modules_to_not_convert


@register_quantizer(METHOD)
class RocmForgeQuantizer(HfQuantizer):  # type: ignore[misc]
    """What `from_pretrained` and `save_pretrained` ask about a model of `RocmForgeConfig`."""

    quantization_config: RocmForgeConfig
    serialized_names = {"weight": [BLOCKS]}  # noqa: RUF012  (the base class's)

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kw: Any) -> bool:
        module_name, _, name = param_name.rpartition(".")
        module = model.get_submodule(module_name)
        kept = self.quantization_config.modules_to_not_convert or []
        if not isinstance(module, nn.Linear | nn.Embedding) or name != "weight":
            return False
        if any(part in module_name for part in kept):
            return False
        return module.weight.shape[1] % self._type.block_size == 0

    def _process_model_before_weight_loading(self, model: nn.Module, **kw: Any) -> nn.Module:
        odd = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Embedding)
            and module.weight.shape[1] % self._type.block_size
        ]
        if odd:
            logger.warning(
                "these modules are not quantized, as their rows are no whole blocks of %d: %s",
                self._type.block_size,
                ", ".join(odd),
            )
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kw: Any) -> nn.Module:
        for parameter in model.parameters():
            if isinstance(parameter, GGUFTensor):
                parameter.requires_grad_(False)
        return model

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self)

    def get_load_operations(self) -> dict[str, type[ConversionOps]]:
        return {"deserialize": _Deserialize}

    def get_state_dict_and_metadata(
        self, model: nn.Module
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The weights as safetensors can hold them: blocks, under a name of their own."""
        tied: Any = getattr(model, "all_tied_weights_keys", {})
        state = {}
        for key, tensor in model.state_dict().items():
            if isinstance(tensor, GGUFTensor):
                if key not in tied:
                    blocks = tensor.unpacked().qweight
                    state[f"{key.removesuffix('weight')}{BLOCKS}"] = blocks
            else:
                state[key] = tensor
        return state, {}

    def is_serializable(self, **kw: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # adapters: gradients flow through the products

    @property
    def is_compileable(self) -> bool:
        return True

    @property
    def _type(self) -> Any:
        return quant_type(self.quantization_config.qtype)


class _Op(ConversionOps):  # type: ignore[misc]
    def __init__(self, quantizer: RocmForgeQuantizer) -> None:
        self.hf_quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Tensor | list[Tensor]],
        *args: Any,
        full_layer_name: str,
        **kw: Any,
    ) -> dict[str, Tensor]:
        value = next(iter(input_dict.values()))
        tensor = value[0] if isinstance(value, list) else value
        return {full_layer_name: self.of(tensor)}

    def of(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError


class _Quantize(_Op):
    """Values [rows, K] -> a `GGUFTensor`."""

    def of(self, tensor: Tensor) -> Tensor:
        qtype = self.hf_quantizer._type.id
        blocks = torch.ops.rocmforge.quantize(tensor.detach().float(), qtype)
        return GGUFTensor(blocks, qtype, tensor.dtype)


class _Deserialize(_Op):
    """Blocks uint8 [rows, row_bytes] of a saved model -> a `GGUFTensor`."""

    def of(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.uint8:
            return tensor  # a weight that was not quantized
        return GGUFTensor(tensor, self.hf_quantizer._type.id)
