"""Every op of the contract: its schema and its shape function, one after the other.

The specification of what an op computes is its reference in `ops/reference`. Shapes are written
[outer, ..., inner]; `qweight` is uint8 holding GGML blocks, `qtype` the GGML type number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference, value_checks
from .cache_checks import check_cache, check_head, check_value_head
from .checks import (
    FLOATS,
    INTS,
    check_device,
    check_dim,
    check_dtype,
    check_out_dtype,
    check_product,
    check_qweight,
    check_shape,
    check_weight,
    known_type,
)
from .registry import check, define


@define("dequantize(Tensor qweight, int qtype, ScalarType dtype) -> Tensor", reference.dequantize)
def dequantize(qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    """Blocks [..., row_bytes] -> values [..., K] in `dtype`; float32 is bit-exact with gguf-py."""
    k = check_qweight("dequantize", qweight, qtype)
    check_out_dtype("dequantize", dtype)
    return qweight.new_empty((*qweight.shape[:-1], k), dtype=dtype)


@define("quantize(Tensor x, int qtype) -> Tensor", reference.quantize, partial=True)
def quantize(x: Tensor, qtype: int) -> Tensor:
    """Values [..., K] -> blocks [..., row_bytes] uint8, K a multiple of the block size.

    GPUs have kernels for Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q8_1; for the other types the reference
    runs there, with one warning.
    """
    op = "quantize"
    row = known_type(op, qtype)
    check(
        qtype in reference.QUANTIZABLE,
        op,
        f"{row.name} has no quantizer; types with one: {', '.join(reference.quantizable_names())}",
    )
    check_dtype(op, "x", x, FLOATS)
    check_dim(op, "x", x, 1)
    k = x.shape[-1]
    check(
        k % row.block_size == 0,
        op,
        f"the last dimension of x must be a multiple of {row.name}'s block size "
        f"{row.block_size}, got {k}",
    )
    return x.new_empty((*x.shape[:-1], k // row.block_size * row.block_bytes), dtype=torch.uint8)


@define(
    "quant_matmul(Tensor x, Tensor qweight, int qtype, Tensor? bias=None, int layout=0) -> Tensor",
    reference.quant_matmul,
)
def quant_matmul(
    x: Tensor, qweight: Tensor, qtype: int, bias: Tensor | None = None, layout: int = 0
) -> Tensor:
    """x [..., K] times qweight [N, row_bytes] transposed, plus bias [N] -> [..., N], x's dtype."""
    check_product("quant_matmul", x, qweight, qtype, bias, layout)
    return x.new_empty((*x.shape[:-1], qweight.shape[0]))


@define(
    "quant_matmul_transposed(Tensor g, Tensor qweight, int qtype) -> Tensor",
    reference.quant_matmul_transposed,
)
def quant_matmul_transposed(g: Tensor, qweight: Tensor, qtype: int) -> Tensor:
    """g [..., N] times qweight [N, row_bytes] -> [..., K], g's dtype: quant_matmul's backward."""
    op = "quant_matmul_transposed"
    k = check_qweight(op, qweight, qtype, dim=2)
    check_dtype(op, "g", g, FLOATS)
    check_dim(op, "g", g, 1)
    check_device(op, "qweight", qweight, g, "g")
    check(
        g.shape[-1] == qweight.shape[0],
        op,
        f"g has {g.shape[-1]} features but qweight has {qweight.shape[0]} rows",
    )
    return g.new_empty((*g.shape[:-1], k))


@define(
    "quant_matmul_gated(Tensor x, Tensor qweight_gate_up, int qtype, str act, Tensor? bias=None,"
    " int layout=0) -> Tensor",
    reference.quant_matmul_gated,
)
def quant_matmul_gated(
    x: Tensor,
    qweight_gate_up: Tensor,
    qtype: int,
    act: str,
    bias: Tensor | None = None,
    layout: int = 0,
) -> Tensor:
    """act(x gate^T) * (x up^T): the front half of a gated feed-forward layer -> [..., F].

    x [..., K], whose dtype the result has; qweight_gate_up [2F, row_bytes] holds the rows of gate,
    then those of up; act is "silu", or "gelu" in its tanh form; bias [2F] is added before it.
    """
    op, name = "quant_matmul_gated", "qweight_gate_up"
    check_product(op, x, qweight_gate_up, qtype, bias, layout, name)
    check(act in reference.GATED, op, f"act must be {' or '.join(reference.GATED)}, got {act}")
    return x.new_empty((*x.shape[:-1], _half(op, name, qweight_gate_up)))


