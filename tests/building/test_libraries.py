"""The compiled libraries keep to libtorch's stable C interface and to no Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rocmforge_torch import extension
from tools.amd.toolchain import representative_sources

ROOT = Path(__file__).resolve().parents[2]
CPU_LIBRARY = extension.LIBRARY_DIR / "librocmforge_cpu.so"
# The C functions that torch promises to keep.
STABLE_TORCH = re.compile(r"^(aoti_torch_|aoti_record_|torch_)\w+$")


def undefined_symbols(library: Path) -> list[str]:
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True
    )
    return [line.split()[-1] for line in done.stdout.splitlines()]


def needed(library: Path) -> set[str]:
    done = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True)
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout))


def torch_symbols(library: Path) -> list[str]:
    """Undefined symbols that neither libc, libm, libstdc++ nor libgcc version or define."""
    return [s for s in undefined_symbols(library) if "@" not in s and not s.startswith("__gmon")]


def assert_stable(library: Path) -> None:
    symbols = torch_symbols(library)
    weak = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
    assert any(s.startswith("aoti_torch_") for s in symbols)
    assert [s for s in symbols if s not in weak and not STABLE_TORCH.match(s)] == []
    assert not any(s.startswith(("Py", "_Py")) for s in undefined_symbols(library))
    assert not any("python" in name for name in needed(library))


def test_cpu_library_uses_only_the_stable_interface() -> None:
    assert_stable(CPU_LIBRARY)
    assert {"libtorch_cpu.so", "libc10.so"} <= needed(CPU_LIBRARY)
    assert not any("cuda" in name or "hip" in name for name in needed(CPU_LIBRARY))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_kernels_compile_with_nvcc(tmp_path: Path) -> None:
    """One type of every family, and whatever is not compiled for types apart."""
    line = re.search(r'nvcc = \[\s*("nvcc",.+?)\]', (ROOT / "setup.py").read_text(), re.DOTALL)
    assert line is not None
    nvcc = [*re.findall(r'"([^"]+)"', line[1]), "-x", "cu", "-arch=sm_90a"]
    nvcc += ["-DROCMFORGE_WARPGROUPS", "-c"]

    def compiled(source: Path) -> Path:
        out = tmp_path / f"{source.stem}.o"
        subprocess.run([*nvcc, source, "-o", out], cwd=ROOT, check=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert all(out.exists() for out in pool.map(compiled, representative_sources()))


def run_setup(**values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=ROOT,
        env={**os.environ, **values},
        capture_output=True,
        text=True,
    )


def test_build_says_what_it_chose_and_why() -> None:
    done = run_setup(ROCMFORGE_DEVICES="cpu")
    assert done.returncode == 0
    assert "cpu:  yes" in done.stdout
    assert "hip:  no (ROCMFORGE_DEVICES=cpu)" in done.stdout
    assert "cuda: no (ROCMFORGE_DEVICES=cpu)" in done.stdout


def test_build_refuses_a_device_without_its_compiler(tmp_path: Path) -> None:
    done = run_setup(ROCMFORGE_DEVICES="cpu,hip", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "hip was asked for but its compiler is not on PATH" in done.stderr
