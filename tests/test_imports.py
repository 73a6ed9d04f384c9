"""Importing this package, or any module of it, changes nothing in other libraries.

The one exception is asked for by name: importing `integrations.transformers` registers its method
of quantization, by transformers' own extension point (tests/integrations hold it to that).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import rocmforge_torch

PACKAGE = Path(rocmforge_torch.__file__).parent

# Runs programs when it is imported, as `python -m` does.
PROGRAMS = {"__main__"}
REGISTERS = "rocmforge_torch.integrations.transformers"
# Libraries that cost seconds or patch things; who needs one imports it when it is asked for.
ABSENT = {
    "transformers", "peft", "diffusers", "accelerate", "bitsandbytes", "gguf", "huggingface_hub",
    "matplotlib", "fastapi", "torch._inductor.compile_fx",
}  # fmt: skip
DESCRIBE = """
import importlib, json, sys

def members(owner):
    return {
        f"{owner.__name__}.{name}": id(value)
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("__")
    }

def state():
    import torch
    found = {}
    for owner in (torch, torch.Tensor, torch.nn, torch.nn.Module, torch.nn.Linear,
                  torch.nn.Embedding, torch.nn.functional, torch.serialization, torch.distributed):
        found |= members(owner)
    for name in others:
        module = importlib.import_module(name)
        found |= members(module)
        for key, value in vars(module).items():
            if isinstance(value, dict) and not key.startswith("__"):
                found[f"{name}.{key}"] = sorted(map(str, value))
            if isinstance(value, type):
                found |= members(value)
    found["default dtype"] = str(torch.get_default_dtype())
    found["grad"] = torch.is_grad_enabled()
    found["threads"] = torch.get_num_threads()
    return found

modules, others = json.loads(sys.argv[1])
if modules:
    import torch._dynamo  # which marks functions of torch when it is first imported
before = state()
loaded = set(sys.modules)
importlib.import_module("rocmforge_torch")
absent = sorted(set(sys.modules) - loaded)
for name in modules:
    importlib.import_module(name)
after = state()
changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
print(json.dumps([changed, absent]))
"""


def modules() -> list[str]:
    """Every module of the package, by its name."""
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [
        name
        for name in names
        if name.rpartition(".")[2] not in PROGRAMS and not name.startswith(REGISTERS)
    ]


def described(modules: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """What is another after importing modules; what `import rocmforge_torch` alone imported."""
    command = [sys.executable, "-c", DESCRIBE, json.dumps([modules, others])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    changed, imported = json.loads(done.stdout.splitlines()[-1])
    return changed, imported


def test_no_module_changes_another_library() -> None:
    """transformers' tables of models, quantizers and GGUF architectures, its loader and its layers,
    torch's functions and classes."""
    others = [
        "transformers.modeling_utils",
        "transformers.modeling_gguf_pytorch_utils",
        "transformers.quantizers.auto",
        "transformers.integrations.ggml",
        "transformers.integrations.gguf.kernels",
        "transformers.models.auto.configuration_auto",
        "transformers.models.auto.modeling_auto",
        "safetensors.torch",
    ]
    changed, _ = described(modules(), others)
    assert changed == []


def test_the_package_imports_little() -> None:
    _, imported = described([], [])
    assert "rocmforge_torch" in imported
    assert "rocmforge_torch.models" not in imported  # programs of `rocmforge export` need none
    assert sorted(ABSENT & set(imported)) == []


def test_a_change_would_be_seen() -> None:
    """What the test above compares does change if something is registered or patched."""
    code = (
        "import transformers.quantizers.auto as auto, torch\n"
        "auto.AUTO_QUANTIZER_MAPPING['ours'] = object\n"
        "torch.nn.Linear.forward = lambda self, x: x\n"
    )
    program = DESCRIBE.replace("after = state()", f"exec({code!r})\nafter = state()")
    arguments = json.dumps([[], ["transformers.quantizers.auto"]])
    command = [sys.executable, "-c", program, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    changed, _ = json.loads(done.stdout.splitlines()[-1])
    assert changed == ["Linear.forward", "transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING"]
