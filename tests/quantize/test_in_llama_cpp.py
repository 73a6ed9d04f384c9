"""Folders and files that were written are run by llama.cpp: it predicts what our decoder does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tiny_models import TINY, VOCAB, build

from rocmforge_torch import load_model
from rocmforge_torch.quantize import open_model, plan, recipe, write_quantized

pytest.importorskip("xllamacpp", reason="no llama.cpp for this platform")

PEER = Path(__file__).with_name("llama_cpp.py")
PROMPT = [5, 17, 42, 8, 77, 30, 61, 2, 90, 11]
# Printable characters of ASCII, a space, a pair and an end: as many as the tiny models have tokens.
PIECES = [*map(chr, range(33, 126)), "Ġ", "th", "<end>"]


def tokenizer() -> Any:
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    assert len(vocab) == VOCAB
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[("t", "h")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def written(source: Path, target: Path, name: str) -> Path:
    model, wanted = open_model(source), recipe(name)
    write_quantized(target, model, plan(model.tensors, model.metadata, wanted), wanted)
    return target


def in_llama_cpp(prompt: list[int], tokens: int, *files: Path) -> list[dict[int, float]]:
    command = [sys.executable, PEER, str(tokens), json.dumps(prompt), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(files)
    return [{int(token): value for token, value in line.items()} for line in lines]


@torch.inference_mode()
def in_ours(file: Path, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token [V], with room for more as llama.cpp has it."""
    model = load_model(file)
    cache = model.new_cache(1, 64, "f32")
    logits: torch.Tensor = model(torch.tensor([prompt]), cache)[0, -1]
    return logits.log_softmax(-1)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("architectures", "tokens", "limit"),
    [
        ({"llama", "qwen2", "qwen3", "granite", "olmo2", "stablelm"}, 10, 1e-4),
        # llama.cpp computes GELU by a table of float16.
        ({"gemma2", "gemma3", "starcoder2"}, 10, 5e-3),
        # It leaves out this one's window, of 8 tokens here.
        ({"phi3"}, 8, 1e-4),
    ],
)
def test_folders(tmp_path: Path, architectures: set[str], tokens: int, limit: float) -> None:
    files = {}
    for name, tiny in TINY.items():
        if tiny.architecture in architectures:
            # The folder's name is the model's. "phi3" makes llama.cpp look for Phi 3's tokens.
            folder = tmp_path / f"tiny-{len(files)}"
            build(tiny).save_pretrained(folder)
            tokenizer().save_pretrained(folder)
            files[name] = written(folder, tmp_path / f"{name}.gguf", "F32")
    assert len(files) >= len(architectures)
    prompt, errors = PROMPT[:tokens], {}
    predictions = in_llama_cpp(prompt, VOCAB, *files.values())
    for (name, file), theirs in zip(files.items(), predictions, strict=True):
        assert len(theirs) == VOCAB
        ours = in_ours(file, prompt)
        errors[name] = max(abs(ours[token].item() - value) for token, value in theirs.items())
    assert {name: error for name, error in errors.items() if error > limit} == {}


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q3_K_S"])
def test_mixes_of_the_demo_model(demo_model_path: Path, tmp_path: Path, mix: str) -> None:
    """Both round activations to 8 bits, each its own way: the divergence is that of the fast path
    from the exact one in tests/models/test_gemma3_270m.py."""
    file = written(demo_model_path, tmp_path / "demo.gguf", mix)
    model = load_model(file)
    prompt = model.tokenizer.encode("The three most important inventions in history are")
    (theirs,) = in_llama_cpp(prompt, 32, file)
    ours = in_ours(file, prompt)
    divergence = sum(math.exp(p) * (p - ours[token].item()) for token, p in theirs.items())
    assert abs(divergence) <= 0.006 * 3  # one position, where that is the mean of many
    assert ours.argmax().item() == max(theirs, key=lambda token: theirs[token])
