"""The AMD toolchain; without it the tests say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.amd.code_object import CodeObject
from tools.amd.toolchain import Toolchain, ToolchainError


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    try:
        return Toolchain.find()
    except ToolchainError as error:
        pytest.skip(str(error))


@pytest.fixture
def kernel_source(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the text of a kernel to a file."""

    def write(text: str) -> Path:
        path = tmp_path / "kernel.hip"
        path.write_text(f"#include <hip/hip_runtime.h>\n{text}\n")
        return path

    return write


@pytest.fixture
def compile_code(
    toolchain: Toolchain, kernel_source: Callable[[str], Path]
) -> Callable[[str, str], CodeObject]:
    """Compiles the text of a kernel for an architecture."""
    return lambda text, arch: CodeObject.read(toolchain.compile(kernel_source(text), arch).path)
