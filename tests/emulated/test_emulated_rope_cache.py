"""rope_kv_cache_write on AMD code: the bits of the launches that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tensors import DTYPE_CODES, bits, from_bits, give, take
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS
from tools.amd.emulator import Emulator, Output
from tools.amd.emulator.messages import Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
CODES = {"f32": 0, "f16": 1, "bf16": 2, "fp8": 3, "fp8_e5m2": 4, "q8_0": 5, "q4_0": 6}
SLOTS = torch.tensor([5, 11, -1, 12])  # the last two are nowhere
POSITIONS = torch.tensor([0, 4095, 7, 131071])
TOKENS, PLACES, BLOCK_SIZE, EPS, SCALE = len(SLOTS), 12, 4, 1e-5, 1.25


@dataclass
class Call:
    """q, k [tokens, heads, D] and v [tokens, heads, Dv] may be views of one product, their base."""

    q: Tensor
    k: Tensor
    v: Tensor
    caches: tuple[Tensor, Tensor]
    formats: tuple[str, str]
    norms: tuple[Tensor, Tensor] | tuple[None, None]
    pairs: int
    interleaved: bool

    @property
    def inv_freq(self) -> Tensor:
        return 10000.0 ** (-torch.arange(self.pairs) / max(self.pairs, 1))


def make(
    dim: int,
    dtype: torch.dtype,
    formats: tuple[str, str],
    pairs: int,
    interleaved: bool = False,
    norm: torch.dtype | None = F32,
    extra: int = 0,
) -> Call:
    """3 query heads on 1 key head; extra: elements between the rows of the product."""
    torch.manual_seed(dim + pairs)
    product = (4 * torch.randn(TOKENS, 5 * dim + extra)).to(dtype)
    q, k, v = (
        x.unflatten(1, (-1, dim)) for x in product[:, : 5 * dim].split([3 * dim, dim, dim], 1)
    )
    caches = []
    for name in formats:
        stored = CACHE_FORMATS[name].encode(torch.randn(3, BLOCK_SIZE, 1, dim))
        caches.append(stored.view(torch.uint8).clone().view(stored.dtype))
    norms = (None, None) if norm is None else (torch.randn(dim).to(norm), torch.randn(dim).to(norm))
    return Call(q, k, v, (caches[0], caches[1]), formats, norms, pairs, interleaved)


def int64s(*values: int) -> list[tuple[str, Any]]:
    return [("c_int64", value) for value in values]


def rows(x: Tensor) -> Struct:
    """RowLayout of tokens."""
    return Struct(int64s(len(x), 0, x.stride(0)))


def given(x: Tensor) -> Any:
    """The memory of a view, from its first element."""
    rest = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    return give(x.as_strided((rest,), (1,)))


def target(name: str, cache: Tensor, fresh: Tensor) -> Struct:
    """CacheTarget."""
    layout = [*int64s(fresh.shape[2], *cache.stride())]
    layout += [("struct", rows(fresh)), *int64s(fresh.stride(1))]
    return Struct(
        [
            ("c_int", CODES[name]),
            ("c_void_p", Output(bits(cache.view(torch.uint8)).copy())),
            ("c_void_p", given(fresh)),
            ("struct", Struct(layout)),
        ]
    )


def launch(emulator: Emulator, arch: str, call: Call) -> list[Tensor]:
    """The rotated queries and the bytes of both caches."""
    q, dtype = call.q, call.q.dtype
    queries = Struct(
        [
            ("c_void_p", given(q)),
            ("struct", rows(q)),
            *int64s(q.stride(1), q.shape[1], q.shape[2]),
            ("c_void_p", take(tuple(q.shape), dtype)),
        ]
    )
    norm_fields: list[tuple[str, Any]] = []
    for norm in call.norms:
        code = DTYPE_CODES[F32 if norm is None else norm.dtype]
        norm_fields += [("c_int", code), ("c_void_p", give(norm))]
    rotation = Struct(
        [
            ("c_bool", True),
            ("c_void_p", give(POSITIONS)),
            ("c_int64", TOKENS),
            ("c_void_p", give(call.inv_freq)),
            ("c_int64", call.pairs),
            ("c_bool", call.interleaved),
            ("c_float", SCALE),
        ]
    )
    caches = [target(*x) for x in zip(call.formats, call.caches, (call.k, call.v), strict=True)]
    run = emulator.launch(
        CSRC / "hip" / "rope_cache.hip",
        arch,
        "rope_kv_cache_write",
        [DTYPE_CODES[dtype], queries, *caches, Struct([*norm_fields, ("c_float", EPS)]), rotation,
         give(SLOTS), TOKENS, PLACES, BLOCK_SIZE, 1, False, None],
    )  # fmt: skip
    assert len(run.launches) == 1
    return [
        from_bits(run.outputs[0], dtype),
        *(torch.from_numpy(np.array(o)) for o in run.outputs[1:]),
    ]


def composed(emulator: Emulator, arch: str, call: Call) -> list[Tensor]:
    """The same by one launch for every op."""
    dtype = call.q.dtype

    def run(file: str, function: str, values: Sequence[Any]) -> list[Any]:
        return emulator.launch(CSRC / "hip" / f"{file}.hip", arch, function, values).outputs

    def ready(x: Tensor, norm: Tensor | None) -> Tensor:
        shape = tuple(x.shape)
        if norm is not None:
            layout = Struct(int64s(x.shape[1], x.stride(0), x.stride(1)))
            (out,) = run(
                "norm",
                "rms_norm",
                [DTYPE_CODES[dtype], given(x), layout, DTYPE_CODES[norm.dtype], give(norm), EPS,
                 take(shape, dtype), shape[0] * shape[1], shape[2], None],
            )  # fmt: skip
            x = from_bits(out, dtype)
        (out,) = run(
            "rope",
            "rope",
            [DTYPE_CODES[dtype], given(x), rows(x), x.stride(1), True, give(POSITIONS), TOKENS,
             give(call.inv_freq), call.pairs, call.interleaved, SCALE, take(shape, dtype), *shape,
             None],
        )  # fmt: skip
        return from_bits(out, dtype)

    q, k = (ready(x, norm) for x, norm in zip((call.q, call.k), call.norms, strict=True))
    targets = [target(*x) for x in zip(call.formats, call.caches, (k, call.v), strict=True)]
    written = run(
        "cache",
        "kv_cache_write",
        [*targets, DTYPE_CODES[dtype], give(SLOTS), TOKENS, PLACES, BLOCK_SIZE, 1, None],
    )
    return [q, *(torch.from_numpy(np.array(o)) for o in written)]


def assert_composed(emulator: Emulator, arch: str, call: Call) -> None:
    got, wanted = launch(emulator, arch, call), composed(emulator, arch, call)
    for name, a, b in zip(("q", "k_cache", "v_cache"), got, wanted, strict=True):
        assert torch.equal(a, b), f"{name}: {int((a != b).sum())} differ"


PAIRS = [("f16", "f16", F16), ("f32", "bf16", F32), ("fp8", "fp8_e5m2", BF16)]
PAIRS += [("q8_0", "q4_0", F16), ("q4_0", "q8_0", F32), ("bf16", "q8_0", BF16)]
CASES = [("gfx1100", *pair) for pair in PAIRS]
CASES += [(arch, "q8_0", "fp8", F16) for arch in ("gfx1201", "gfx942")]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("arch", "k_name", "v_name", "dtype"), CASES, ids=str)
def test_the_bits_are_those_of_three_launches(
    emulator: Emulator, arch: str, k_name: str, v_name: str, dtype: torch.dtype, interleaved: bool
) -> None:
    pairs = 20 if interleaved else 24
    assert_composed(emulator, arch, make(64, dtype, (k_name, v_name), pairs, interleaved))


@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_heads_longer_than_a_wave(emulator: Emulator, arch: str) -> None:
    """As Gemma has them; the norm's weight has the dtype of the heads."""
    assert_composed(emulator, arch, make(256, F16, ("f16", "q8_0"), 128, norm=F16))


