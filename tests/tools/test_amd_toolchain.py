"""Kernels compile for AMD on a machine without ROCm, and link into the library that ships."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.amd.architectures import ARCHITECTURES
from tools.amd.code_object import CodeObject
from tools.amd.fat_binary import code_objects
from tools.amd.toolchain import (
    KERNEL_FLAGS,
    ROOT,
    Toolchain,
    ToolchainError,
    find_program,
    kernel_sources,
)

EMPTY_KERNEL = 'extern "C" __global__ void empty() {}'


def test_kernels_are_compiled_as_setup_py_does() -> None:
    line = re.search(r'hipcc = \["hipcc", (.+?), "-Icsrc"', (ROOT / "setup.py").read_text())
    assert line is not None
    assert tuple(re.findall(r'"([^"]+)"', line[1])) == KERNEL_FLAGS


def test_setup_py_builds_for_architectures_that_the_report_knows() -> None:
    line = re.search(r'"hip": "(gfx.+)"', (ROOT / "setup.py").read_text())
    assert line is not None
    assert set(line[1].split(";")) == set(ARCHITECTURES)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_compiles(
    compile_code: Callable[[str, str], CodeObject], arch: str
) -> None:
    code = compile_code(EMPTY_KERNEL, arch)
    assert code.arch == arch
    assert [(k.name, k.wave) for k in code.kernels.values()] == [
        ("empty", ARCHITECTURES[arch].wave)
    ]


def test_objects_are_kept_until_source_or_header_changes(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    header, source = tmp_path / "part.h", tmp_path / "whole.hip"
    header.write_text('#define NAME "first"\n')
    source.write_text(f'#include "part.h"\n#include <hip/hip_runtime.h>\n{EMPTY_KERNEL}\n')
    first = toolchain.compile(source, "gfx1100")
    written = first.path.stat().st_mtime_ns
    assert toolchain.compile(source, "gfx1100").path == first.path
    assert first.path.stat().st_mtime_ns == written
    header.write_text('#define NAME "second"\n')
    assert toolchain.compile(source, "gfx1100").path != first.path


def test_a_failed_compilation_gives_the_compilers_words(
    toolchain: Toolchain, kernel_source: Callable[[str], Path]
) -> None:
    source = kernel_source("__global__ void broken() { undeclared(); }")
    with pytest.raises(ToolchainError, match="use of undeclared identifier 'undeclared'"):
        toolchain.compile(source, "gfx1100")


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"clang\+\+ is not on PATH: install LLVM 19"):
        find_program("clang++")


NINJA = ROOT / "build" / "amd" / "ninja"


@pytest.fixture(scope="module")
def amd_library(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """setup.py, unchanged, with a stand-in for hipcc and for the half of libtorch that is away."""
    try:
        find_program("clang-offload-bundler")
    except ToolchainError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("library")
    env = {
        **os.environ,
        "PATH": f"{toolchain.hipcc()}{os.pathsep}{os.environ['PATH']}",
        "ROCMFORGE_DEVICES": "hip",
        "PYTORCH_ROCM_ARCH": "gfx1100",
        "ROCMFORGE_BUILD_DIR": str(NINJA),
    }
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder],
        cwd=ROOT,
        env=env,
        check=True,
    )
    return folder / "rocmforge_torch" / "lib" / "librocmforge_gpu.so"


def test_the_library_links_for_amd(toolchain: Toolchain, amd_library: Path) -> None:
    needed = subprocess.run(
        ["readelf", "-d", amd_library], check=True, capture_output=True, text=True
    ).stdout
    assert "libtorch_hip.so" in needed
    assert "libamdhip64.so" in needed
    inside = [CodeObject(image) for _, image in code_objects(amd_library)]
    assert {code.arch for code in inside} == {"gfx1100"}
    compiled = [CodeObject.read(toolchain.compile(s, "gfx1100").path) for s in kernel_sources()]
    assert {s for code in inside for s in code.kernels} == {s for c in compiled for s in c.kernels}


# What a libtorch for GPUs has and one for the CPU has not.
STREAM = "aoti_torch_get_current_cuda_stream"


def test_the_library_loads_beside_the_hip_runtime(amd_library: Path, tmp_path: Path) -> None:
    """Every symbol is found at once, in libamdhip64, libtorch, the C library and, for the current
    stream, in a stand-in for the libtorch for GPUs; then its ops are registered.
    """
    subprocess.run(
        [find_program("clang++"), "-shared", "-x", "c++", "-", "-o", tmp_path / "libtorch_hip.so"],
        input=f'extern "C" int {STREAM}(int, void**) {{ return 1; }}',
        text=True,
        check=True,
    )
    code = """
import ctypes, os, sys, torch
import rocmforge_torch
ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)
for op in ("quant_matmul", "attention", "sample"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{op}", "CUDA"), op
"""
    done = subprocess.run(
        [sys.executable, "-c", code, amd_library],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
