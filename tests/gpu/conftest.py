"""Samples of tests/ops for GPU tests; kernels that must be there; how many cases ran."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rocmforge_torch import extension

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

COUNTED = pytest.StashKey[int]()
NOTES = pytest.StashKey[list[str]]()


@pytest.fixture(autouse=True, scope="session")
def threads() -> Iterator[None]:
    """Workers share the processors: all of them for each would slow references five times."""
    before = torch.get_num_threads()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, before // workers))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> None:
    """Without its library the reference would answer, and most tests would pass."""
    needed = request.node.get_closest_marker("gpu") and torch.cuda.is_available()
    if needed and "gpu" not in extension.loaded():
        pytest.fail("the GPU kernels are not built: librocmforge_gpu.so is missing", pytrace=False)


@pytest.fixture
def count_cases(pytestconfig: pytest.Config) -> Callable[[int], None]:
    """Adds to the number of cases that tests hold beyond those which pytest sees."""

    def add(cases: int) -> None:
        pytestconfig.stash[COUNTED] = pytestconfig.stash.get(COUNTED, 0) + cases

    return add


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Has a line printed at the end of the run."""
    return pytestconfig.stash.setdefault(NOTES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if cases := config.stash.get(COUNTED, 0):
        terminalreporter.write_line(f"{cases:,} GPU cases counted inside of tests")
    if notes := config.stash.get(NOTES, []):
        terminalreporter.section(f"{len(notes)} results of rounded activations above NMSE 1e-4")
        for line in notes:
            terminalreporter.write_line(line)