def _half(op: str, name: str, qweight: Tensor) -> int:
    rows = qweight.shape[0]
    check(
        rows % 2 == 0,
        op,
        f"{name} must have an even number of rows, gate's then up's, got {rows}",
    )
    return rows // 2


@define(
    "pack_weight(Tensor qweight, int qtype) -> Tensor",
    reference.pack_weight,
    reference_on="CPU",
)
def pack_weight(qweight: Tensor, qtype: int) -> Tensor:
    """Blocks [N, row_bytes] as the file has them -> the packed device layout, of the same shape."""
    check_qweight("pack_weight", qweight, qtype, dim=2)
    return qweight.new_empty(qweight.shape)


@define(
    "unpack_weight(Tensor packed, int qtype) -> Tensor",
    reference.unpack_weight,
    reference_on="CPU",
)
def unpack_weight(packed: Tensor, qtype: int) -> Tensor:
    """The inverse of pack_weight, to the bit."""
    check_qweight("unpack_weight", packed, qtype, dim=2, name="packed")
    return packed.new_empty(packed.shape)


@define(
    "quant_embedding(Tensor ids, Tensor qweight, int qtype, ScalarType dtype) -> Tensor",
    reference.quant_embedding,
    value_checks.embedding_ids,
)
def quant_embedding(ids: Tensor, qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    """Rows of qweight [N, row_bytes] at ids [...] -> values [..., K] in `dtype`."""
    op = "quant_embedding"
    k = check_qweight(op, qweight, qtype, dim=2)
    check_dtype(op, "ids", ids, INTS)
    check_device(op, "ids", ids, qweight, "qweight")
    check_out_dtype(op, dtype)
    return qweight.new_empty((*ids.shape, k), dtype=dtype)


@define("rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor", reference.rms_norm)
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; x [..., C], weight [C]."""
    _check_norm("rms_norm", x, weight)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@define(
    "add_rms_norm(Tensor x, Tensor residual, Tensor? weight, float eps, Tensor? x_weight=None)"
    " -> (Tensor, Tensor)",
    reference.add_rms_norm,
)
def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual); all [..., C].

    With x_weight [C], of weight's dtype, x is first replaced by rms_norm(x, x_weight, eps), in
    x's dtype: the norm that Gemma puts behind a block. The bits are those of the ops apart.
    """
    _check_add_norm("add_rms_norm", x, residual, weight, x_weight)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out)


def _check_add_norm(
    op: str, x: Tensor, residual: Tensor | None, weight: Tensor | None, x_weight: Tensor | None
) -> None:
    _check_norm(op, x, weight)
    if residual is not None:
        check_shape(op, "residual", residual, x.shape)
        check_dtype(op, "residual", residual, (x.dtype,))
        check_device(op, "residual", residual, x, "x")
    if x_weight is not None:
        dtypes = (x.dtype, torch.float32) if weight is None else (weight.dtype,)
        check_weight(op, "x_weight", x_weight, x, dtypes)


def _check_norm(op: str, x: Tensor, weight: Tensor | None) -> None:
    check_dtype(op, "x", x, FLOATS)
    check_dim(op, "x", x, 1)
    if weight is not None:
        check_weight(op, "weight", weight, x, (x.dtype, torch.float32))


