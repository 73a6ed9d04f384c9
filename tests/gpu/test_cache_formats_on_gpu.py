"""Key-value caches in every format and `quantize` on the GPU: the reference's bytes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# GPU kernels of `quantize`.
QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1")
on_every_format = pytest.mark.parametrize("name", CACHE_FORMATS)
on_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, on the CPU."""
    return tensor.contiguous().view(torch.uint8).cpu()


def empty(name: str, *shape: int) -> Tensor:
    """A cache for values of `shape`, filled with the byte 0xa5."""
    entry = CACHE_FORMATS[name]
    cache = torch.empty((*shape[:-1], entry.row_size(shape[-1])), dtype=entry.dtype)
    cache.view(torch.uint8).fill_(0xA5)
    return cache


def numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of every size, with blocks of zeros and ties of the largest."""
    x = torch.randn(shape) * torch.exp2(torch.randint(-12, 9, (*shape[:-1], 1)).float())
    x[..., :: max(shape[-1] // 5, 1)] = 0
    x.view(-1, shape[-1])[3::7] = 0
    x.view(-1, shape[-1])[4::7] = -2.5
    return x.to(dtype)


def assert_written(names: tuple[str, str], k: Tensor, v: Tensor, slots: Tensor) -> None:
    """Both caches, with room for 40 tokens in blocks of 8, hold the reference's bytes."""
    caches = [empty(name, 5, 8, *x.shape[-2:]) for name, x in zip(names, (k, v), strict=True)]
    on_gpu = [cache.cuda() for cache in caches]
    ops.kv_cache_write_(*on_gpu, k.cuda(), v.cuda(), slots.cuda())
    reference.kv_cache_write_(*caches, k, v, slots)
    for name, got, wanted in zip(names, on_gpu, caches, strict=True):
        wrong = int((raw(got) != raw(wanted)).sum())
        assert wrong == 0, f"{wrong} wrong bytes of {raw(wanted).numel()} in {name}"


@on_every_format
@on_every_dtype
@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize(("k_dim", "v_dim"), [(32, 32), (64, 96), (128, 128), (256, 32)])
def test_writes_are_the_references_bytes(
    name: str, dtype: torch.dtype, heads: int, k_dim: int, v_dim: int
) -> None:
    for tokens in (1, 2, 17):
        k, v = (numbers(tokens, heads, dim, dtype=dtype) for dim in (k_dim, v_dim))
        slots = torch.randperm(40)[:tokens]
        slots[1::3] = -1
        assert_written((name, name), k, v, slots)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "fp8", "fp8_e5m2"])
@on_every_dtype
def test_heads_of_any_width_without_blocks(name: str, dtype: torch.dtype) -> None:
    for k_dim, v_dim in ((1, 7), (80, 33), (72, 576)):
        k, v = (numbers(6, 2, dim, dtype=dtype) for dim in (k_dim, v_dim))
        assert_written((name, name), k, v, torch.tensor([39, 0, -5, 8, 7, 20]))


@pytest.mark.parametrize("k_name", ["f16", "fp8", "q8_0", "q4_0"])
@pytest.mark.parametrize("v_name", ["bf16", "fp8_e5m2", "q8_0", "q4_0"])
def test_keys_and_values_in_formats_of_their_own(k_name: str, v_name: str) -> None:
    k, v = (numbers(2, 5, 4, dim, dtype=torch.float16) for dim in (64, 128))
    assert_written((k_name, v_name), k, v, torch.randperm(40)[:10])


@on_every_format
def test_views(name: str) -> None:
    """Heads first in memory, tokens that are columns of one product, odd addresses."""
    heads, dim = 3, 64
    qkv = numbers(6, (2 * heads + 1) * dim, dtype=torch.bfloat16)
    k = qkv[:, dim : (heads + 1) * dim].unflatten(-1, (heads, dim))
    v = qkv[:, (heads + 1) * dim :].unflatten(-1, (heads, dim))
    odd = numbers(6 * heads * dim + 1, dtype=torch.bfloat16)[1:].view(6, heads, dim)
    slots = torch.tensor([5, -1, 11, 0, 3, 7])
    caches = [empty(name, 3, heads, 4, dim).transpose(1, 2) for _ in range(2)]
    for keys, values in ((k, v), (odd, k)):
        moved = [cache.cuda() for cache in caches]
        assert all(a.stride() == b.stride() for a, b in zip(moved, caches, strict=True))
        wanted = [cache.clone() for cache in caches]
        big, small = qkv.cuda(), torch.cat([odd.flatten()[:1], odd.flatten()]).cuda()
        on_gpu = {
            id(k): big[:, dim : (heads + 1) * dim].unflatten(-1, (heads, dim)),
            id(v): big[:, (heads + 1) * dim :].unflatten(-1, (heads, dim)),
            id(odd): small[1:].view(6, heads, dim),
        }
        ops.kv_cache_write_(*moved, on_gpu[id(keys)], on_gpu[id(values)], slots.cuda())
        reference.kv_cache_write_(*wanted, keys, values, slots)
        for got, want in zip(moved, wanted, strict=True):
            assert torch.equal(raw(got), raw(want))


