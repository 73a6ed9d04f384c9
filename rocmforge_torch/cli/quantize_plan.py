"""Which type every tensor of a requantized file gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..gguf import GGUFModelFile
from ..gguf.reader import TensorInfo
from ..ops.reference import quantizable_names
from ..quant_types import QUANT_TYPES_BY_NAME, QuantType

# What a row takes whose length is no multiple of the type's block, as in llama.cpp where it knows
# the type. A row that fits none of these is stored as F16.
FALLBACKS = {
    "Q2_K": "IQ4_NL",
    "Q3_K": "IQ4_NL",
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


@dataclass(frozen=True)
class Plan:
    """One tensor: what it is, what was asked for it, and the type it gets."""

    info: TensorInfo
    asked: QuantType
    target: QuantType

    @property
    def changes(self) -> bool:
        return self.target.id != self.info.qtype.id

    @property
    def fell_back(self) -> bool:
        return self.target.id != self.asked.id

    @property
    def requantizes(self) -> bool:
        """Whether the values have lost precision once already."""
        return self.changes and self.info.qtype.name not in FLOATS

    @property
    def elements(self) -> int:
        return math.prod(self.info.shape)

    @property
    def nbytes(self) -> int:
        return self.elements // self.target.block_size * self.target.block_bytes


def target_types() -> list[str]:
    """Names of the types that a file's matrices can be written in."""
    return [name for name in quantizable_names() if name not in ACTIVATIONS]


def target_type(name: str) -> QuantType:
    """The type called `name` (case does not matter).

    Raises:
        ValueError: it is none of `target_types`.
    """
    if name.upper() not in target_types():
        known = name.upper() in QUANT_TYPES_BY_NAME
        what = "is no type to quantize to" if known else "is no GGML type"
        raise ValueError(f"{name} {what}: choose one of {', '.join(target_types())}")
    return QUANT_TYPES_BY_NAME[name.upper()]


def plan(
    file: GGUFModelFile,
    matrices: QuantType,
    output: QuantType | None = None,
    token_embedding: QuantType | None = None,
) -> list[Plan]:
    """The plan for every tensor of `file`, in its order.

    Args:
        file: the model.
        matrices: the type of every weight matrix.
        output: of `output.weight` instead; of the embedding too where it serves as the output.
        token_embedding: of `token_embd.weight` instead.
    """
    tied = "output.weight" not in file.tensors
    special = {
        "output.weight": output,
        "token_embd.weight": token_embedding or (output if tied else None),
    }
    plans = []
    for name in file.tensors:
        info = file.tensors.info(name)
        asked = (special.get(name) or matrices) if _is_matrix(info) else info.qtype
        plans.append(Plan(info, asked, _fitting(asked, info)))
    return plans


def _is_matrix(info: TensorInfo) -> bool:
    """Whether the tensor is a weight matrix that quantization is meant for."""
    quantizable = info.qtype.is_quantized or info.qtype.name in FLOATS
    return (
        quantizable
        and len(info.shape) >= 2
        and info.name.endswith("weight")
        and not info.name.endswith(KEPT)
    )


def _fitting(asked: QuantType, info: TensorInfo) -> QuantType:
    """`asked`, or what takes its place where the rows are no multiple of its block."""
    k = info.shape[-1] if info.shape else 1
    while k % asked.block_size:
        asked = QUANT_TYPES_BY_NAME[FALLBACKS.get(asked.name, LAST_FALLBACK)]
    return asked
