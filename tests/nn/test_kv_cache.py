"""Where the KV cache puts tokens."""

from __future__ import annotations

import pytest
import torch

from rocmforge_torch.nn import KVCache, uncached_step
from rocmforge_torch.nn.kv_cache import cache_bytes


def make(batch_size: int = 2, max_seq_len: int = 10) -> KVCache:
    return KVCache(3, batch_size, max_seq_len, 2, 4, torch.float16)


def test_shapes() -> None:
    cache = make()
    assert len(cache.k) == len(cache.v) == 3
    assert cache.k[0].shape == cache.v[0].shape == (2, 10, 2, 4)
    assert cache.batch_size == 2
    assert cache.nbytes == 3 * 2 * (2 * 10 * 2 * 4) * 2


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("f32", torch.float32, 64),
        ("f16", torch.float16, 64),
        ("bf16", torch.bfloat16, 64),
        ("fp8", torch.float8_e4m3fn, 64),
        ("fp8_e5m2", torch.float8_e5m2, 64),
        ("q8_0", torch.uint8, 68),
        ("q4_0", torch.uint8, 36),
    ],
)
def test_types(name: str, dtype: torch.dtype, size: int) -> None:
    cache = KVCache(2, 3, 5, 4, 64, name)
    assert {t.dtype for t in (*cache.k, *cache.v)} == {dtype}
    assert {t.shape for t in (*cache.k, *cache.v)} == {(3, 5, 4, size)}
    assert cache.nbytes == cache_bytes(2, 3, 5, 4, 64, name) == 2 * 2 * 60 * size * dtype.itemsize


def test_keys_and_values_may_have_types_of_their_own() -> None:
    cache = KVCache(1, 1, 8, 2, 32, ("q8_0", torch.bfloat16))
    assert (cache.k[0].dtype, cache.v[0].dtype) == (torch.uint8, torch.bfloat16)
    assert (cache.k[0].shape[-1], cache.v[0].shape[-1]) == (34, 32)
    assert cache.nbytes == cache_bytes(1, 1, 8, 2, 32, ("q8_0", torch.bfloat16)) == 16 * (34 + 64)


def test_wrong_types() -> None:
    with pytest.raises(ValueError, match=r"no KV cache has type q5_0; there are f32, .*, q4_0"):
        KVCache(1, 1, 8, 2, 32, "q5_0")
    with pytest.raises(ValueError, match=r"no KV cache has type torch\.float64"):
        KVCache(1, 1, 8, 2, 32, torch.float64)
    with pytest.raises(ValueError, match=r"q4_0 cache needs heads .* multiple of 32 .*got 48"):
        KVCache(1, 1, 8, 2, 48, ("f16", "q4_0"))


def test_steps_follow_each_other() -> None:
    cache = make()
    step = cache.advance(3)
    assert step.positions.tolist() == [[0, 1, 2]] * 2
    assert step.slots is not None
    assert step.slots.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert step.seq_lens.tolist() == [3, 3]
    assert step.seq_lens.dtype == torch.int32
    assert step.context == 10
    step = cache.advance(1)
    assert step.positions.tolist() == [[3], [3]]
    assert step.seq_lens.tolist() == [4, 4]
    assert cache.lengths.tolist() == [4, 4]


def test_padding_is_overwritten_and_rows_go_on_from_their_own_length() -> None:
    cache = make()
    step = cache.advance(3, torch.tensor([3, 1]))
    assert step.slots is not None
    assert step.slots.tolist() == [[0, 1, 2], [10, 11, 12]]
    step = cache.advance(1)
    assert step.slots is not None
    assert step.positions.tolist() == [[3], [1]]
    assert step.slots.tolist() == [[3], [11]]
    assert step.seq_lens.tolist() == [4, 2]


def test_a_full_row_may_rest_while_others_go_on() -> None:
    cache = make(max_seq_len=4)
    cache.advance(4, torch.tensor([4, 2]))
    step = cache.advance(1, torch.tensor([0, 1]))
    assert step.slots is not None
    assert step.slots.tolist() == [[-1], [6]], "the next slot is the other row's"
    assert step.seq_lens.tolist() == [4, 3]
    assert cache.lengths.tolist() == [4, 3]


def test_no_room() -> None:
    cache = make()
    cache.advance(9)
    with pytest.raises(ValueError, match="holds 10 tokens a sequence, 9 are taken and 2 more"):
        cache.advance(2)
    cache.truncate(4)
    assert (cache.longest, cache.lengths.tolist()) == (4, [4, 4])
    assert cache.advance(1).positions.tolist() == [[4], [4]]
    cache.reset()
    assert cache.advance(10).positions[0].tolist() == list(range(10))


def test_uncached_step() -> None:
    step = uncached_step(torch.zeros(2, 5, dtype=torch.int64))
    assert step.positions.tolist() == [0, 1, 2, 3, 4]
    assert step.seq_lens.tolist() == [5, 5]
    assert (step.slots, step.context) == (None, 5)
