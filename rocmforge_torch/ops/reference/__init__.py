"""The specification of every op: what it computes, in plain torch.

Also the fallback of a device without kernels, and what every kernel is tested against. Arguments
have passed the op's shape function (`ops/schemas.py`), which states shapes, dtypes and errors.
"""

from __future__ import annotations

from .activation import gelu_mul, silu_mul
from .attention import attention, attention_weights
from .cache import accumulate_, kv_cache_write_
from .norm import add_rms_norm, rms_norm
from .norm_product import UNGATED, norm_quant_matmul
from .packing import pack_weight, unpack_weight
from .quant_ops import (
    GATED,
    QUANTIZABLE,
    WEIGHTED,
    dequantize,
    quant_embedding,
    quant_matmul,
    quant_matmul_gated,
    quant_matmul_transposed,
    quantizable_names,
    quantize,
    weighted_quantize,
)
from .rope import rope
from .rope_cache import rope_kv_cache_write_
from .sampling import sample

__all__ = [
    "GATED",
    "QUANTIZABLE",
    "UNGATED",
    "WEIGHTED",
    "accumulate_",
    "add_rms_norm",
    "attention",
    "attention_weights",
    "dequantize",
    "gelu_mul",
    "kv_cache_write_",
    "norm_quant_matmul",
    "pack_weight",
    "quant_embedding",
    "quant_matmul",
    "quant_matmul_gated",
    "quant_matmul_transposed",
    "quantizable_names",
    "quantize",
    "rms_norm",
    "rope",
    "rope_kv_cache_write_",
    "sample",
    "silu_mul",
    "unpack_weight",
    "weighted_quantize",
]
