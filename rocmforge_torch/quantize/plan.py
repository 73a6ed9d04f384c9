"""Which type every tensor of a quantized file gets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..gguf.lazy_tensor import LazyTensor
from ..ops.reference import quantizable_names
from ..quant_types import QUANT_TYPES_BY_NAME, QuantType, row_bytes
from .mixes import ALIASES, MIXES, PURE_FILE_TYPES, Mix, Place

# What a row takes whose length is no multiple of the type's block, as in llama.cpp where it knows
# the type. A row that fits none of these is stored as F16.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "NVFP4": "MXFP4",
    "Q1_0": "Q4_0",
}
LAST_FALLBACK = "F16"
FLOATS = ("F32", "F16", "BF16", "F64")
GUESSED_FILE_TYPE = 1024

# Types of activations during a product: ggml has them, but no file of weights does.
ACTIVATIONS = ("Q8_1", "Q8_K")

# Matrices that llama.cpp never quantizes: small, and read by operations that want floats.
KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
)
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
# What rules call a matrix whose name holds this; the first that fits.
PARTS = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_output.weight", "attn_output"),
    ("ffn_down", "ffn_down"),
)


@dataclass(frozen=True)
class Plan:
    """One tensor: what it is, what was asked for it, and the type it gets."""

    source: LazyTensor
    asked: QuantType
    target: QuantType

    @property
    def changes(self) -> bool:
        return self.target.id != self.source.qtype.id

    @property
    def fell_back(self) -> bool:
        return self.target.id != self.asked.id

    @property
    def requantizes(self) -> bool:
        """Whether the values have lost precision once already."""
        return self.changes and self.source.qtype.name not in FLOATS

    @property
    def nbytes(self) -> int:
        return row_bytes(self.target, self.source.elements)


@dataclass(frozen=True)
class Recipe:
    """What a whole file shall be.

    Attributes:
        name: what the file is called after.
        mix: the types of its matrices.
        output, token_embedding: types for these two that overrule the mix.
    """

    name: str
    mix: Mix
    output: QuantType | None = None
    token_embedding: QuantType | None = None


def target_types() -> list[str]:
    """Names of the types that a file's matrices can be written in."""
    return [name for name in quantizable_names() if name not in ACTIVATIONS]


def target_type(name: str) -> QuantType:
    """The type called `name` (case does not matter).

    Raises:
        ValueError: it is none of `target_types`.
    """
    if name.upper() not in target_types():
        raise _none_of(name, "is no GGML type", target_types())
    return QUANT_TYPES_BY_NAME[name.upper()]


def _none_of(name: str, unknown: str, choices: list[str]) -> ValueError:
    """The complaint about a name that is none of the choices, `unknown` if it means nothing."""
    what = "is no type to quantize to" if name.upper() in QUANT_TYPES_BY_NAME else unknown
    return ValueError(f"{name} {what}: choose one of {', '.join(choices)}")


def recipe(
    name: str,
    pure: bool = False,
    output: str | None = None,
    token_embedding: str | None = None,
) -> Recipe:
    """The recipe called `name`: a mix of llama.cpp's, or a type that has none.

    Args:
        name: case does not matter.
        pure: all matrices in one type, the mix's main one.
        output: a type for the output matrix (and the embedding, where it serves as the output).
        token_embedding: a type for the embedding.

    Raises:
        ValueError: there is no such mix or type.
    """
    upper = ALIASES.get(name.upper(), name.upper())
    mix = MIXES.get(upper)
    if mix is None and name.upper() not in target_types():
        names = list(dict.fromkeys([*target_types(), *MIXES]))
        raise _none_of(name, "is no type or mix", names)
    main = target_type(name if mix is None else mix.type)
    if mix is None or pure:
        file_type = PURE_FILE_TYPES.get(main.name, mix.file_type if mix else GUESSED_FILE_TYPE)
        mix = Mix(main.name, file_type, output=main.name)
        upper = main.name
    special = [target_type(t) if t else None for t in (output, token_embedding)]
    return Recipe(upper, mix, *special)


def plan(
    tensors: Sequence[LazyTensor],
    metadata: Mapping[str, Any],
    wanted: Recipe,
    imatrix: bool = False,
) -> list[Plan]:
    """The plan for every tensor of a model, in order.

    Args:
        tensors: the model's.
        metadata: its GGUF keys.
        wanted: the types.
        imatrix: whether there is an importance matrix, which some mixes ask.
    """
    tied = all(tensor.name != OUTPUT for tensor in tensors)
    places = _places(tensors, metadata, imatrix)
    plans = []
    for tensor in tensors:
        asked = tensor.qtype
        if _is_matrix(tensor):
            asked = QUANT_TYPES_BY_NAME[_asked(tensor, wanted, tied, places.get(tensor.name))]
        plans.append(Plan(tensor, asked, _fitting(asked, tensor)))
    return plans


def _asked(tensor: LazyTensor, wanted: Recipe, tied: bool, place: Place | None) -> str:
    mix = wanted.mix
    if tensor.name == EMBEDDING and wanted.token_embedding:
        return wanted.token_embedding.name
    if tensor.name == OUTPUT or (tensor.name == EMBEDDING and tied):
        if wanted.output:
            return wanted.output.name
        fits = mix.output == mix.type or not tensor.shape[-1] % _block(mix.type)
        return mix.output if fits else "Q8_0"
    if tensor.name == EMBEDDING:
        return mix.embedding or mix.type
    if place is None:
        return mix.type
    fitting = (rule.type for rule in mix.rules if rule.part == place.part and rule.when(place))
    return next(fitting, mix.type)


def _block(name: str) -> int:
    return QUANT_TYPES_BY_NAME[name].block_size


def _places(
    tensors: Sequence[LazyTensor], metadata: Mapping[str, Any], imatrix: bool
) -> dict[str, Place]:
    """The place of every matrix that a rule can be about."""
    architecture = metadata.get("general.architecture")

    def key(name: str, default: int) -> int:
        value = metadata.get(f"{architecture}.{name}", default)
        return int(value[0]) if hasattr(value, "__len__") else int(value)

    found: dict[str, tuple[str, int]] = {}
    for tensor in tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        part = next((part for text, part in PARTS if text in tensor.name), None)
        if layer and part:
            found[tensor.name] = part, int(layer[1])
    values = sorted({layer for part, layer in found.values() if part == "attn_v"})
    layers = key("block_count", 0)
    heads = key("attention.head_count", 1)
    gqa = heads // max(key("attention.head_count_kv", heads), 1)
    is_70b = architecture in ("llama", "qwen2") and layers == 80 and gqa > 1
    more = gqa, key("expert_count", 0), is_70b, imatrix
    return {
        name: Place(part, values.index(layer), len(values), *more)
        if part == "attn_v"
        else Place(part, layer, layers, *more)
        for name, (part, layer) in found.items()
    }


def _is_matrix(tensor: LazyTensor) -> bool:
    """Whether the tensor is a weight matrix that quantization is meant for."""
    quantizable = tensor.qtype.is_quantized or tensor.qtype.name in FLOATS
    return (
        quantizable
        and len(tensor.shape) >= 2
        and tensor.name.endswith("weight")
        and not tensor.name.endswith(KEPT)
    )


def _fitting(asked: QuantType, tensor: LazyTensor) -> QuantType:
    """`asked`, or what takes its place where the rows are no multiple of its block."""
    k = tensor.shape[-1] if tensor.shape else 1
    while k % asked.block_size:
        asked = QUANT_TYPES_BY_NAME[FALLBACKS.get(asked.name, LAST_FALLBACK)]
    return asked
