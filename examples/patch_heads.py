"""Which attention head matters most, and a GGUF file without it.

    python examples/patch_heads.py MODEL.gguf OUT.gguf

Every head of one layer is silenced by a hook, and the KL divergence of the predictions measured.
The one that matters most is then cut out of the file itself; the new file predicts as the hook did.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rocmforge_torch as rf
from rocmforge_torch.research import head_parts, patched, requantized, write_patched

TEXT = "The quick brown fox jumps over the lazy dog. To be, or not to be, that is the question."
LAYER = 5


@torch.inference_mode()
def predictions(model: rf.models.CausalLM) -> Tensor:
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    return model(ids)[0].log_softmax(-1)


def divergence(p: Tensor, q: Tensor) -> float:
    return (p.exp() * (p - q)).sum(-1).mean().item()


def silencing(head: int) -> Any:
    """A hook on `attn.core`, whose output is [B, T, H, D]."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, :, head] = 0
        return output

    return hook


def main(source: str, target: str) -> dict[str, Any]:
    model = rf.load_model(source)
    whole = predictions(model)
    by_hook = []
    for head in range(model.config.num_heads):
        handle = model.layers[LAYER].attn.core.register_forward_hook(silencing(head))
        by_hook.append(divergence(whole, predictions(model)))
        handle.remove()
        print(f"layer {LAYER} without head {head}: KL divergence {by_hook[-1]:.4f}")
    best = max(range(len(by_hook)), key=by_hook.__getitem__)

    name = f"blk.{LAYER}.attn_output.weight"
    part = head_parts(model.file, LAYER, best)[name]  # its columns of the output projection
    weight = model.file.tensors[name]
    write_patched(model.file, target, {name: patched(weight, part, torch.zeros(()))})
    by_file = divergence(whole, predictions(rf.load_model(target)))
    print(f"{Path(target).name}, without head {best}: KL divergence {by_file:.4f}")

    # The same head with 2 bits, in a file of its own type.
    coarse = Path(target).with_suffix(".coarse.gguf")
    write_patched(model.file, coarse, {name: requantized(weight, part, "Q2_K")})
    by_rounding = divergence(whole, predictions(rf.load_model(coarse)))
    print(f"{coarse.name}, with head {best} in 2 bits: KL divergence {by_rounding:.4f}")
    return {"head": best, "hook": by_hook, "file": by_file, "coarse": by_rounding}


if __name__ == "__main__":
    main(*sys.argv[1:])
