"""Tiny models, and compiled code of its own for every test that asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Forgets what was compiled before the test and in it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
