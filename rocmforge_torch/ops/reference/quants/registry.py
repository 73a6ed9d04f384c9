"""The table of formats: GGML type number to its reference functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ....quant_types import QUANT_TYPES_BY_NAME
from . import (
    float4,
    i_quants,
    k_quants,
    plain,
    simple,
    ternary,
)


@dataclass(frozen=True)
class Format:
    """Reference functions of one type, over blocks.

    Attributes:
        dequantize: uint8 ``[n, block_bytes]`` to float32 ``[n, block_size]``.
        quantize: float32 ``[n, block_size]`` to uint8 ``[n, block_bytes]``, or ``None``. Those of
            `WEIGHTED` take weights of the squared errors too, of the same shape.
    """

    dequantize: Callable[[Tensor], Tensor]
    quantize: Callable[..., Tensor] | None = None


_BY_NAME = {
    "F32": Format(plain.dequantize_f32, plain.quantize_f32),
    "F16": Format(plain.dequantize_f16, plain.quantize_f16),
    "BF16": Format(plain.dequantize_bf16, plain.quantize_bf16),
    "Q4_0": Format(simple.dequantize_q4_0, simple.quantize_q4_0),
    "Q4_1": Format(simple.dequantize_q4_1, simple.quantize_q4_1),
    "Q5_0": Format(simple.dequantize_q5_0, simple.quantize_q5_0),
    "Q5_1": Format(simple.dequantize_q5_1, simple.quantize_q5_1),
    "Q8_0": Format(simple.dequantize_q8_0, simple.quantize_q8_0),
    "Q8_1": Format(simple.dequantize_q8_1, simple.quantize_q8_1),
    "Q2_K": Format(k_quants.dequantize_q2_k, k_quants.quantize_q2_k),
    "Q3_K": Format(k_quants.dequantize_q3_k, k_quants.quantize_q3_k),
    "Q4_K": Format(k_quants.dequantize_q4_k, k_quants.quantize_q4_k),
    "Q5_K": Format(k_quants.dequantize_q5_k, k_quants.quantize_q5_k),
    "Q6_K": Format(k_quants.dequantize_q6_k, k_quants.quantize_q6_k),
    "Q8_K": Format(simple.dequantize_q8_k, simple.quantize_q8_k),
    "IQ1_S": Format(i_quants.dequantize_iq1_s),
    "IQ1_M": Format(i_quants.dequantize_iq1_m),
    "IQ2_XXS": Format(i_quants.dequantize_iq2_xxs),
    "IQ2_XS": Format(i_quants.dequantize_iq2_xs),
    "IQ2_S": Format(i_quants.dequantize_iq2_s),
    "IQ3_XXS": Format(i_quants.dequantize_iq3_xxs),
    "IQ3_S": Format(i_quants.dequantize_iq3_s),
    "IQ4_NL": Format(i_quants.dequantize_iq4_nl, i_quants.quantize_iq4_nl),
    "IQ4_XS": Format(i_quants.dequantize_iq4_xs, i_quants.quantize_iq4_xs),
    "TQ1_0": Format(ternary.dequantize_tq1_0, ternary.quantize_tq1_0),
    "TQ2_0": Format(ternary.dequantize_tq2_0, ternary.quantize_tq2_0),
    "MXFP4": Format(float4.dequantize_mxfp4, float4.quantize_mxfp4),
    "NVFP4": Format(float4.dequantize_nvfp4, float4.quantize_nvfp4),
    "Q1_0": Format(simple.dequantize_q1_0, simple.quantize_q1_0),
}

FORMATS: Mapping[int, Format] = {
    QUANT_TYPES_BY_NAME[name].id: entry for name, entry in _BY_NAME.items()
}

# Types whose scales are searched for, or can be.
WEIGHTED = frozenset(
    QUANT_TYPES_BY_NAME[name].id
    for name in (
        *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ4_NL", "IQ4_XS"),
    )
)
