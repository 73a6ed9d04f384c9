"""Fixtures of every test, and the list of what this machine could not run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rocmforge_torch

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def demo_model_path() -> Path:
    """The Gemma 3 270M Q4_K_M file that `make demo` and `make test` assemble."""
    from rocmforge_torch.cli.demo_model import demo_model_file

    path = os.environ.get("ROCMFORGE_DEMO_MODEL")
    return Path(path) if path else demo_model_file()


@pytest.fixture
def exact() -> Iterator[None]:
    """Computes quantized products in float for the length of a test."""
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = True
    yield
    rocmforge_torch.config.exact = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "gpu": None if torch.cuda.is_available() else "no GPU that torch can use",
        "emulated": None if os.environ.get("TINYGRAD_PATH") else "TINYGRAD_PATH is not set",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
