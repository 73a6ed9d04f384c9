"""What kernel-builder is given: complete, up to date, of its format; and the module works.

kernel-builder itself needs Nix and the network. What stands for it here: its documented format, the
host's compiler with the renaming that a hub build does, and the CPU's ops behind the module.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers.integrations.gguf.kernels import GgufKernel

import rocmforge_torch  # noqa: F401  (the CPU's ops)
from tools import kernels_hub as hub

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = hub.ROOT
UNIQUE = "_rocmforge_cpu_test"  # a namespace as kernel-builder makes one up
TORCH = Path(torch.__file__).parent
COMPILE = [
    os.environ.get("CXX", "g++"),
    "-std=c++17",
    "-fPIC",
    "-w",
    f"-DTORCH_EXTENSION_NAME={UNIQUE}",
    hub.RENAMED,
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    f"-isystem{TORCH / 'include'}",
    f"-I{sysconfig.get_path('include')}",
    f"-I{ROOT / 'csrc'}",
]
# The three macros of the header that kernel-builder puts beside the sources.
REGISTRATION = """\
#pragma once
#include <Python.h>
#define NAME_OF(name) #name
#define STABLE_TORCH_LIBRARY_EXPAND(name, m) STABLE_TORCH_LIBRARY(name, m)
#define EXTENSION(name)                                                                   \\
  PyMODINIT_FUNC PyInit_##name() {                                                        \\
    static PyModuleDef module = {PyModuleDef_HEAD_INIT, NAME_OF(name), nullptr, 0, nullptr}; \\
    return PyModule_Create(&module);                                                      \\
  }
#define REGISTER_EXTENSION(name) EXTENSION(name)
"""
# kernel-builder's docs, "Writing kernels", edition 5: section -> (required keys, others).
FORMAT: dict[str, tuple[set[str], set[str]]] = {
    "general": (
        {"name", "version", "edition", "license", "backends"},
        {"upstream", "source", "python-depends", "hub", "cuda"},
    ),
    "torch": ({"src"}, {"pyext", "include", "minver", "maxver", "stable-abi", "cxx-flags"}),
    "rocm": ({"backend", "depends", "src"}, {"include", "rocm-archs", "hip-flags", "cxx-flags"}),
    "cuda": (
        {"backend", "depends", "src"},
        {"include", "cuda-capabilities", "cuda-flags", "cuda-minver", "cxx-flags"},
    ),
}


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return tomllib.loads((ROOT / "build.toml").read_text())


def test_generating_again_changes_nothing() -> None:
    files = hub.generated()
    assert {path: (ROOT / path).read_text() for path in files} == files
    wrappers = {p.relative_to(ROOT).as_posix() for p in (ROOT / "torch-ext/cuda").iterdir()}
    assert wrappers == {path for path in files if path.endswith(".cu")}


def test_the_format_is_the_documented_one(build: dict[str, Any]) -> None:
    assert set(build) == {"general", "torch", "kernel"}
    assert build["general"]["edition"] == 5
    assert re.fullmatch("[a-z][a-z0-9-]*", build["general"]["name"])
    kernels = list(build["kernel"].values())
    assert sorted(build["general"]["backends"]) == sorted(k["backend"] for k in kernels)
    assert set(build["torch"]["stable-abi"]) == set(build["general"]["backends"])
    sections = [("general", build["general"]), ("torch", build["torch"])]
    for name, section in sections + [(kernel["backend"], kernel) for kernel in kernels]:
        required, others = FORMAT[name]
        assert required <= set(section) <= required | others
    assert (ROOT / "torch-ext" / build["general"]["name"] / "__init__.py").is_file()
    assert (ROOT / "flake.nix").is_file()


def test_every_source_is_listed_with_what_it_includes(build: dict[str, Any]) -> None:
    lists = [build["torch"]["src"], *(kernel["src"] for kernel in build["kernel"].values())]
    for listed in lists:
        assert len(set(listed)) == len(listed)
        for path in listed:
            assert (ROOT / path).is_file()
            for name in re.findall(r'^\s*#include "(.+)"', (ROOT / path).read_text(), re.MULTILINE):
                beside = (ROOT / path).parent.relative_to(ROOT) / name
                assert {f"csrc/{name}", beside.as_posix()} & set(listed) or name == "registration.h"
    listed = {path for paths in lists for path in paths}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc/hip").glob("*.hip")}
    sources |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc/ops").glob("*_gpu.cpp")}
    assert sources - listed == set(hub.LEFT_OUT)


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binding, compiled as an extension module of a name of its own."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "registration.h").write_text(REGISTRATION)
    out = folder / f"{UNIQUE}.so"
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    source = str(ROOT / "torch-ext/torch_binding.cpp")
    command = [*COMPILE, f"-I{folder}", "-shared", source, "-o", str(out), *libraries]
    subprocess.run(command, check=True)
    return out


def load(name: str, path: Path, **more: Any) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, **more)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module(binding: Path) -> ModuleType:
    """torch-ext's module over the binding's ops, which call the package's on the CPU."""
    load(UNIQUE, binding)
    library = torch.library.Library(UNIQUE, "IMPL")
    for name in hub.implemented():
        library.impl(name, getattr(torch.ops.rocmforge, name).default, "CPU")
    ours = ROOT / "torch-ext/rocmforge"
    names = ModuleType("hub_kernel._ops")
    names.ops = getattr(torch.ops, UNIQUE)
    names.add_op_namespace_prefix = lambda name: f"{UNIQUE}::{name}"
    sys.modules["hub_kernel._ops"] = names
    found = load("hub_kernel", ours / "__init__.py", submodule_search_locations=[str(ours)])
    found._library = library  # kept as long as the module
    return found


