"""Training steps under torch.compile: gradients flow through quantized weights into adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_decoders import decoder, ids
from torch import Tensor, nn
from torch.nn import functional

from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import QuantLinear

pytestmark = [pytest.mark.usefixtures("fresh_dynamo"), pytest.mark.usefixtures("exact")]


class LoRA(nn.Module):
    """base(x) + x A^T B^T, of which A and B are trained."""

    def __init__(self, base: QuantLinear, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(0.1 * torch.randn(rank, base.in_features))
        self.b = nn.Parameter(0.1 * torch.randn(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


def adapted(name: str, layers: int = 1) -> CausalLM:
    """A model with adapters around its attention's projections and the last of its MLP."""
    model = decoder(name, layers)
    torch.manual_seed(0)
    for layer in model.layers:
        layer.attn.out, layer.mlp.down = LoRA(layer.attn.out), LoRA(layer.mlp.down)
        for i, projection in enumerate(layer.attn.qkv):
            layer.attn.qkv[i] = LoRA(projection)
    return model


def step(
    function: Callable[[Tensor], Tensor], model: nn.Module, tokens: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of predicting the next token, and its gradients."""
    model.zero_grad()
    logits = function(tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def check(model: nn.Module, arguments: dict[str, Any], tokens: Tensor) -> None:
    """Gradients are sums in float32 that may be taken in another order: about 100 terms, hence
    1e-5 of the largest."""
    function = torch.compile(model, fullgraph=True, **arguments)
    for piece in (tokens, tokens[:, :9]):
        loss, grads = step(function, model, piece)
        want_loss, want = step(model, model, piece)
        torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=0)
        assert grads.keys() == want.keys()
        assert len(grads) >= 10
        for name, grad in grads.items():
            scale = want[name].abs().max().item()
            assert scale > 0, name
            torch.testing.assert_close(grad, want[name], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["llama-biased", "gemma2", "stablelm-12b"])
def test_plain(name: str) -> None:
    options = {"inductor": False}
    check(adapted(name), {"backend": "rocmforge", "options": options}, ids(3, 17))


@pytest.mark.parametrize("backend", ["rocmforge", "inductor"])
def test_inductor(backend: str) -> None:
    check(adapted("qwen3"), {"backend": backend, "dynamic": True}, ids(3, 17))


def test_steps_of_an_optimiser() -> None:
    """Ten steps compiled and ten in eager mode end at the same adapters."""
    trained = []
    for compiled in (False, True):
        model = adapted("llama")
        options = {"inductor": False}
        function: Any = model
        if compiled:
            function = torch.compile(model, backend="rocmforge", fullgraph=True, options=options)
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses = []
        for _ in range(10):
            loss, _ = step(function, model, ids(3, 12))
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.1
        trained.append([p.detach() for p in model.parameters() if p.requires_grad])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())
