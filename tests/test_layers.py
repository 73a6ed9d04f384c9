"""Imports point downwards: from people to models, modules, files, ops, and at last the tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rocmforge_torch

PACKAGE = Path(rocmforge_torch.__file__).parent
CSRC = PACKAGE.parent / "csrc"

# Top to bottom; parts of one line may import each other.
LAYERS = [
    {"cli", "serve", "__main__"},
    {"research"},
    {"quantize", "integrations"},
    {"generate"},
    {"models"},
    {"fx", "graphs", "allocator", "offload"},
    {"nn", "exported"},
    {"safetensors_io"},
    {"huggingface"},
    {"tensor", "gguf"},
    {"ops"},
    {"config"},
    {"quant_types", "extension", "ranges", "tuning"},
]
RANK = {part: len(LAYERS) - i for i, layer in enumerate(LAYERS) for part in layer}

# Imports inside a function that point upwards, and why each may.
DEFERRED = {
    (
        "models",
        "generate",
    ): "CausalLM.generate is the door to the layer above, as PyTorch users know",
}

MODULES = sorted(
    p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"
)


def imported_parts(path: Path) -> Iterator[tuple[str, bool]]:
    """(part of the package, whether the import stands at the top level) of every import."""
    tree = ast.parse((PACKAGE / path).read_text())
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["rocmforge_torch", *path.parent.parts]
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            # `from .. import ops` names parts, `from ..ops import X` what is in one.
            names = (
                [f"{module}.{a.name}" for a in node.names] if module == PACKAGE.name else [module]
            )
        for name in names:
            if name.startswith(f"{PACKAGE.name}."):
                yield name.split(".")[1], node in tree.body


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    part = path.parts[0].removesuffix(".py")
    assert part in RANK, f"{path} is in no layer: add it to LAYERS"
    for target, top_level in imported_parts(path):
        assert target in RANK, f"{path} imports {target}, which is in no layer"
        allowed = target == part or RANK[target] <= RANK[part]
        assert allowed or (not top_level and (part, target) in DEFERRED), (
            f"{path} imports {target}, which is in a layer above"
        )


def includes(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((CSRC / folder).rglob("*")):
        if path.suffix in (".h", ".cpp", ".hip"):
            for name in re.findall(r'^\s*#include [<"]([^>"]+)', path.read_text(), re.MULTILINE):
                yield path.relative_to(CSRC), name


@pytest.mark.parametrize(
    ("folder", "refused"),
    [
        ("common", ("torch/", "ATen/", "c10/", "ops/", "cpu/", "hip/")),
        ("cpu", ("torch/", "ATen/", "c10/", "ops/", "hip/")),
        ("hip", ("torch/", "ATen/", "c10/", "ops/", "cpu/")),
        ("ops", ("ATen/", "c10/", "torch/extension.h", "torch/library.h", "pybind11/")),
    ],
)
def test_kernels_know_no_torch_header(folder: str, refused: tuple[str, ...]) -> None:
    found = list(includes(folder))
    assert found
    assert [f"{path}: {name}" for path, name in found if name.startswith(refused)] == []