@pytest.mark.parametrize("pairs", [0, 3, 12, 13])
@pytest.mark.parametrize("interleaved", [False, True])
def test_odd_heads(emulator: Emulator, pairs: int, interleaved: bool) -> None:
    """Neither aligned nor a whole number of pieces; without a norm, whose order of sums differs."""
    call = make(26, F16, ("f16", "fp8"), pairs, interleaved, norm=None, extra=3)
    assert_composed(emulator, "gfx1100", call)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_against_the_reference(emulator: Emulator, dtype: torch.dtype) -> None:
    """A norm at odd addresses too."""
    for dim, extra in ((64, 0), (50, 5)):
        call = make(dim, dtype, ("f32", "f32"), 21, norm=dtype, extra=extra)
        got = launch(emulator, "gfx1100", call)
        inside = SLOTS.where(SLOTS < PLACES, -1)
        q = reference.rope_kv_cache_write_(
            *call.caches, call.q, call.k, call.v, inside, POSITIONS, call.inv_freq,
            call.interleaved, SCALE, *call.norms, EPS,
        )  # fmt: skip
        tolerance = 8 * max(1e-6, torch.finfo(dtype).eps)
        caches = [out.view(F32) for out in got[1:]]
        for a, b in zip((got[0], *caches), (q, *call.caches), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
