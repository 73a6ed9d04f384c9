"""`attn_implementation="rocmforge"` and `RocmForgeCache`, against transformers' own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY, VOCAB, build, write_gguf
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, StaticCache
from transformers.masking_utils import chunked_causal_mask_function

from rocmforge_torch.integrations.transformers import RocmForgeCache, from_gguf
from rocmforge_torch.integrations.transformers.attention import attention_forward, mask
from rocmforge_torch.integrations.transformers.causal_mask import (
    causal_mask,
    lengths_and_window,
    visible,
)

TOLERANCE = 1e-4  # of tests/models/test_architectures.py
PIECES = (7, 12, 13, 14, 15, 16)  # a prompt in two pieces, then tokens; beyond windows of 8
ROOM = 20

pytestmark = pytest.mark.usefixtures("exact")


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def models(name: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    """The model on a file of it, and transformers' own with its own attention."""
    theirs = build(TINY[name])
    return from_gguf(write_gguf(TINY[name], theirs, folder / "model.gguf"), **options), theirs


def is_ours(model: Any) -> bool:
    return bool(model.config._attn_implementation == "rocmforge")


def steps(model: Any, input_ids: Tensor, cache: Any) -> Tensor:
    """Log-probabilities of every token, a piece at a time."""
    found = [
        model(input_ids[:, start:end], past_key_values=cache).logits
        for start, end in pairwise((0, *PIECES))
    ]
    return torch.cat(found, 1).log_softmax(-1)


@torch.inference_mode()
@pytest.mark.parametrize("name", TINY)
def test_steps_through_any_cache(name: str, tmp_path: Path) -> None:
    model, theirs = models(name, tmp_path)
    input_ids = ids(2, PIECES[-1])
    want = theirs(input_ids, use_cache=False).logits.log_softmax(-1)
    caches: list[Any] = [DynamicCache(config=model.config)]
    if is_ours(model):
        caches += [StaticCache(model.config, ROOM), RocmForgeCache(model, ROOM, 2)]
    for cache in caches:
        got = steps(model, input_ids, cache)
        assert (got - want).abs().max() <= TOLERANCE


def test_what_has_an_interface_for_attention_uses_ours(tmp_path: Path) -> None:
    model, theirs = models("llama", tmp_path)
    assert is_ours(model)
    assert not is_ours(theirs)
    assert not is_ours(from_gguf(tmp_path / "model.gguf", attn_implementation="sdpa"))


def padded_steps(model: Any, input_ids: Tensor, padding: int, cache: Any) -> Tensor:
    """Log-probabilities of every token where the second sequence begins with padding."""
    mask = torch.ones_like(input_ids)
    mask[1:, :padding] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found = []
    for start, end in pairwise((0, *PIECES)):
        places = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        found.append(model(input_ids[:, start:end], past_key_values=cache, **places).logits)
    return torch.cat(found, 1).log_softmax(-1)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen3"])
def test_padding_on_the_left(name: str, tmp_path: Path) -> None:
    """Sequences of different lengths in a batch have the logits that they have alone."""
    model, theirs = models(name, tmp_path)
    input_ids, padding = ids(2, PIECES[-1]), 5
    got = padded_steps(model, input_ids, padding, RocmForgeCache(model, ROOM, 2))
    for row, first in ((0, 0), (1, padding)):
        want = theirs(input_ids[row : row + 1, first:], use_cache=False).logits.log_softmax(-1)
        assert (got[row, first:] - want[0]).abs().max() <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_generate(name: str, tmp_path: Path) -> None:
    """Greedy tokens of a padded batch, from transformers' static cache and from ours."""
    model, theirs = models(name, tmp_path)
    prompt = ids(2, 9)
    for padding in (0, 4):
        mask = torch.ones_like(prompt)
        mask[1, :padding] = 0
        options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
        options |= {"disable_compile": True, "pad_token_id": 0}
        want = theirs.generate(prompt, **options)
        assert torch.equal(model.generate(prompt, cache_implementation="static", **options), want)
        cache = RocmForgeCache(model, ROOM, 2)
        assert torch.equal(model.generate(prompt, past_key_values=cache, **options), want)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
