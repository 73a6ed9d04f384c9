"""Loading to and running on a GPU that is not the current one. (Ops: test_contract_on_gpu.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import GGUFTensor, extension, load_gguf, load_model
from rocmforge_torch.generate import SamplingParams, generate_tokens

pytestmark = pytest.mark.gpu
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
PROMPT = [(7919 * i) % 1900 + 5 for i in range(24)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("devices") / "m.gguf", PRESETS["qwen3-small"])


def test_the_library_fits_every_card() -> None:
    for index in range(torch.cuda.device_count()):
        assert extension.missing_code(index) is None
        extension.check_device(torch.device("cuda", index))


def test_a_device_without_a_number_is_the_current_one(path: Path) -> None:
    model = load_model(path, "cuda")
    assert model.device == torch.device("cuda", torch.cuda.current_device())


@needs_two
def test_tensors_on_another_device(path: Path) -> None:
    torch.cuda.set_device(0)
    there, here = load_gguf(path, "cuda:1", packed=True), load_gguf(path, "cuda:0", packed=True)
    assert torch.cuda.current_device() == 0
    for name, tensor in there.tensors.items():
        other = here.tensors[name]
        assert tensor.device.index == 1
        if isinstance(tensor, GGUFTensor):
            tensor, other = tensor.qweight, other.qweight
        assert torch.equal(tensor.cpu(), other.cpu())


@needs_two
def test_a_model_on_another_device(path: Path) -> None:
    torch.cuda.set_device(0)
    params = SamplingParams(temperature=0.7, seed=3, max_tokens=24)
    texts = []
    for device in ("cuda:0", "cuda:1"):
        model = load_model(path, device)
        assert model.device == torch.device(device)
        *_, generations = generate_tokens(model, [PROMPT, PROMPT[:9]], params)
        assert torch.cuda.current_device() == 0
        texts.append([g.tokens for g in generations])
    assert texts[0] == texts[1]
