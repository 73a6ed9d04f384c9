"""The samples of tests/ops are those of the GPU kernels too, and how many cases ran is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

COUNTED = pytest.StashKey[int]()


@pytest.fixture
def count_cases(pytestconfig: pytest.Config) -> Callable[[int], None]:
    """Adds to the number of cases that tests hold beyond those which pytest sees."""

    def add(cases: int) -> None:
        pytestconfig.stash[COUNTED] = pytestconfig.stash.get(COUNTED, 0) + cases

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if cases := config.stash.get(COUNTED, 0):
        terminalreporter.write_line(f"{cases:,} GPU cases counted inside of tests")
