"""Attention on a GPU against float64: every feature, format and shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_cases import FORMATS, Call, Case, assert_right, make
from torch import Tensor

from rocmforge_torch import config
from rocmforge_torch.ops import reference

pytestmark = pytest.mark.gpu
attention = torch.ops.rocmforge.attention.default
F16, F32, BF16 = torch.float16, torch.float32, torch.bfloat16
REPEATS = 100


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Outputs and workspaces start as NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(value: Any) -> Any:
    return value.cuda() if isinstance(value, Tensor) else value


def arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    args = [on_gpu(x) for x in (call.q, call.k, call.v, call.seq_lens, call.table)]
    return args, {name: on_gpu(value) for name, value in call.options.items()}


def check(case: Case, exact: bool = False) -> None:
    call = make(case)
    args, options = arguments(call)
    got = attention(*args, **options)
    assert got.is_contiguous()
    assert_right(got.cpu(), case, call, exact)
    assert torch.equal(got, attention(*args, **options)), f"{case}: other bits"


ALL = {
    "window": 100,
    "softcap": 2.0,
    "scale": 0.2,
    "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0, -3.0, 1.0, 0.1, 4.0]),
    "alibi_slopes": torch.tensor([0.5, 0.25, 0.0, 0.125, 0.1, 0.2, 0.3, 0.01]),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    *({name: value} for name, value in ALL.items()),
    {"causal": False},
    {"causal": False, "window": 70},
    ALL,
]
LENGTHS = [(1, 0, 33), (700, 64, 513), (4097, 1, 65)]
QUERIES = [1, 2, 5, 17, 70, 200]
HEADS = [(8, 8), (8, 2), (8, 1), (6, 2)]
HEAD_DIMS = [8, 16, 40, 64, 72, 96, 120, 128, 136, 192, 200, 256]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
def test_options(options: dict[str, Any], queries: int, dtype: torch.dtype) -> None:
    for number, lengths in enumerate(LENGTHS):
        block_size = 16 if (number + queries) % 2 else 0
        check(Case(lengths, queries, 8, 2, q_dtype=dtype, block_size=block_size, options=options))


@pytest.mark.parametrize("k_format", FORMATS)
@pytest.mark.parametrize("v_format", FORMATS)
def test_formats(k_format: str, v_format: str) -> None:
    for dtype in (F16, BF16, F32):
        for queries in (1, 3, 90):
            check(
                Case(
                    (260, 31),
                    queries,
                    8,
                    2,
                    128,
                    q_dtype=dtype,
                    k_format=k_format,
                    v_format=v_format,
                )
            )


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("name", FORMATS)
def test_head_dims(head_dim: int, name: str) -> None:
    step = 32 if name in ("q8_0", "q4_0") else 8
    if head_dim % step:
        head_dim = -(-head_dim // step) * step
    for dtype in (F16, BF16):
        for queries in (1, 40):
            check(Case((300, 9), queries, 4, 2, head_dim, q_dtype=dtype, k_format=name))
            check(Case((70,), queries, 4, 2, head_dim, 64, q_dtype=dtype, k_format=name))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("queries", QUERIES)
def test_groups(heads: int, kv_heads: int, queries: int) -> None:
    for dtype in (F16, BF16):
        for name in ("f16", "q8_0"):
            check(Case((900, 130), queries, heads, kv_heads, q_dtype=dtype, k_format=name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("block_size", [1, 3, 64, 256])
def test_pages(name: str, block_size: int) -> None:
    for queries in (1, 33):
        check(Case((700, 0, 64), queries, 8, 2, k_format=name, block_size=block_size))


@pytest.mark.parametrize("head_dim", [1, 7, 33, 100])
def test_heads_of_any_size(head_dim: int) -> None:
    for name in ("f32", "f16", "bf16", "e4m3", "e5m2"):
        check(Case((70, 5), 3, 4, 2, head_dim, 17, k_format=name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("queries", [1, 40])
def test_exact(name: str, queries: int) -> None:
    config.exact = True
    try:
        check(Case((333, 20), queries, 8, 2, k_format=name), exact=True)
    finally:
        config.exact = False


def test_views_and_odd_addresses() -> None:
    call = make(Case((90, 31), 3, 4, 2))
    args, _ = arguments(call)
    for i in range(3):
        for before in (1, 4, 8):
            wide = torch.zeros(*args[i].shape[:-1], 64 + before + 3, dtype=F16, device="cuda")
            view = wide[..., before : before + 64]
            view.copy_(args[i])
            moved = [*args[:i], view, *args[i + 1 :]]
            assert_right(attention(*moved).cpu(), Case((90, 31), 3, 4, 2), call)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
@pytest.mark.parametrize("around", [2, 4, 6, 8, 10, 14])
def test_blocks_at_odd_addresses(name: str, around: int) -> None:
    """Rows of blocks need not be multiples of 16 bytes apart, nor start there."""
    for head_dim in (64, 96, 128, 256):
        for queries in (1, 50):
            case = Case((150, 31), queries, 4, 2, head_dim, k_format=name)
            call = make(case)
            args, _ = arguments(call)
            for i in (1, 2):
                row = args[i].shape[-1]
                wide = args[i].new_full((*args[i].shape[:-1], row + around), 0xFF)
                args[i] = wide[..., around : around + row].copy_(args[i])
            assert_right(attention(*args).cpu(), case, call)


ROOMS = [("q8_0", "q8_0"), ("e4m3", "e4m3"), ("q4_0", "f16"), ("bf16", "e5m2")]


@pytest.mark.parametrize("formats", ROOMS, ids="/".join)
@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
def test_room_beyond_the_lengths(formats: tuple[str, str], head_dim: int) -> None:
    """What stands behind a sequence is NaN, in pages and in unpacked copies alike."""
    for block_size in (0, 16):
        for queries in (1, 6, 50, 150):
            for options in ({}, {"window": 90}):
                check(
                    Case(
                        (300, 41, 0),
                        queries,
                        8,
                        2,
                        head_dim,
                        k_format=formats[0],
                        v_format=formats[1],
                        keys=1500,
                        block_size=block_size,
                        options=options,
                    )
                )


@pytest.mark.parametrize("pages", [200, 400, 1500])
def test_room_that_is_unpacked_in_parts(pages: int) -> None:
    """Tables so wide that a few sequences, or key heads, are unpacked at a time."""
    lengths = (700, 3, 256, 0, 511)
    case = Case(lengths, 40, 8, 2, 128, k_format="q8_0", block_size=256, options=ALL)
    call = make(case)
    assert call.table is not None
    beyond = call.table.new_full((len(lengths), pages - call.table.shape[1]), -1)
    call.table = torch.cat([call.table, beyond], 1)
    args, options = arguments(call)
    got = attention(*args, **options)
    assert_right(got.cpu(), case, call)
    assert torch.equal(got, attention(*args, **options))


def test_a_place_outside_is_not_touched() -> None:
    """Lengths and pages that lie outside give numbers, not accesses outside the cache."""
    call = make(Case((64, 64), 2, 4, 2, block_size=16))
    args, _ = arguments(call)
    args[1].nan_to_num_()
    args[2].nan_to_num_()
    args[3] = torch.tensor([2**31 - 1, -5], dtype=torch.int32, device="cuda")
    args[4].fill_(2**31 - 1)
    got = attention(*args)
    assert got.isfinite().all()
    assert (got[1] == 0).all()


@pytest.mark.parametrize("name", ["f16", "q8_0"])
@pytest.mark.parametrize("queries", [1, 100])
def test_a_hundred_runs_give_the_same_bits(name: str, queries: int) -> None:
    args, options = arguments(make(Case((5000, 1234), queries, 8, 2, 128, k_format=name)))
    first = attention(*args, **options)
    assert all(torch.equal(attention(*args, **options), first) for _ in range(REPEATS))


@pytest.mark.parametrize("name", ["f32", "f16", "e4m3", "q8_0"])
@pytest.mark.parametrize("queries", [1, 50])
def test_a_captured_call_sees_new_lengths(name: str, queries: int) -> None:
    longest = Case((3000, 3000), queries, 8, 2, k_format=name)
    args, options = arguments(make(longest))
    attention(*args, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = attention(*args, **options)
    for lengths in ((3000, 3000), (1, 0), (64, 2049), (257, 700)):
        args[3].copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        assert torch.equal(got, attention(*args, **options)), lengths
        wanted = reference.attention(*args, **options)
        # Results are float16; float32 arithmetic may round the last bit the other way.
        rtol, atol = (1e-3, 1e-6) if name == "f32" else (4e-3, 4e-3)
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


def test_queries_of_any_head_size_have_a_limit() -> None:
    args, _ = arguments(make(Case((5,), 1, 1, 1, 264)))
    with pytest.raises(RuntimeError, match="at most 256 values, got 264"):
        attention(*args)
