"""A tiny random model that generates, with transformers' twin of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rocmforge_torch.models import CausalLM, load_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CausalLM]:
    """(transformers' model, ours), with a sliding window of 8 and a context of 128."""
    from tiny_models import TINY, build, write_gguf

    theirs = build(TINY["gemma3"])
    path = write_gguf(TINY["gemma3"], theirs, tmp_path_factory.mktemp("tiny") / "gemma3.gguf")
    return theirs, load_model(path)


@pytest.fixture
def model(twins: tuple[Any, CausalLM]) -> CausalLM:
    return twins[1]
