"""For which architectures setup.py builds the GPU library, and what it tells the compilers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

SETUP = Path(__file__).resolve().parents[2] / "setup.py"
VARIABLES = {"hip": "PYTORCH_ROCM_ARCH", "cuda": "TORCH_CUDA_ARCH_LIST"}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """setup.py as a module, without what it does when pip runs it; no card and no tool is found."""
    source = SETUP.read_text(encoding="utf-8").partition("\nDEVICES = ")[0]
    module = ModuleType("build_under_test")
    module.__file__ = str(SETUP)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look there
    exec(compile(source, SETUP, "exec"), module.__dict__)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    return module


def put_tool(folder: Path, name: str, output: str, status: int = 0) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\nprintf '{output}'\nexit {status}\n", encoding="utf-8")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("device", "asked", "archs"),
    [
        ("hip", "gfx1100", ["gfx1100"]),
        ("hip", "gfx1100;gfx942", ["gfx1100", "gfx942"]),
        ("hip", "gfx1100, gfx90a", ["gfx1100", "gfx90a"]),
        ("cuda", "9.0", ["9.0"]),
        ("cuda", "8.0 8.6+PTX", ["8.0", "8.6+PTX"]),
        ("cuda", "9.0a", ["9.0a"]),
    ],
)
def test_the_variable_decides(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, device: str, asked: str, archs: list[str]
) -> None:
    monkeypatch.setenv(VARIABLES[device], asked)
    assert build.gpu_archs(device) == archs


@pytest.mark.parametrize(("device", "asked"), [("hip", "Radeon"), ("cuda", "sm_90"), ("cuda", "9")])
def test_what_is_no_architecture_is_refused(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, device: str, asked: str
) -> None:
    monkeypatch.setenv(VARIABLES[device], asked)
    with pytest.raises(SystemExit, match=f"{VARIABLES[device]} holds '{asked}', no architecture"):
        build.gpu_archs(device)


@pytest.mark.parametrize("asked", [None, "native"])
@pytest.mark.parametrize(
    ("device", "tool", "output", "archs"),
    [
        ("hip", "rocm_agent_enumerator", "gfx000\\ngfx1100\\ngfx1100\\n", ["gfx1100"]),
        ("hip", "amdgpu-arch", "gfx942\\ngfx90a\\n", ["gfx90a", "gfx942"]),
        ("cuda", "nvidia-smi", "9.0\\n9.0\\n8.0\\n", ["8.0", "9.0"]),
    ],
)
def test_the_cards_present(
    build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: str | None,
    device: str,
    tool: str,
    output: str,
    archs: list[str],
) -> None:
    put_tool(tmp_path, tool, output)
    if asked:
        monkeypatch.setenv(VARIABLES[device], asked)
    assert build.gpu_archs(device) == archs


@pytest.mark.parametrize(
    ("device", "count", "tool", "output", "status"),
    [
        ("hip", 9, None, "", 0),
        ("hip", 9, "rocm_agent_enumerator", "gfx000\\n", 0),
        ("cuda", 4, "nvidia-smi", "No devices were found\\n", 6),
    ],
)
def test_a_list_where_there_is_no_card(
    build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str,
    count: int,
    tool: str | None,
    output: str,
    status: int,
) -> None:
    if tool:
        put_tool(tmp_path, tool, output, status)
    assert len(build.gpu_archs(device)) == count
    monkeypatch.setenv(VARIABLES[device], "native")
    with pytest.raises(SystemExit, match="native, but no card was found"):
        build.gpu_archs(device)


def test_nvcc_also_makes_ptx_of_the_newest(build: ModuleType) -> None:
    flags, inside = build.cuda_arch_flags(["9.0", "8.6+PTX"])
    assert flags == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_86,code=sm_86",
        "-DROCMFORGE_WARPGROUPS",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert inside == ["sm_90", "sm_86", "compute_90"]
