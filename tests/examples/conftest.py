"""Runs an example as a person does: `python examples/NAME.py ...`, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 120  # of a processor; those of the clock depend on who else is at work

RunExample = Callable[..., str]


@pytest.fixture
def run_example() -> RunExample:
    """Runs an example with arguments; returns what it printed."""

    def run(name: str, *args: str | Path) -> str:
        command = [sys.executable, str(EXAMPLES / name), *map(str, args)]
        limit = (SECONDS, SECONDS)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limit),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
