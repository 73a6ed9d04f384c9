"""The quantizers: bit-exact where gguf-py has one, by the written format or by their error else."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge_torch import load_gguf
from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import named

Floats = npt.NDArray[np.float32]

QUANTIZABLE = [QUANT_TYPES[qtype] for qtype in sorted(quant_ops.QUANTIZABLE)]
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
OTHERS = ("Q8_1", "Q8_K", "Q1_0", "NVFP4")
IN_GGUF = [row for row in QUANTIZABLE if row.name not in SEARCHED + OTHERS]
NAMES = {"ids": lambda value: getattr(value, "name", None)}
K = 512


def cases() -> dict[str, Floats]:
    """Finite values of every kind, ``[8, K]`` each."""
    rng = np.random.default_rng(11)

    def gauss() -> Floats:
        return rng.standard_normal((8, K)).astype(np.float32)

    powers = np.ldexp(np.float32(1), rng.integers(-20, 20, (8, K))).astype(np.float32)
    below = np.nextafter(powers, np.float32(0)) * rng.choice([-1, 1], (8, K)).astype(np.float32)
    return {
        "gauss": gauss(),
        "zero": np.zeros((8, K), np.float32),
        "negative zero": -np.zeros((8, K), np.float32),
        "negative": -np.abs(gauss()),
        "positive": np.abs(gauss()),
        "constant": np.full((8, K), -3.3, np.float32),
        "ties": rng.integers(-8, 9, (8, K)).astype(np.float32) / 2,
        "halves": rng.integers(-127, 128, (8, K)).astype(np.float32) + np.float32(0.5),
        "sparse": np.where(rng.random((8, K)) < 0.02, gauss(), np.float32(0)),
        "large": gauss() * np.float32(1e4),
        "huge": gauss() * np.float32(1e30),
        "small": gauss() * np.float32(1e-6),
        "tiny": gauss() * np.float32(1e-30),
        "subnormal": gauss() * np.float32(1e-39),
        "powers of two": powers,
        "below powers of two": below,
        "mixed": (gauss() * 10.0 ** rng.integers(-20, 20, (8, K))).astype(np.float32),
    }


CASES = cases()


def quantized(x: Floats, row: QuantType) -> npt.NDArray[np.uint8]:
    return quant_ops.quantize(torch.from_numpy(x), row.id).numpy()


def round_trip(x: torch.Tensor, row: QuantType) -> torch.Tensor:
    return quant_ops.dequantize(quant_ops.quantize(x, row.id), row.id)


def relative_error(x: torch.Tensor, row: QuantType) -> float:
    """RMS of what the round trip loses over RMS of the values."""
    return ((round_trip(x, row) - x).double().norm() / x.double().norm()).item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("row", IN_GGUF, **NAMES)
def test_bit_exact_with_gguf(row: QuantType, case: str) -> None:
    with np.errstate(all="ignore"):
        want = gguf.quants.quantize(CASES[case], gguf.GGMLQuantizationType(row.id))
    assert np.array_equal(quantized(CASES[case], row), want.view(np.uint8))


def test_all_of_gguf_is_covered() -> None:
    x = np.ones((1, 256), np.float32)
    for row in QUANT_TYPES.values():
        try:
            gguf.quants.quantize(x, gguf.GGMLQuantizationType(row.id))
        except NotImplementedError:
            continue
        assert row in IN_GGUF


def away_from_zero(x: np.float32) -> int:
    return int(np.sign(x) * np.floor(abs(np.float64(x)) + 0.5))


def q8_1_by_the_formula(x: Floats) -> bytes:
    d = np.abs(x).max() / np.float32(127)
    inverse = np.float32(1) / d if d else np.float32(0)
    q = [away_from_zero(v * inverse) for v in x]
    with np.errstate(over="ignore"):
        total = np.float16(np.float32(sum(q)) * d)
    return struct.pack("<ee32b", np.float16(d), total, *q)


def q8_k_by_the_formula(x: Floats) -> bytes:
    extreme = max(x, key=abs)
    if extreme == 0:
        return bytes(292)
    inverse = np.float32(-127) / extreme
    q = [min(127, int(np.rint(inverse * v))) for v in x]
    sums = [sum(q[i : i + 16]) for i in range(0, 256, 16)]
    return struct.pack("<f256b16h", np.float32(1) / inverse, *q, *sums)


def q1_0_by_the_formula(x: Floats) -> bytes:
    total = np.float32(0)
    for v in x:
        total += abs(v)
    bits = sum(1 << i for i, v in enumerate(x) if v >= 0)
    return struct.pack("<e", np.float16(total / np.float32(128))) + bits.to_bytes(16, "little")


def nvfp4_by_the_formula(x: Floats) -> bytes:
    scales = b""
    codes = b""
    for group in x.reshape(4, 16):
        code = gguf.quants.NVFP4.fp32_to_ue4m3(np.array([np.abs(group).max() / np.float32(6)]))
        scale = gguf.quants.NVFP4.ue4m3_to_fp32(code).astype(np.float32)
        levels = np.array(gguf.quants.NVFP4.kvalues, np.float32) * scale
        q = [int(np.abs(levels - v).argmin()) for v in group]
        scales += code.astype(np.uint8).tobytes()
        codes += bytes(a | b << 4 for a, b in zip(q[:8], q[8:], strict=True))
    return scales + codes


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("Q8_1", q8_1_by_the_formula),
        ("Q8_K", q8_k_by_the_formula),
        ("Q1_0", q1_0_by_the_formula),
        ("NVFP4", nvfp4_by_the_formula),
    ],
)
@pytest.mark.parametrize("case", sorted(set(CASES) - {"huge", "subnormal", "mixed"}))
def test_types_beyond_gguf_follow_ggmls_formula(
    name: str, oracle: Callable[[Floats], bytes], case: str
) -> None:
    row = named(name)
    x = CASES[case].reshape(-1, row.block_size)[:16]
    got = quantized(x, row)
    for block, values in zip(got, x, strict=True):
        assert block.tobytes() == oracle(values)


# Relative RMS error on Gaussian data. llama.cpp's quantizers (without an importance matrix) give
# 0.2966, 0.1510, 0.0713, 0.0361, 0.0177, 0.0761 and 0.0767 on such data; see docs/quantization.md.
LIMITS = {
    "Q2_K": 0.262,
    "Q3_K": 0.145,
    "Q4_K": 0.0702,
    "Q5_K": 0.0349,
    "Q6_K": 0.0173,
    "IQ4_NL": 0.0740,
    "IQ4_XS": 0.0747,
}


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("scale", [0.02, 1.0, 1e3])
def test_searched_types_have_a_small_error(name: str, scale: float) -> None:
    x = torch.randn(64, 1024, generator=torch.Generator().manual_seed(5)) * scale
    assert relative_error(x, named(name)) < LIMITS[name]


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_types_keep_what_they_can_represent(name: str) -> None:
    row = named(name)
    x = torch.randn(16, 1024, generator=torch.Generator().manual_seed(6))
    once = round_trip(x, row)
    assert relative_error(once, row) < 0.25 * relative_error(x, row)
    assert torch.equal(round_trip(torch.zeros(4, 256), row), torch.zeros(4, 256))
    for constant in (-0.75, 3.0):
        flat = round_trip(torch.full((1, 256), constant), row)
        assert (flat - constant).abs().max() <= 2e-3 * abs(constant)


@pytest.mark.parametrize("name", SEARCHED)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    patterns=st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_searched_types_survive_any_bits(name: str, patterns: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.choice(np.array(patterns, np.uint32), 512)
    y = round_trip(torch.from_numpy(bits.view(np.float32)), named(name))
    assert y.isfinite().all()


@pytest.mark.parametrize("row", QUANTIZABLE, **NAMES)
def test_kernel_gives_the_bits_of_the_reference(row: QuantType) -> None:
    x = torch.from_numpy(np.stack(list(CASES.values())))
    same = torch.ops.rocmforge.quantize(x, row.id) == quant_ops.quantize(x, row.id)
    assert [case for case, equal in zip(CASES, same, strict=True) if not equal.all()] == []


@pytest.mark.parametrize("row", QUANTIZABLE, **NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernel_takes_views_of_other_dtypes(row: QuantType, dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 3 * K, generator=torch.Generator().manual_seed(row.id)).to(dtype)
    view = x.transpose(0, 1)[..., K : 2 * K]
    want = quant_ops.quantize(view.float().contiguous(), row.id)
    assert torch.equal(torch.ops.rocmforge.quantize(view, row.id), want)
    assert torch.equal(quant_ops.quantize(view, row.id), want)
    assert torch.ops.rocmforge.quantize(view[:0], row.id).shape == (0, *want.shape[1:])


@pytest.mark.gpu
@pytest.mark.parametrize("row", QUANTIZABLE, **NAMES)
def test_reference_gives_the_same_bits_on_the_gpu(row: QuantType) -> None:
    x = torch.from_numpy(np.stack(list(CASES.values())))
    same = quant_ops.quantize(x.cuda(), row.id).cpu() == quant_ops.quantize(x, row.id)
    assert [case for case, equal in zip(CASES, same, strict=True) if not equal.all()] == []


@pytest.mark.parametrize("row", QUANTIZABLE, **NAMES)
def test_reference_gives_the_same_bits_in_chunks(
    row: QuantType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(CASES["gauss"][0, : max(4 * row.block_size, 8)])
    x = x[: x.numel() // row.block_size * row.block_size]
    want = quant_ops.quantize(x, row.id)
    monkeypatch.setattr(quant_ops, "CHUNK_ELEMENTS", row.block_size)
    assert torch.equal(quant_ops.quantize(x, row.id), want)


@pytest.mark.parametrize("quantize", [quant_ops.quantize, torch.ops.rocmforge.quantize])
def test_types_without_a_quantizer_say_which_have_one(
    quantize: Callable[[torch.Tensor, int], torch.Tensor],
) -> None:
    message = "IQ2_XS has no quantizer; types with one: F32, F16, Q4_0, Q4_1, .*, Q1_0"
    with pytest.raises((ValueError, RuntimeError), match=message):
        quantize(torch.zeros(256), named("IQ2_XS").id)
    with pytest.raises((ValueError, RuntimeError), match=r"last dimension.* multiple of .*256"):
        quantize(torch.zeros(255), named("Q4_K").id)


def test_what_a_kernel_hands_on_is_computed_by_the_reference_with_one_warning() -> None:
    x = torch.randn(2, 256)
    hand_on = torch.ops.rocmforge_fallback.quantize
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("Q4_K", "Q8_0", "Q4_K"):
            assert torch.equal(hand_on(x, named(name).id), quant_ops.quantize(x, named(name).id))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert "quantize has no cpu kernel for these arguments; its reference runs" in messages[0]
    with pytest.raises(RuntimeError, match="rocmforge::quantize: IQ2_XS has no quantizer"):
        hand_on(x, named("IQ2_XS").id)


# benchmarks/quantize_error.py has all tensors, and llama.cpp's quantizer, which loses 0.0003.
@pytest.mark.parametrize(
    ("tensor", "name"), [("blk.0.attn_output.weight", "Q4_K"), ("blk.0.ffn_down.weight", "Q6_K")]
)
def test_weights_of_a_real_file_survive_requantization(
    demo_model_path: Path, tensor: str, name: str
) -> None:
    row = named(name)
    weight = load_gguf(demo_model_path).tensors[tensor]
    assert weight.qtype == row.id
    assert relative_error(weight.dequantize()[:200], row) < 0.001