def test_gradients(name: str, tmp_path: Path) -> None:
    """Of the embeddings, as transformers has them."""
    model, theirs = models(name, tmp_path)
    grads = []
    for one in (model, theirs):
        inputs = theirs.get_input_embeddings()(ids(2, 12)).detach().requires_grad_()
        one.train()(inputs_embeds=inputs, use_cache=False).logits.square().mean().backward()
        assert inputs.grad is not None
        grads.append(inputs.grad)
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4 * grads[1].std().item())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["f16", "fp8", "q8_0", ("q8_0", "q4_0")])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_formats_of_the_cache(dtype: Any, softcap: float | None, tmp_path: Path) -> None:
    """Attention reads each, and so does what takes a mask, with the same result."""
    model, _ = models("qwen3", tmp_path)
    layer = RocmForgeCache(model, ROOM, 2, dtype).layers[0]
    fresh = torch.randn(2, 2, 2, 14, 32)
    key, value = layer.update(*fresh)
    query, module = torch.randn(2, 4, 2, 32), model.model.layers[0].self_attn
    lengths = torch.tensor([14, 14], dtype=torch.int32)
    found = [
        attention_forward(module, query, key, value, mask, softcap=softcap)[0]
        for mask in (causal_mask(lengths, 6), visible(lengths, 6, 2, ROOM))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    stored = [tensor[:, :, :14] for tensor in (key, value)]
    if dtype == "f16":
        assert all(map(torch.equal, stored, fresh.half()))


def test_a_cache_of_no_format(tmp_path: Path) -> None:
    model, _ = models("llama", tmp_path)
    with pytest.raises(ValueError, match="no KV cache has type q3_0"):
        RocmForgeCache(model, ROOM, dtype="q3_0")
    with pytest.raises(ValueError, match="needs heads of a multiple of 32 values, got 16"):
        RocmForgeCache(model, ROOM, dtype="q8_0")


@torch.inference_mode()
def test_a_cache_is_cropped_and_reset(tmp_path: Path) -> None:
    model, _ = models("llama", tmp_path)
    input_ids = ids(1, PIECES[-1])
    cache = RocmForgeCache(model, ROOM)
    want = steps(model, input_ids, cache)
    assert int(cache.get_seq_length()) == PIECES[-1]
    cache.crop(-6)
    assert int(cache.get_seq_length()) == 10
    again = model(input_ids[:, 10:], past_key_values=cache).logits.log_softmax(-1)
    assert (again - want[:, 10:]).abs().max() <= TOLERANCE
    with pytest.raises(RuntimeError, match="negative number, of tokens to forget, got 2"):
        cache.crop(2)
    cache.reset()
    assert torch.equal(steps(model, input_ids, cache), want)


@pytest.mark.parametrize("window", [0, 3])
def test_a_causal_mask_is_the_numbers_that_it_is_made_of(window: int) -> None:
    lengths = torch.tensor([5, 7], dtype=torch.int32)
    made = causal_mask(lengths, window)
    assert made.shape == (2, 1, 1, window or 1)
    found = lengths_and_window(made)
    assert found is not None
    assert torch.equal(found[0], lengths)
    assert found[1] == window
    seen = visible(lengths, window, 2, 8)[:, 0]
    assert seen[0, 1].tolist() == [5 - (window or 5) <= key < 5 for key in range(8)]
    assert seen[1, 0].tolist() == [6 - (window or 6) <= key < 6 for key in range(8)]


def test_masks_that_are_not_causal_are_transformers() -> None:
    """Padding, other shapes of a mask, and chunks, which look like a window."""
    sizes: dict[str, Any] = {"batch_size": 2, "q_length": 4, "kv_length": 6, "q_offset": 2}

    class Chunks:
        attention_chunk_size = 3

    no_left_padding = torch.zeros(2, dtype=torch.int64)
    padded = torch.ones(2, 6, dtype=torch.bool)
    padded[0, 0] = False
    chunks = chunked_causal_mask_function(3, no_left_padding)
    others: tuple[dict[str, Any], ...] = (
        {"attention_mask": padded},
        {"mask_function": lambda b, h, q, k: k == k},
        {"use_vmap": True},
        {"allow_is_causal_skip": False},
        {"mask_function": chunks, "local_size": 3, "config": Chunks()},
    )
    for options in others:
        made = mask(**sizes, **options)
        assert made is not None
        assert made.dtype == torch.bool
        assert made.shape == (2, 1, 4, 6)
    causal: tuple[dict[str, Any], ...] = (
        {},
        {"attention_mask": torch.ones(2, 6)},
        {"local_size": 3},
    )
    for options in causal:
        made = mask(**sizes, **options)
        assert lengths_and_window(made) is not None


def test_what_the_op_does_not_add_to_scores() -> None:
    """A bias for positions goes through "sdpa", behind the same mask."""
    q, k, v = torch.randn(3, 1, 2, 4, 16).unbind(0)
    bias = torch.randn(1, 2, 4, 4)
    lengths = torch.tensor([4], dtype=torch.int32)
    got, _ = attention_forward(torch.nn.Module(), q, k, v, causal_mask(lengths), position_bias=bias)
    hidden = ~torch.ones(4, 4, dtype=torch.bool).tril()
    want = functional.scaled_dot_product_attention(q, k, v, bias.masked_fill(hidden, -torch.inf))
    torch.testing.assert_close(got, want.transpose(1, 2))


@pytest.mark.parametrize("masked", [False, True])
def test_sinks_and_a_soft_cap(masked: bool) -> None:
    """A sink is one more score, of a key without a value."""
    q, k, v = torch.randn(3, 1, 2, 4, 16).unbind(0)
    sinks, lengths = torch.randn(2), torch.tensor([4], dtype=torch.int32)
    seen = visible(lengths, 0, 4, 4)
    mask = seen if masked else causal_mask(lengths)
    got, _ = attention_forward(torch.nn.Module(), q, k, v, mask, softcap=3.0, s_aux=sinks)
    scores = (3 * torch.tanh(q @ k.mT / 4 / 3)).masked_fill(~seen, -torch.inf)
    scores = torch.cat([scores, sinks.view(1, 2, 1, 1).expand(1, 2, 4, 1)], -1)
    want = scores.softmax(-1)[..., :4] @ v
    torch.testing.assert_close(got, want.transpose(1, 2))
    with pytest.raises(ValueError, match="no dropout and no position_bias together with"):
        attention_forward(torch.nn.Module(), q, k, v, mask, dropout=0.1, s_aux=sinks)
