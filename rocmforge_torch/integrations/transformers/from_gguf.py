"""`from_gguf`: a model class of transformers whose weights are those of a GGUF file."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import transformers
from torch import nn

from ...gguf import GGUFModelFile, load_gguf
from ...models import DecoderConfig
from ...models.causal_lm import FLOATS
from ...models.weights import Weights
from ...nn.rope import inverse_frequencies
from .attention import register
from .fused import fuse_
from .model_config import huggingface_model, model_options
from .quantizer import METHOD, RocmForgeConfig, RocmForgeQuantizer
from .weights import state_dict

logger = logging.getLogger(__name__)


@torch.inference_mode(False)  # what is made here may be trained around later
def from_gguf(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fuse: bool = False,
    **kw: Any,
) -> transformers.PreTrainedModel:
    """Load a GGUF file into transformers' own model class; the weights stay quantized.

    The model is a stock one (`Gemma3ForCausalLM`, `LlamaForCausalLM`, ...): its linear layers and
    its embedding are plain modules whose `weight` is a `GGUFTensor`. On the CPU that is the mapped
    file. All parameters are frozen; gradients flow through them to inputs and adapters.

    Args:
        path: the file; of a split model, any shard.
        device: where the model computes.
        dtype: the dtype of activations and logits; by default float32 on the CPU, else bfloat16.
        fuse: whether projections of one input (query, key and value; gate and up) are made one
            matrix, where their types agree. In the places of those `nn.Linear` are
            `FusedProjection`s then; compiled steps have as many products fewer.
        kw: for `from_pretrained`, such as `attn_implementation="eager"`; attention is this
            package's op unless that says otherwise (or the class takes none from outside).

    Raises:
        GGUFError: the file is no valid GGUF, its architecture is none of docs/models.md, it says
            something that transformers' class cannot compute, or a tensor is missing or wrong.
        OSError: the file cannot be opened.
        ValueError: the dtype is none of float32, float16 and bfloat16.
    """
    device = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {FLOATS}, got {dtype}")
    file = load_gguf(path)
    config = DecoderConfig.from_metadata(file.metadata, str(file.path))
    row = huggingface_model(config)
    options = model_options(config, file)
    config_class = getattr(transformers, row.config or f"{row.name}Config")
    model_class = getattr(transformers, f"{row.name}ForCausalLM")
    hf_config = config_class(**options, architectures=[model_class.__name__])
    with torch.device("meta"):
        shapes = model_class(hf_config)
    state = state_dict(shapes, config, file, row.norm_offset)
    attention = register()
    if model_class._supports_attention_backend:
        kw = {"attn_implementation": attention, **kw}
    model: transformers.PreTrainedModel = model_class.from_pretrained(
        None, config=hf_config, state_dict=state, dtype=dtype, **kw
    )
    _set_frequencies(model, config, file)
    if device.type != "cpu":
        loaded = load_gguf(path, device, packed=True)
        _assign(model, state_dict(shapes, config, loaded, row.norm_offset), dtype)
        loaded.tensors.release()
        nn.Module.to(model, device)
    model.requires_grad_(False)
    if fuse:
        fuse_(model)
    vars(model).update(
        hf_quantizer=_FromFile(RocmForgeConfig()), is_quantized=True, quantization_method=METHOD
    )
    return model


class _FromFile(RocmForgeQuantizer):
    """Tells transformers that the model is quantized: adapters can be trained and saved, not it."""

    def is_serializable(self, **kw: Any) -> bool:
        logger.warning(
            "a model of from_gguf is saved already, as its GGUF file; `rocmforge quantize` writes "
            "that file in other types"
        )
        return False


def _set_frequencies(model: nn.Module, config: DecoderConfig, file: GGUFModelFile) -> None:
    """Give the rotation the factors of Llama 3, which files have as a table."""
    factors = Weights(file.tensors, str(file.path)).optional(
        "rope_freqs.weight", [config.rope.dim // 2]
    )
    if factors is None:
        return
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.copy_(inverse_frequencies(config.rope, factors))


def _assign(model: nn.Module, state: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Replace the parameters by those of `state`; what was tied stays tied."""
    new = {
        id(parameter): nn.Parameter(state[key].to(dtype), requires_grad=False)
        for key, parameter in model.named_parameters()
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, new[id(parameter)])
