"""Memory and time of LoRA training by how the base's weights are kept.

usage: python -m benchmarks.lora_memory [MODEL] [--tokens N] [--steps N] [--json FILE]

The same model (the demo model by default), adapters, optimizer and tokens in each row:

    gguf           the file's own types, mapped: rocmforge_torch
    bitsandbytes   linear layers in NF4, what is no linear layer in float32; if it is installed
    float32        ordinary weights

Each row comes from a fresh process, on Linux; memory is above that of the imported libraries. The
peak is that of loading and training or, where weights had to be converted first, of training alone.
Pages of a mapped file count once they were read. The text is random tokens.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

from rocmforge_torch import GGUFTensor
from rocmforge_torch.cli.demo_model import demo_model_file
from rocmforge_torch.integrations.peft import gguf_lora_config
from rocmforge_torch.integrations.transformers import from_gguf

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def status(key: str) -> int:
    """MiB that the system counts of this process: VmRSS, now; VmHWM, the most there was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) >> 10


def forget_peak() -> None:
    """Start VmHWM anew, after giving back what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def unchanged(model: nn.Module) -> None:
    """The weights stay as the file has them."""


def dequantize(model: nn.Module) -> None:
    """Every weight as an ordinary tensor; tied ones stay one."""
    plain: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, GGUFTensor):
                if weight not in plain:
                    plain[weight] = nn.Parameter(weight.dequantize(), requires_grad=False)
                setattr(module, name, plain[weight])


def to_nf4(model: nn.Module) -> None:
    """The adapted layers as bitsandbytes' 4-bit ones, the rest plain."""
    import bitsandbytes

    dequantize(model)
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if name in TARGETS:
                narrow = bitsandbytes.nn.Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    bias=layer.bias is not None,
                    compute_dtype=torch.float32,
                    quant_type="nf4",
                )
                narrow.load_state_dict(layer.state_dict())
                setattr(module, name, narrow.to(layer.weight.device))


WEIGHTS: dict[str, Callable[[nn.Module], None]] = {
    "gguf": unchanged,
    "bitsandbytes": to_nf4,
    "float32": dequantize,
}


def measure(kind: str, path: Path, tokens: int, steps: int) -> dict[str, float]:
    """One row, in this process."""
    bare = status("VmRSS")
    torch.manual_seed(0)
    model = from_gguf(path)
    WEIGHTS[kind](model)
    config = LoraConfig(r=8, target_modules=TARGETS)
    model = get_peft_model(model, gguf_lora_config(config))
    model.base_model.model.activation_checkpointing_enable()
    model.train()
    if WEIGHTS[kind] is not unchanged:
        forget_peak()
    loaded = status("VmRSS")
    adapters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    begin = time.process_time()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = (time.process_time() - begin) / steps
    return {
        "loaded": loaded - bare,
        "peak": status("VmHWM") - bare,
        "seconds": seconds,
        "loss": float(loss.detach()),
    }


def main(path: Path, tokens: int, steps: int, json_file: Path | None) -> None:
    rows = {}
    for kind in WEIGHTS:
        if kind == "bitsandbytes" and importlib.util.find_spec(kind) is None:
            print("bitsandbytes is not installed: its row is left out")
            continue
        command = [sys.executable, "-m", "benchmarks.lora_memory", str(path), "--only", kind]
        command += ["--tokens", str(tokens), "--steps", str(steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[kind] = json.loads(done.stdout.splitlines()[-1])
    table = Table("weights", "loaded MiB", "peak MiB", "CPU s / step", "loss")
    for kind, row in rows.items():
        table.add_row(
            kind,
            f"{row['loaded']}",
            f"{row['peak']}",
            f"{row['seconds']:.2f}",
            f"{row['loss']:.3f}",
        )
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file; default: the demo model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=WEIGHTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    model_path = given.model or demo_model_file()
    if given.only:
        print(json.dumps(measure(given.only, model_path, given.tokens, given.steps)))
    else:
        main(model_path, given.tokens, given.steps, given.json)
