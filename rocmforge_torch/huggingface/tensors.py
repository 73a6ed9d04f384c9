"""The weights of a folder under their GGUF names, as the architecture's GGUF files hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from ..gguf.lazy_tensor import LazyTensor
from ..quant_types import QUANT_TYPES_BY_NAME
from .folder import CONFIG, Folder
from .metadata import head_dim, rope_parameters

# Of models that also see: what does not belong to the language model.
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.",
               "model.multi_modal_projector.")  # fmt: skip
LANGUAGE_PREFIXES = (("model.language_model.", "model."), ("language_model.", ""))
# Computed from the configuration, whatever a file says.
BUFFERS = ("rotary_emb.inv_freq", "attention.masked_bias", "attention.bias")
FLOATS = ("F32", "F16", "BF16")
HEAD_NORM = re.compile(r"(.*)\.norms\.(\d+)(\.weight)")

Change = Callable[[Tensor], Tensor]


def folder_tensors(folder: Folder) -> list[LazyTensor]:
    """The tensors, none of them read: embeddings, layers in order, output.

    Matrices keep the dtype of the folder; what is no matrix is float32, as GGUF readers expect.

    Raises:
        FolderError: a tensor has no place in the architecture, or a dtype that has no GGUF form.
    """
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == folder.row.name)
    names = gguf.get_tensor_name_map(arch, folder.config["num_hidden_layers"])
    found = []
    for key, members in _keys(folder):
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise folder.error(
                folder.files[members[0]].name, f"tensor {key!r} has no place in {folder.row.name}"
            )
        found.append(_lazy(folder, name, members))
    return sorted([*found, *_rope_factors(folder)], key=_order)


def _order(tensor: LazyTensor) -> tuple[int, int, str]:
    layer = re.match(r"blk\.(\d+)\.", tensor.name)
    if layer:
        return 1, int(layer[1]), tensor.name
    return (2 if tensor.name.startswith("output") else 0), 0, tensor.name


def _keys(folder: Folder) -> Iterator[tuple[str, list[str]]]:
    """(the key that gguf-py knows, the keys of the tensors that make it up)."""
    stacked: dict[str, dict[int, str]] = {}
    for original in folder.files:
        if original.startswith(OTHER_PARTS) or original.endswith(BUFFERS):
            continue
        key = original
        for prefix, replacement in LANGUAGE_PREFIXES:
            if key.startswith(prefix):
                key = replacement + key.removeprefix(prefix)
                break
        if key == "lm_head.weight" and folder.config.get("tie_word_embeddings", False):
            continue
        head = HEAD_NORM.fullmatch(key)  # StableLM's norm of each head
        if head:
            stacked.setdefault(head[1] + head[3], {})[int(head[2])] = original
        else:
            yield key, [original]
    for key, members in stacked.items():
        yield key, [members[i] for i in sorted(members)]


def _lazy(folder: Folder, name: str, members: list[str]) -> LazyTensor:
    slices = [_open(folder, key) for key in members]
    shape, dtype = tuple(slices[0].get_shape()), slices[0].get_dtype()
    if dtype not in FLOATS:
        raise folder.error(
            folder.files[members[0]].name,
            f"tensor {members[0]!r} is {dtype}; only {', '.join(FLOATS)} are converted",
        )
    if len(members) > 1:
        shape = (len(members), *shape)
    changes = [*_changes(folder, name)]
    if len(shape) < 2 or name.endswith("_norm.weight"):
        dtype = "F32"
        changes.insert(0, Tensor.float)
    load = partial(_load, folder, members, changes)
    return LazyTensor(name, QUANT_TYPES_BY_NAME[dtype], shape, load)


def _open(folder: Folder, key: str) -> Any:
    from safetensors import safe_open

    return _opened(safe_open, folder.files[key]).get_slice(key)


def _opened(safe_open: Any, path: Path) -> Any:
    return safe_open(path, framework="pt").__enter__()


def _load(folder: Folder, members: list[str], changes: list[Change]) -> Tensor:
    parts = [_open(folder, key)[:] for key in members]
    tensor = parts[0] if len(parts) == 1 else torch.stack(parts)
    for change in changes:
        tensor = change(tensor)
    return tensor


def _changes(folder: Folder, name: str) -> Iterator[Change]:
    """What the architecture's converter does to the numbers of a tensor."""
    config = folder.config
    if folder.row.adds_one and name.endswith("norm.weight"):
        yield lambda tensor: tensor + 1
    if folder.row.to_neighbours and re.search(r"attn_[qk]\.(weight|bias)$", name):
        heads = config["num_attention_heads"]
        if ".attn_k." in name:
            heads = config.get("num_key_value_heads") or heads
        yield partial(_to_neighbours, heads)


def _to_neighbours(heads: int, rows: Tensor) -> Tensor:
    """Reorder each head's rows from halves (i, i + D/2) to pairs (2i, 2i + 1)."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def _rope_factors(folder: Folder) -> Iterator[LazyTensor]:
    """What each frequency of the rotation is divided by, where that is a tensor."""
    rope = rope_parameters(folder)
    if rope["rope_type"] == "llama3":
        yield _vector("rope_freqs.weight", _llama3_factors(rope, head_dim(folder)))
    if rope["rope_type"] in ("longrope", "su"):
        for kind in ("long", "short"):
            factors = rope.get(f"{kind}_factor")
            if not factors:
                raise folder.error(CONFIG, f"longrope needs {kind}_factor")
            yield _vector(f"rope_factors_{kind}.weight", torch.tensor(factors))


def _vector(name: str, values: Tensor) -> LazyTensor:
    values = values.float()
    return LazyTensor(name, QUANT_TYPES_BY_NAME["F32"], tuple(values.shape), lambda: values)


def _llama3_factors(rope: dict[str, Any], dim: int) -> Tensor:
    """Llama 3.1's: low frequencies shrink by `factor`, high ones stay, a ramp between."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    wavelength = 2 * torch.pi * rope["rope_theta"] ** exponents
    turns = rope["original_max_position_embeddings"] / wavelength
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - kept) / rope["factor"] + kept)
