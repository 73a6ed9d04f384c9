"""Models with streamed layers, on a device whose copies are late: the same bits, the same state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_link import FakeLink
from tiny_models import TINY, VOCAB, build, write_gguf
from torch import Tensor, nn

from rocmforge_torch.models import CausalLM, load_model
from rocmforge_torch.offload import plan_offload, stream_layers

NAMES = ["llama", "gemma3", "stablelm"]


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TINY[request.param]
    return write_gguf(tiny, build(tiny), tmp_path_factory.mktemp("offload") / "model.gguf")


def streaming(path: Path, stay: int, seed: int = 0) -> tuple[CausalLM, FakeLink]:
    model, link = load_model(path), FakeLink(seed)
    plan = plan_offload([1] * len(model.layers), 0, gpu_layers=stay)
    stream_layers(model.layers, plan.streamed, link)
    return model, link


def logits(model: CausalLM) -> list[Tensor]:
    """Of a prompt and two tokens."""
    tokens = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(2, 16)
    return [model(tokens[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 9))]


@torch.inference_mode()
@pytest.mark.parametrize("stay", [0, 1, 2])
def test_the_same_bits(path: Path, stay: int) -> None:
    model, link = streaming(path, stay, seed=stay)
    want = load_model(path)
    for _ in range(2):
        for mine, expected in zip(logits(model), logits(want), strict=True):
            assert torch.equal(mine, expected)
    streamed = len(model.layers) - stay
    assert link.done_copies >= streamed
    largest = max(t.nbytes for t in link.alive())
    assert link.device_bytes <= 2 * largest  # two layers are on the device at a time


@torch.inference_mode()
def test_state_dicts_are_as_before(path: Path) -> None:
    model, _ = streaming(path, 1)
    want = load_model(path).state_dict()
    for _ in range(2):
        state = model.state_dict()
        assert state.keys() == want.keys()
        assert all(torch.equal(state[name], want[name]) for name in want)
        logits(model)  # which must leave no trace in it


@torch.inference_mode()
def test_loaded_weights_are_seen(path: Path) -> None:
    model, plain = streaming(path, 0)[0], load_model(path)
    logits(model)
    state = {
        name: value.flip(0) if value.dtype == torch.uint8 else value
        for name, value in plain.state_dict().items()
    }
    plain.load_state_dict(state)
    model.load_state_dict(state)
    for mine, expected in zip(logits(model), logits(plain), strict=True):
        assert torch.equal(mine, expected)


@torch.inference_mode()
def test_a_pass_that_fails_leaves_the_next_one_right(path: Path) -> None:
    model, _ = streaming(path, 0)
    want = logits(model)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        logits(model)
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(logits(model), want, strict=True))


def test_such_a_model_stays_where_it_is(path: Path) -> None:
    model, _ = streaming(path, 1)
    with pytest.raises(RuntimeError, match="stays where it is: load it again"):
        model.to(torch.float64)


def test_such_a_model_runs_eagerly(tmp_path: Path) -> None:
    tiny = TINY["llama"]
    model, _ = streaming(write_gguf(tiny, build(tiny), tmp_path / "model.gguf"), 1)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(torch.compile(model, backend="eager")(tokens), model(tokens))
    torch._dynamo.reset()  # which remembers code that it has given up, and runs it as it is
    with pytest.raises(torch._dynamo.exc.Unsupported, match="streamed layers cannot be compiled"):
        torch.compile(model, backend="eager", fullgraph=True)(tokens)


def test_the_cpu_has_no_gpu_layers(path: Path) -> None:
    with pytest.raises(ValueError, match="gpu_layers is for a GPU, the device is cpu"):
        load_model(path, gpu_layers=1)


def test_tensors_that_no_state_dict_holds_stay() -> None:
    class Layer(nn.Module):
        def __init__(self, shared: Tensor) -> None:
            super().__init__()
            self.register_buffer("shared", shared, persistent=False)
            self.register_buffer("own", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.own + self.shared

    shared = torch.ones(3)
    layers = nn.ModuleList(Layer(shared) for _ in range(3))
    stream_layers(layers, (0, 1, 2), FakeLink())
    shared += 1
    assert [layer(torch.ones(3)).tolist() for layer in layers] == [[3.0] * 3] * 3
    assert all(layer.shared is shared for layer in layers)