@define(
    "norm_quant_matmul(Tensor x, Tensor? weight, float eps, Tensor qweight, int qtype,"
    ' str act="none", Tensor? bias=None, int layout=0, Tensor? residual=None,'
    " Tensor? x_weight=None) -> (Tensor, Tensor)",
    reference.norm_quant_matmul,
)
def norm_quant_matmul(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    qweight: Tensor,
    qtype: int,
    act: str = reference.UNGATED,
    bias: Tensor | None = None,
    layout: int = 0,
    residual: Tensor | None = None,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A norm with the product that reads it, in one call.

    (quant_matmul(normed, qweight, qtype, bias, layout), total), where (normed, total) is
    add_rms_norm(x, residual, weight, eps, x_weight); without a residual, total is x, or
    rms_norm(x, x_weight, eps). With act "silu" or "gelu" the product is quant_matmul_gated. On the
    CPU the bits are those of the ops. On a GPU the rows of products that are not the vendor's GEMM
    (up to 128, unless a table of the card says otherwise) are normed, without x_weight, where they
    are prepared for the product (one row of packed weights by its kernel), so that normed is not
    rounded to x's dtype; otherwise it is the kernels of the ops, one after the other.
    """
    op = "norm_quant_matmul"
    _check_add_norm(op, x, residual, weight, x_weight)
    check_product(op, x, qweight, qtype, bias, layout)
    acts = (reference.UNGATED, *reference.GATED)
    check(act in acts, op, f"act must be {' or '.join(acts)}, got {act}")
    columns = qweight.shape[0] if act == reference.UNGATED else _half(op, "qweight", qweight)
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    return x.new_empty((*x.shape[:-1], columns)), total


@define(
    "rope(Tensor x, Tensor positions, Tensor inv_freq, bool interleaved=False, float scale=1.0)"
    " -> Tensor",
    reference.rope,
)
def rope(
    x: Tensor, positions: Tensor, inv_freq: Tensor, interleaved: bool = False, scale: float = 1.0
) -> Tensor:
    """Rotary position embedding of the first 2*len(inv_freq) dimensions of every head.

    x [..., T, H, D]; positions int [T] or x.shape[:-2]; inv_freq float32 [R/2], R <= D. The pairs
    are (i, i + R/2), or (2i, 2i + 1) when interleaved; cos and sin are multiplied by `scale`.
    """
    _check_rope("rope", "x", x, positions, inv_freq)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _check_rope(op: str, name: str, x: Tensor, positions: Tensor, inv_freq: Tensor) -> None:
    """Check what rotates the argument `name`."""
    check_dtype(op, name, x, FLOATS)
    check_dim(op, name, x, 3)
    check_dtype(op, "positions", positions, INTS)
    check_device(op, "positions", positions, x, name)
    check(
        positions.shape in (x.shape[:-2], x.shape[-3:-2]),
        op,
        f"positions must have shape [T] or all but the last two dimensions of {name} "
        f"{list(x.shape)}, got {list(positions.shape)}",
    )
    check_dtype(op, "inv_freq", inv_freq, (torch.float32,))
    check_device(op, "inv_freq", inv_freq, x, name)
    check(
        inv_freq.dim() == 1 and 2 * inv_freq.shape[0] <= x.shape[-1],
        op,
        f"inv_freq must have shape [R/2] with R <= {x.shape[-1]}, got {list(inv_freq.shape)}",
    )


@define("silu_mul(Tensor gate, Tensor up) -> Tensor", reference.silu_mul)
def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; both [..., F], rows may be strided."""
    return _gated("silu_mul", gate, up)


@define("gelu_mul(Tensor gate, Tensor up) -> Tensor", reference.gelu_mul)
def gelu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up with the tanh form of GELU; both [..., F], rows may be strided."""
    return _gated("gelu_mul", gate, up)


def _gated(op: str, gate: Tensor, up: Tensor) -> Tensor:
    check_dtype(op, "gate", gate, FLOATS)
    check_dim(op, "gate", gate, 1)
    check_shape(op, "up", up, gate.shape)
    check_dtype(op, "up", up, (gate.dtype,))
    check_device(op, "up", up, gate, "gate")
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@define(
    "accumulate_(Tensor(a!) dst, Tensor src, Tensor offset) -> ()",
    reference.accumulate_,
    value_checks.accumulate_offset,
)
def accumulate_(dst: Tensor, src: Tensor, offset: Tensor) -> None:
    """In place dst[offset : offset + n] += src; dst [S, ...], src [n, ...], offset int64 [] or [1].

    The offset is read on the device, so that a captured graph can replay with new values.
    """
    op = "accumulate_"
    check_dtype(op, "dst", dst, FLOATS)
    check_dim(op, "dst", dst, 1)
    check_dim(op, "src", src, 1)
    check(
        src.shape[1:] == dst.shape[1:],
        op,
        f"src must have dst's shape {list(dst.shape)} but for the first dimension, "
        f"got {list(src.shape)}",
    )
    check_dtype(op, "src", src, (dst.dtype,))
    check_device(op, "src", src, dst, "dst")
    check(
        src.shape[0] <= dst.shape[0],
        op,
        f"src has {src.shape[0]} rows but dst has only {dst.shape[0]}",
    )
    check_dtype(op, "offset", offset, (torch.int64,))
    check(
        offset.dim() == 0 or (offset.dim() == 1 and offset.shape[0] == 1),
        op,
        f"offset must have shape [] or [1], got {list(offset.shape)}",
    )
    check_device(op, "offset", offset, dst, "dst")


@define(
    "kv_cache_write_(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor slots)"
    " -> ()",
    reference.kv_cache_write_,
    value_checks.cache_slots,
)
def kv_cache_write_(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor) -> None:
    """In place store of new keys and values.

    k_cache [A, S, Hkv, Dk] and v_cache [A, S, Hkv, Dv]: A sequences of S positions, or A blocks of
    S tokens; k [..., Hkv, Dk], v [..., Hkv, Dv]; slots int64, one per
    token in the order of k's leading dimensions: slot = a * S + s, a negative slot is skipped.
    Two tokens must not share a slot.

    A cache's dtype says how it stores numbers, k_cache's and v_cache's independently: a float, or
    float8_e4m3fn (too large numbers become the largest) or float8_e5m2, rounded to the nearest; or
    uint8 for GGML blocks of 32 values, q8_0 [A, S, Hkv, D/32 * 34] or q4_0 [A, S, Hkv, D/32 * 18].
    """
    _check_new_tokens("kv_cache_write_", k_cache, v_cache, k, v, slots)


def _check_new_tokens(
    op: str, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor
) -> None:
    for name, cache, new in (("k", k_cache, k), ("v", v_cache, v)):
        check_cache(op, f"{name}_cache", cache)
        check_device(op, f"{name}_cache", cache, k, "k")
        check_dtype(op, name, new, FLOATS)
        check_dim(op, name, new, 2)
        head_dim = new.shape[-1]
        stored = check_head(op, f"{name}_cache", cache, head_dim)
        wanted = cache.shape[3] if stored.blocks is None else head_dim
        check_shape(op, name, new, [*k.shape[:-2], cache.shape[2], wanted])
        check_dtype(op, name, new, (k.dtype,))
        check_device(op, name, new, k, "k")
    check_shape(op, "v_cache", v_cache, [*k_cache.shape[:3], v_cache.shape[3]])
    check_dtype(op, "slots", slots, (torch.int64,))
    tokens = math.prod(k.shape[:-2])
    check(
        slots.numel() == tokens,
        op,
        f"slots must have one entry for each of the {tokens} tokens of k, got {list(slots.shape)}",
    )
    check_device(op, "slots", slots, k, "k")


@define(
    "rope_kv_cache_write_(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor q, Tensor k, Tensor v,"
    " Tensor slots, Tensor positions, Tensor inv_freq, bool interleaved=False, float scale=1.0,"
    " Tensor? q_norm=None, Tensor? k_norm=None, float eps=1e-06) -> Tensor",
    reference.rope_kv_cache_write_,
    value_checks.rope_cache_slots,
)
def rope_kv_cache_write_(
    k_cache: Tensor,
    v_cache: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    positions: Tensor,
    inv_freq: Tensor,
    interleaved: bool = False,
    scale: float = 1.0,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """What stands between the projections and attention -> the rotated q, [..., T, Hq, D].

    rope of q [..., T, Hq, D] and k [..., T, Hkv, D], then kv_cache_write_ of k and v
    [..., T, Hkv, Dv]; the other arguments are those of the two ops. With q_norm or k_norm [D], in
    q's dtype or float32, the heads go through rms_norm first. Values are rounded to q's dtype
    after each step: the results are those of the ops that it stands for.
    """
    op = "rope_kv_cache_write_"
    _check_rope(op, "q", q, positions, inv_freq)
    _check_new_tokens(op, k_cache, v_cache, k, v, slots)
    check_shape(op, "k", k, [*q.shape[:-2], k.shape[-2], q.shape[-1]])
    check_dtype(op, "k", k, (q.dtype,))
    check_device(op, "k", k, q, "q")
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            check_weight(op, name, weight, q, (q.dtype, torch.float32), "q")
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@define(
    "attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor seq_lens,"
    " Tensor? block_table=None, float? scale=None, bool causal=True, int window=0,"
    " float softcap=0.0, Tensor? sinks=None, Tensor? alibi_slopes=None) -> Tensor",
    reference.attention,
    value_checks.attention_places,
)
def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens: Tensor,
    block_table: Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Attention of T new tokens per sequence over its cache -> [B, T, Hq, Dv] in q's dtype.

    q [B, T, Hq, D]; k_cache [B, S, Hkv, D] and v_cache [B, S, Hkv, Dv], or pages
    [num_blocks, block_size, Hkv, D] with block_table int32 [B, max_blocks]. seq_lens int32 [B]
    counts the valid keys of each sequence, the T new ones included: query t stands at position
    seq_lens[b] - T + t. Caches may have any format of kv_cache_write_, k_cache and v_cache each.
    scale defaults to 1/sqrt(D). window > 0: a query sees the last `window` positions, its own
    included. softcap > 0: scores become softcap * tanh(score / softcap). sinks float32 [Hq]: one
    more logit per head in the softmax's denominator. alibi_slopes float32 [Hq]: slope * (key
    position - query position) is added to the scores.
    """
    op = "attention"
    check(q.dim() == 4, op, f"q must be [B, T, Hq, D], got {list(q.shape)}")
    check_dtype(op, "q", q, FLOATS)
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_cache(op, name, cache)
        check_device(op, name, cache, q, "q")
    b, _, hq, d = q.shape
    hkv = k_cache.shape[2]
    if check_head(op, "k_cache", k_cache, d).blocks is None:
        check_shape(op, "k_cache", k_cache, [*k_cache.shape[:3], d])
    check_shape(op, "v_cache", v_cache, [*k_cache.shape[:3], v_cache.shape[3]])
    value_dim = check_value_head(op, "v_cache", v_cache, d)
    check_head(op, "v_cache", v_cache, value_dim)
    check(hkv > 0 and hq % hkv == 0, op, f"{hq} query heads are no multiple of {hkv} key heads")
    check_dtype(op, "seq_lens", seq_lens, (torch.int32,))
    check_shape(op, "seq_lens", seq_lens, [b])
    check_device(op, "seq_lens", seq_lens, q, "q")
    if block_table is None:
        check(k_cache.shape[0] == b, op, f"k_cache holds {k_cache.shape[0]} sequences, q {b}")
    else:
        check_dtype(op, "block_table", block_table, (torch.int32,))
        check(
            block_table.dim() == 2 and block_table.shape[0] == b,
            op,
            f"block_table must be [{b}, max_blocks], got {list(block_table.shape)}",
        )
        check_device(op, "block_table", block_table, q, "q")
    check(window >= 0, op, f"window must not be negative, got {window}")
    check(softcap >= 0, op, f"softcap must not be negative, got {softcap:f}")
    for name, per_head in (("sinks", sinks), ("alibi_slopes", alibi_slopes)):
        if per_head is not None:
            check_dtype(op, name, per_head, (torch.float32,))
            check_shape(op, name, per_head, [hq])
            check_device(op, name, per_head, q, "q")
    return q.new_empty((*q.shape[:3], value_dim))


@define(
    "sample(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p,"
    " Tensor seed, Tensor step) -> Tensor",
    reference.sample,
)
def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    step: Tensor,
) -> Tensor:
    """One token id per row of logits [B, V] -> int64 [B].

    temperature, top_p, min_p float32 [B]; top_k, seed, step int64 [B]. top-k, top-p and min-p
    filter in that order on the unscaled logits, then temperature. temperature <= 0 takes the first
    maximum; top_k <= 0, top_p >= 1 and min_p <= 0 are off. (seed, step) decides the choice.
    """
    op = "sample"
    check(logits.dim() == 2, op, f"logits must be [B, V], got {list(logits.shape)}")
    check(logits.shape[1] > 0, op, "logits have no tokens to choose from")
    check_dtype(op, "logits", logits, FLOATS)
    for name, tensor, dtype in (
        ("temperature", temperature, torch.float32),
        ("top_k", top_k, torch.int64),
        ("top_p", top_p, torch.float32),
        ("min_p", min_p, torch.float32),
        ("seed", seed, torch.int64),
        ("step", step, torch.int64),
    ):
        check_dtype(op, name, tensor, (dtype,))
        check_shape(op, name, tensor, [logits.shape[0]])
        check_device(op, name, tensor, logits, "logits")
    return logits.new_empty((logits.shape[0],), dtype=torch.int64)
