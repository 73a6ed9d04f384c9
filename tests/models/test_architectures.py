"""Every architecture against transformers' own implementation with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import COMMON, CONTEXT, TINY, VOCAB, build, write_gguf

from rocmforge_torch.models import ARCHITECTURES, CausalLM, load_model

TOLERANCE = 1e-4
pytestmark = pytest.mark.usefixtures("exact")


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(transformers' model, ours) of every tiny model."""
    tiny = TINY[request.param]
    theirs = build(tiny)
    path = write_gguf(tiny, theirs, tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")
    return theirs, load_model(path)


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def expected(theirs: Any, input_ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return theirs(input_ids, use_cache=False).logits


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == torch.float32
    assert want.std() > 0.1, "logits this small could not differ"
    assert (got - want).abs().max().item() <= TOLERANCE


def test_every_row_of_the_table_is_here() -> None:
    assert {tiny.architecture for tiny in TINY.values()} == set(ARCHITECTURES)


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 24, 70])
def test_prefill(pair: tuple[Any, CausalLM], length: int) -> None:
    """Lengths below and beyond windows (8) and original contexts (32)."""
    theirs, ours = pair
    input_ids = ids(2, length)
    close(ours(input_ids), expected(theirs, input_ids))


@torch.inference_mode()
def test_decode(pair: tuple[Any, CausalLM]) -> None:
    """A prompt in two pieces, then token by token, equals one pass."""
    theirs, ours = pair
    input_ids = ids(3, 21)
    # Longrope's factors depend on the room there is, so the cache stays below the original context.
    cache = ours.new_cache(batch_size=3, max_seq_len=31, dtype=torch.float32)
    pieces = [ours(input_ids[:, :5], cache), ours(input_ids[:, 5:12], cache)]
    pieces += [ours(input_ids[:, t : t + 1], cache) for t in range(12, 21)]
    close(torch.cat(pieces, 1), expected(theirs, input_ids))
    assert cache.lengths.tolist() == [21] * 3


@torch.inference_mode()
def test_long_factors_are_chosen_by_the_room_in_the_cache(tmp_path: Path) -> None:
    tiny = TINY["phi3-longrope"]
    theirs = build(tiny)
    ours = load_model(write_gguf(tiny, theirs, tmp_path / "long.gguf"))
    input_ids = ids(1, CONTEXT)
    cache = ours.new_cache(max_seq_len=CONTEXT, dtype=torch.float32)
    got = torch.cat([ours(input_ids[:, i : i + 16], cache) for i in range(0, CONTEXT, 16)], 1)
    close(got, expected(theirs, input_ids))


@torch.inference_mode()
def test_half_precision_cache_is_close(pair: tuple[Any, CausalLM]) -> None:
    theirs, ours = pair
    input_ids = ids(2, 20)
    cache = ours.new_cache(batch_size=2, max_seq_len=24)
    assert cache.k[0].dtype == torch.float16
    want = expected(theirs, input_ids)
    error = (ours(input_ids, cache) - want).abs().mean() / want.std()
    assert 0 < error < 0.005


def test_weights_are_the_mapped_file(pair: tuple[Any, CausalLM]) -> None:
    _, ours = pair
    state = ours.state_dict()
    assert (
        state["token_embd.qweight"].data_ptr() == ours.file.tensors["token_embd.weight"].data_ptr()
    )
    weights = [name for name in ours.file.tensors if "rope" not in name]
    assert len(state) == len(weights)
    assert COMMON["num_hidden_layers"] <= len(ours.layers)


def test_gradients(pair: tuple[Any, CausalLM]) -> None:
    """Of what enters the first layer, through everything: adapters can be trained on any model."""
    input_ids, grads = ids(2, 20), []
    for model, first in ((pair[0], pair[0].model.layers[0]), (pair[1], pair[1].layers[0])):
        inputs = []

        def watch(module: Any, args: Any, inputs: list[Any] = inputs) -> Any:
            inputs.append(args[0].detach().requires_grad_())
            return (inputs[0], *args[1:])

        hook = first.register_forward_pre_hook(watch)
        output = model(input_ids)
        hook.remove()
        getattr(output, "logits", output).square().sum().backward()
        grads.append(inputs[0].grad)
    assert grads[0].std() > 1e-3
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4 * grads[0].std().item())
