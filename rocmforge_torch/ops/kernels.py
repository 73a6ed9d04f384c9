"""What runs for an op on a device, as torch's dispatcher has it."""

from __future__ import annotations

import torch

from .. import extension

KEYS = {"cpu": "CPU", "cuda": "CUDA"}  # device type -> dispatch key; AMD GPUs are "cuda" in torch


def kernel_of(op: str, device: str) -> tuple[str, str]:
    """(what runs, why) for `rocmforge::OP` on a type of device."""
    library = "cpu" if device == "cpu" else "gpu"
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{op}", KEYS[device]):
        if device == "cpu":
            return f"native ({extension.cpu_instruction_set()})", "CPU library"
        return "native", "GPU library"
    if library in extension.loaded():
        return "reference", f"not in the {library.upper()} library"
    return "reference", f"no {library.upper()} library"
