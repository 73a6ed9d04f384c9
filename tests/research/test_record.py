"""Hidden states and attention maps against transformers'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TINY, build, write_gguf

from rocmforge_torch import load_model
from rocmforge_torch.models import CausalLM
from rocmforge_torch.research import record

IDS = torch.tensor([[5, 9, 33, 2, 71, 8, 8, 40, 12, 3, 60], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])
# A window and norms behind blocks, a soft cap, multipliers, blocks side by side.
NAMES = ("llama", "gemma3", "gemma2", "granite", "stablelm-12b", "olmo2")
pytestmark = pytest.mark.usefixtures("exact")


@pytest.fixture(scope="module", params=NAMES)
def twins(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CausalLM]:
    theirs = build(TINY[request.param])
    folder = tmp_path_factory.mktemp("tiny")
    return theirs, load_model(write_gguf(TINY[request.param], theirs, folder / "tiny.gguf"))


@torch.inference_mode()
def test_states_and_maps_are_transformers(twins: tuple[Any, CausalLM]) -> None:
    theirs, ours = twins
    want = theirs(IDS, output_hidden_states=True, output_attentions=True)
    plain = ours(IDS)
    with record(ours, attentions=True) as seen:
        logits = ours(IDS)
    assert torch.equal(logits, plain)
    layers = ours.config.num_layers
    assert (len(seen.hidden_states), len(seen.attentions)) == (layers + 1, layers)
    # Theirs end with the normed output.
    for got, wanted in zip(seen.hidden_states[:-1], want.hidden_states[:-1], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    normed = ours.output_norm(seen.hidden_states[-1])
    torch.testing.assert_close(normed, want.hidden_states[-1], rtol=1e-4, atol=1e-4)
    for got, wanted in zip(seen.attentions, want.attentions, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, "q8_0"])
def test_maps_of_a_cache(twins: tuple[Any, CausalLM], dtype: Any) -> None:
    _, model = twins
    if dtype == "q8_0" and model.config.head_dim % 32:
        with pytest.raises(ValueError, match="multiple of 32"):
            model.new_cache(2, 16, dtype)
        return
    with record(model, attentions=True) as whole:
        model(IDS)
    cache = model.new_cache(2, 16, dtype)
    with record(model, attentions=True) as seen:
        model(IDS[:, :7], cache)
        assert seen.attentions[0].shape == (2, model.config.num_heads, 7, 7)
        model(IDS[:, 7:], cache)
    for got, want in zip(seen.attentions, whole.attentions, strict=True):
        assert got.shape == (2, model.config.num_heads, 4, 11)
        torch.testing.assert_close(got.sum(-1), torch.ones(got.shape[:-1]))
        assert not got.triu(8).any()
        if dtype == torch.float32:
            torch.testing.assert_close(got, want[:, :, 7:], rtol=0, atol=1e-5)
    for got, want in zip(seen.hidden_states, whole.hidden_states, strict=True):
        assert got.shape == (2, 4, model.config.hidden_size)
        if dtype == torch.float32:
            torch.testing.assert_close(got, want[:, 7:], rtol=1e-4, atol=1e-4)


def test_nothing_stays(twins: tuple[Any, CausalLM]) -> None:
    _, model = twins
    with pytest.raises(KeyError), record(model, attentions=True):
        raise KeyError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_gradients_of_what_enters_a_layer(twins: tuple[Any, CausalLM]) -> None:
    theirs, ours = twins
    grads = []
    for model in (theirs, ours):
        kept: list[torch.Tensor] = []

        def note(module: Any, args: Any, keep: list[torch.Tensor] = kept) -> Any:
            keep.append(args[0].detach().requires_grad_())
            return (keep[0], *args[1:])

        layers = theirs.model.layers if model is theirs else ours.layers
        handle = layers[1].register_forward_pre_hook(note)
        out = model(IDS)
        logits = out.logits if model is theirs else out
        logits.square().mean().backward()
        handle.remove()
        grads.append(kept[0].grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)
