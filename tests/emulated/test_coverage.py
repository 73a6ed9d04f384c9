"""What the other tests of this folder left out; conftest.py makes this one run last."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import pytest

from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tools.amd.code_object import CodeObject
from tools.amd.emulator import Emulator
from tools.amd.toolchain import Toolchain, kernel_sources

pytestmark = pytest.mark.emulated
EVERYTHING = "gfx1100"
# What also runs on RDNA4 and CDNA3, and products of so many types each.
ELSEWHERE = ("gfx1201", "gfx942")
FAMILIES = re.compile(r"^(matvec|multirow|tile|attention|accumulate)")
TYPES = 4


def arguments(kernel: str) -> tuple[str, list[str]]:
    """f<A<B, C>, 2> is f and ["A<B, C>", "2"]."""
    name, _, inside = kernel.removesuffix(">").partition("<")
    parts = re.split(r",\s*(?![^<]*>)", inside) if inside else []
    return name, parts


def instances(kernels: Iterable[str]) -> set[tuple[str, int, str]]:
    """Every value of every template argument of every kernel: (kernel, number, value)."""
    found = set()
    for kernel in kernels:
        name, values = arguments(kernel)
        found |= {(name, i, value) for i, value in enumerate(values)} or {(name, 0, "")}
    return found


@pytest.fixture(scope="module")
def compiled(toolchain: Toolchain) -> set[str]:
    files = toolchain.compile_all(kernel_sources(), [EVERYTHING])
    return {k.name for file in files for k in CodeObject.read(file.path).kernels.values()}


def test_template_arguments() -> None:
    assert arguments("plain") == ("plain", [])
    assert arguments("f<A<B, C>, 2>") == ("f", ["A<B, C>", "2"])
    assert instances(["f<A, 1>", "f<B, 1>", "g"]) == {
        *(("f", 0, "A"), ("f", 0, "B"), ("f", 1, "1"), ("g", 0, "")),
    }


def test_every_kernel_was_run(emulator: Emulator, compiled: set[str]) -> None:
    """With every value of each of its template arguments: types, layouts, rows, head sizes."""
    run = instances(kernel for arch, kernel in emulator.executed if arch == EVERYTHING)
    missing = sorted(instances(compiled) - run)
    assert not missing, "never run: " + ", ".join(
        f"{n} with {v or 'nothing'}" for n, _, v in missing
    )


@pytest.mark.parametrize("arch", ELSEWHERE)
def test_families_ran_elsewhere(emulator: Emulator, compiled: set[str], arch: str) -> None:
    types: dict[str, set[str]] = defaultdict(set)
    needed = {name: TYPES if is_typed else 1 for name, is_typed in families(compiled).items()}
    for where, kernel in emulator.executed:
        name, values = arguments(kernel)
        if where == arch:
            types[name].add(values[0] if values else "")
    missing = {name: n - len(types[name]) for name, n in needed.items() if len(types[name]) < n}
    assert not missing, f"never run on {arch}, with so many more types: {missing}"


def families(kernels: Iterable[str]) -> dict[str, bool]:
    """The kernels of FAMILIES, and whether their first argument is a quantization type."""
    found = {}
    for kernel in kernels:
        name, values = arguments(kernel)
        if FAMILIES.match(name):
            found[name] = bool(values) and values[0] in QUANT_TYPES_BY_NAME
    return found