def test_the_binding_defines_the_ops_of_the_package(module: ModuleType) -> None:
    assert len(hub.implemented()) > 15
    for name in hub.implemented():
        theirs, ours = getattr(getattr(torch.ops, UNIQUE), name), getattr(torch.ops.rocmforge, name)
        assert set(theirs.overloads()) == set(ours.overloads())
        for overload in ours.overloads():
            schema = str(getattr(theirs, overload)._schema)
            assert (
                schema.partition("::")[2] == str(getattr(ours, overload)._schema).partition("::")[2]
            )


@pytest.mark.parametrize("source", ["csrc/ops/quant_product_gpu.cpp", "csrc/ops/attention_gpu.cpp"])
def test_sources_compile_under_another_name(source: str) -> None:
    subprocess.run([*COMPILE, "-fsyntax-only", str(ROOT / source)], check=True)


@pytest.mark.usefixtures("exact")
def test_the_module_computes_on_blocks(module: ModuleType) -> None:
    rng = np.random.default_rng(0)
    qtype = gguf.GGMLQuantizationType.Q5_0
    blocks = gguf.quantize(rng.standard_normal((4, 12, 64), np.float32), qtype)
    values = torch.from_numpy(gguf.dequantize(blocks, qtype))
    experts = torch.from_numpy(blocks)
    x = torch.from_numpy(rng.standard_normal((9, 64), np.float32))
    kernel = GgufKernel(module)  # what transformers makes of it
    assert kernel.supports(qtype)
    torch.testing.assert_close(
        kernel.mul_mat_vec(experts[0], x, qtype, 12), x @ values[0].T, rtol=1e-5, atol=1e-5
    )
    ids = torch.from_numpy(rng.integers(0, 4, (9, 2)))
    torch.testing.assert_close(
        kernel.mul_mat_id(experts, x, ids, qtype, 12),
        torch.einsum("tk,tenk->ten", x, values[ids]),
        rtol=1e-5,
        atol=1e-5,
    )
    rows = torch.tensor([3, 3, 0])
    assert kernel.get_rows(experts[1], rows, qtype, 64, torch.float32).equal(values[1][rows])
    assert kernel.dequantize(experts[2], qtype, 12, 64, torch.float32).equal(values[2])


def test_shapes_are_known_to_the_compiler(module: ModuleType) -> None:
    ops = getattr(torch.ops, UNIQUE)
    weight = torch.zeros(12, 36, dtype=torch.uint8)
    checks = ("test_schema", "test_faketensor")
    for op, arguments in (
        (ops.quant_matmul, (torch.randn(3, 64), weight, 2)),
        (ops.quant_embedding, (torch.tensor([[1, 2]]), weight, 2, torch.float16)),
        (ops.dequantize, (weight, 2, torch.bfloat16)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=checks)
