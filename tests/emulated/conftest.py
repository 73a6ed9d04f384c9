"""The emulator that runs compiled AMD code; without its parts the tests say what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.amd.emulator import Emulator
from tools.amd.toolchain import Toolchain, ToolchainError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the tests have left out is known when they have run."""
    items.sort(key=lambda item: item.path.name == "test_coverage.py" and item.path.parent == HERE)


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    try:
        return Toolchain.find()
    except ToolchainError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulator(toolchain: Toolchain) -> Iterator[Emulator]:
    """One emulating process for all tests: it keeps every instruction that it has compiled."""
    emulator = Emulator(toolchain)
    yield emulator
    emulator.close()


@pytest.fixture
def compile_kernel(toolchain: Toolchain, tmp_path: Path) -> Callable[[str, str], Path]:
    """Compiles the text of a kernel for an architecture; returns the code object's path."""

    def compile_text(text: str, arch: str) -> Path:
        source = tmp_path / "kernel.hip"
        source.write_text(f"#include <hip/hip_runtime.h>\n{text}\n")
        return toolchain.compile(source, arch).path

    return compile_text
