"""Runs an example as a person does: `python examples/NAME.py ...`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 120  # that an example may take

RunExample = Callable[..., str]


@pytest.fixture
def run_example() -> RunExample:
    """Runs an example with arguments; returns what it printed."""

    def run(name: str, *args: str | Path) -> str:
        command = [sys.executable, str(EXAMPLES / name), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
