"""The tensors of a GGUF file under the names that transformers has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import gguf
import torch
from torch import Tensor, nn

from ...gguf import GGUFModelFile
from ...models import DecoderConfig
from ...models.decoder import IGNORED_TENSORS
from ...models.weights import Weights
from ...nn.blocks import as_blocks
from ...tensor import GGUFTensor

# Read by `model_config`, or made of the metadata.
TABLES = (*IGNORED_TENSORS, "rope_factors_short.weight", "rope_factors_long.weight")
STACKED = ".norms."  # StableLM's norms of single heads, which a file has as rows of one tensor
HEADS = {".q_proj.": "num_heads", ".k_proj.": "num_kv_heads"}


def state_dict(
    model: nn.Module, config: DecoderConfig, file: GGUFModelFile, norm_offset: float
) -> dict[str, Tensor]:
    """What `model.load_state_dict` takes, its matrices as the file has them.

    Args:
        model: transformers' model; only the shapes of its parameters are read.
        config: what our decoder would be built from.
        file: the file.
        norm_offset: what the file's norm weights have more than transformers'.

    Returns:
        Matrices as `GGUFTensor` (plain ones too, unless they are float32), vectors as float32.

    Raises:
        GGUFError: a tensor is missing, has another shape, or has no place in the model.
    """
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.architecture)
    names = gguf.get_tensor_name_map(arch, config.num_layers)
    weights = Weights(file.tensors, str(file.path))
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    state = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if key in tied:
            continue
        whole, stacked, rest = key.partition(STACKED)
        if stacked:
            key_of_file, shape = f"{whole}.weight", [None, *parameter.shape]
        else:
            key_of_file, shape = key, list(parameter.shape)
        name = names.get_name(key_of_file, try_suffixes=(".weight", ".bias"))
        tensor = weights.take(name or key_of_file, shape)
        if stacked:
            tensor = tensor[int(rest.partition(".")[0])]
        if config.rope.interleaved:
            tensor = _halves(tensor, key, config)
        state[key] = _prepared(tensor, norm_offset if "norm" in key else 0.0)
    weights.finish(TABLES)
    return state


def _prepared(tensor: Tensor, offset: float) -> Tensor:
    if tensor.dim() == 1:
        values = tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor
        return values.to(torch.float32) - offset
    if isinstance(tensor, GGUFTensor) or tensor.dtype == torch.float32:
        return tensor
    return GGUFTensor(*as_blocks(tensor))


def _halves(tensor: Tensor, key: str, config: DecoderConfig) -> Tensor:
    """The rows of a query or key projection as transformers rotates them: i with i + D/2.

    Files of these architectures have the rows of a pair next to each other. A row is a number of
    whole blocks, so that rows change places without being dequantized.
    """
    counts = [getattr(config, count) for part, count in HEADS.items() if part in key]
    if not counts:
        return tensor
    rows = torch.arange(tensor.shape[0], device=tensor.device)
    order = rows.view(counts[0], -1, 2).transpose(1, 2).reshape(-1)
    if not isinstance(tensor, GGUFTensor):
        return tensor[order]
    moved = cast(GGUFTensor, tensor.unpacked()[order])
    return moved.packed() if tensor.qlayout else moved
