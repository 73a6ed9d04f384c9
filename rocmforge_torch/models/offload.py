"""The parts of loading a model of which the GPU holds only some layers."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ..gguf import GGUFModelFile
from ..gguf.link import CudaLink
from ..nn import Attention, GatedMLP, QuantLinear
from ..nn.kv_cache import cache_bytes
from ..offload import OffloadPlan, plan_offload, stream_layers
from .config import DecoderConfig

LAYER = re.compile(r"blk\.(\d+)\.")
# What weights leave free: for activations and work space, and for a cache of one sequence.
ACTIVATIONS = 512 << 20  # bytes
CONTEXT = 4096  # tokens


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to; None if to none."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def plan_for(
    file: GGUFModelFile, device: torch.device, dtype: torch.dtype, gpu_layers: int | None
) -> OffloadPlan:
    """Which layers of a file stay on a GPU.

    Args:
        file: opened on the CPU.
        device: the GPU.
        dtype: of activations.
        gpu_layers: how many stay; None: as many as what is free holds, beside a cache of up to 4096
            tokens and 512 MiB.

    Raises:
        MemoryError: not even the embeddings, the output layer and two layers fit.
        ValueError: gpu_layers is negative.
        GGUFError: the file describes no model that is supported.
    """
    config = DecoderConfig.from_metadata(file.metadata, str(file.path))
    layers, other = [0] * config.num_layers, 0
    for name in file.tensors:
        index, nbytes = layer_of(name), file.tensors.info(name).nbytes
        if index is None or index >= config.num_layers:
            other += nbytes
        else:
            layers[index] += nbytes
    free = None
    if gpu_layers is None:
        shape = (1, min(config.context_length, CONTEXT), config.num_kv_heads, config.head_dim)
        cache = cache_bytes(config.num_layers, *shape, dtype)
        # Layers are prepared on the device one at a time, with a copy of each.
        free = torch.cuda.mem_get_info(device)[0] - ACTIVATIONS - cache - max(layers)
    return plan_offload(layers, other, free=free, gpu_layers=gpu_layers, device=str(device))


def placed_tensors(
    host: GGUFModelFile, resident: GGUFModelFile, plan: OffloadPlan
) -> dict[str, Tensor]:
    """The tensors of a file by name: of streamed layers the mapped ones, else those on the GPU."""
    streamed = set(plan.streamed)
    return {
        name: (host if layer_of(name) in streamed else resident).tensors[name]
        for name in host.tensors
    }


def stream_planned(
    layers: nn.ModuleList, plan: OffloadPlan, device: torch.device, fuse: bool
) -> None:
    """Stream the layers that a plan says, in the form that products on the GPU are fastest in."""

    def prepare(layer: nn.Module) -> None:
        layer.to(device)
        for module in layer.modules():
            if isinstance(module, QuantLinear):
                module.pack_()
        for module in layer.modules():
            if fuse and isinstance(module, Attention | GatedMLP):
                module.fuse_()

    stream_layers(layers, plan.streamed, CudaLink(device), prepare)