@pytest.mark.parametrize("name", ["fp8", "fp8_e5m2"])
def test_every_float16_becomes_the_references_8_bits(name: str) -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.float16).view(1, 256, 256)
    cache = [empty(name, 1, 1, 256, 256) for _ in range(2)]
    on_gpu = [c.cuda() for c in cache]
    ops.kv_cache_write_(*on_gpu, x.cuda(), x.cuda(), torch.zeros(1, dtype=torch.int64).cuda())
    reference.kv_cache_write_(*cache, x, x, torch.zeros(1, dtype=torch.int64))
    for got, wanted in zip(on_gpu, cache, strict=True):
        # The sign of NaN is nobody's promise.
        a, b = got.cpu().float(), wanted.float()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(raw(got)[~b.isnan()], raw(wanted)[~b.isnan()])


@on_every_format
def test_a_captured_graph_sees_new_slots_and_values(name: str) -> None:
    cache = [empty(name, 3, 4, 2, 64).cuda() for _ in range(2)]
    k, v = torch.randn(3, 2, 64, device="cuda"), torch.randn(3, 2, 64, device="cuda")
    slots = torch.tensor([0, 1, 2], device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        ops.kv_cache_write_(*cache, k, v, slots)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.kv_cache_write_(*cache, k, v, slots)
    for places in ([0, 1, 2], [11, -1, 5], [12, 2**40, 3], [-(2**63), 2**63 - 1, 7]):
        for c in cache:
            c.view(torch.uint8).fill_(0xA5)
        k.normal_(), v.normal_()
        slots.copy_(torch.tensor(places))
        graph.replay()
        wanted = [empty(name, 3, 4, 2, 64) for _ in range(2)]
        inside = torch.tensor([place if place < 12 else -1 for place in places])
        reference.kv_cache_write_(*wanted, k.cpu(), v.cpu(), inside)
        for got, want in zip(cache, wanted, strict=True):
            assert torch.equal(raw(got), raw(want))


@on_every_dtype
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantize_gives_the_references_bytes(name: str, dtype: torch.dtype) -> None:
    row = QUANT_TYPES_BY_NAME[name]
    for shape in ((32,), (1, 64), (3, 5, 96), (129, 4096), (0, 32)):
        x = numbers(*shape, dtype=dtype)
        got = ops.quantize(x.cuda(), row.id)
        assert got.is_cuda
        assert torch.equal(got.cpu(), reference.quantize(x, row.id)), shape
    wide = numbers(7, 200, dtype=dtype)
    for columns in (slice(0, 160), slice(3, 195)):
        got = ops.quantize(wide.cuda()[:, columns], row.id)
        assert torch.equal(got.cpu(), reference.quantize(wide[:, columns], row.id))
    tall = numbers(64, 7, dtype=dtype).cuda().T
    assert torch.equal(ops.quantize(tall, row.id).cpu(), reference.quantize(tall.cpu(), row.id))


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantize_of_numbers_that_need_care(name: str) -> None:
    row = QUANT_TYPES_BY_NAME[name]
    scales = torch.exp2(torch.arange(-149.0, 128.0))
    x = torch.cat([scales[:, None] * torch.randn(277, 32).clamp(-1, 1), torch.zeros(3, 32)])
    x[-2, 5], x[-1, 31] = -0.0, -1.0
    x = x.where(x.isfinite(), 0.0)
    got = ops.quantize(x.cuda(), row.id).cpu()
    assert torch.equal(got, reference.quantize(x, row.id))


def test_quantize_of_other_types_is_the_reference_and_says_so_once() -> None:
    x = torch.randn(4, 512, device="cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("Q4_K", "Q6_K", "Q4_K", "IQ4_NL"):
            row = QUANT_TYPES_BY_NAME[name]
            got = ops.quantize(x, row.id)
            assert got.is_cuda
            assert torch.equal(got.cpu(), reference.quantize(x.cpu(), row.id))
    texts = [str(w.message) for w in caught if "rocmforge::quantize" in str(w.message)]
    assert len(texts) <= 1  # another test may have seen it
    assert all("no cuda kernel for these arguments; its reference runs" in text for text in texts)
    with pytest.raises(RuntimeError, match="rocmforge::quantize: IQ2_XS has no quantizer"):
        ops.quantize(x, QUANT_TYPES_BY_NAME["IQ2_XS"].id)
    with pytest.raises(RuntimeError, match="a multiple of Q8_0's block size 32, got 33"):
        ops.quantize(x[:, :33], 8)
