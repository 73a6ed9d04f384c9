"""A tiny random model, and graphs that a CPU can capture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rocmforge_torch.models import CausalLM, load_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def gemma_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3, with a sliding window of 8 and a context of 128."""
    from tiny_models import TINY, build, write_gguf

    path = tmp_path_factory.mktemp("tiny") / "gemma3.gguf"
    return write_gguf(TINY["gemma3"], build(TINY["gemma3"]), path)


@pytest.fixture(scope="session")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    from tiny_models import TINY, build, write_gguf

    path = tmp_path_factory.mktemp("tiny") / "other.gguf"
    return write_gguf(TINY["gemma3"], build(TINY["gemma3"], seed=1), path)


@pytest.fixture
def model(gemma_path: Path) -> CausalLM:
    return load_model(gemma_path)


@pytest.fixture(params=["eager", "recorded"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test on the CPU as it is, and with graphs that are recorded and replayed."""
    from recorded_graphs import RecordingDevice

    def recording(device: torch.device) -> RecordingDevice:
        return RecordingDevice()

    if request.param == "recorded":
        monkeypatch.setattr("rocmforge_torch.graphs.decode.graph_device", recording)
    return request.param


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With graphs that are recorded and replayed."""
    from recorded_graphs import RecordingDevice

    monkeypatch.setattr(
        "rocmforge_torch.graphs.decode.graph_device", lambda device: RecordingDevice()
    )
