"""Exported programs say what the model says, without its modules, in files as small."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import CONTEXT, TINY, VOCAB, build, write_gguf
from torch import Tensor

from rocmforge_torch import GGUFError
from rocmforge_torch.exported import ExportedDecoder
from rocmforge_torch.models import CausalLM, load_model
from rocmforge_torch.models.export import export_model

PIECES = ((0, 6), (6, 7), (7, 8), (8, 12))  # a prompt, two tokens, and more of a prompt
NAMES = ["gemma3", "phi3-longrope", "starcoder2"]


def tiny_model(name: str, folder: Path) -> CausalLM:
    tiny = TINY[name]
    return load_model(write_gguf(tiny, build(tiny), folder / "model.gguf"))


def ids(batch: int) -> Tensor:
    return torch.randint(VOCAB, (batch, PIECES[-1][1]), generator=torch.Generator().manual_seed(5))


def check(decoder: ExportedDecoder, model: CausalLM, batch: int, room: int, dtype: str) -> None:
    """Logits after every piece, and the caches, to the bit."""
    cache, ours = decoder.new_cache(batch, room), model.new_cache(batch, room, dtype)
    tokens = ids(batch)
    for start, end in PIECES:
        got = decoder(tokens[:, start:end], cache)
        hidden = model.hidden(tokens[:, start:end], ours.advance(end - start), ours)
        assert torch.equal(got, model.logits(hidden[:, -1]))
    assert cache.lengths.tolist() == [12] * batch
    for mine, want in zip(cache.k + cache.v, ours.k + ours.v, strict=True):
        assert torch.equal(mine[:, :12], want[:, :12])


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_any_batch_length_and_room(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path)
    # Beyond its original context longrope has other frequencies, which is another program.
    longest = 32 if name == "phi3-longrope" else CONTEXT
    dtype = "q8_0" if name == "gemma3" else "f16"
    export_model(model, tmp_path / "model.pt2", ctx_size=longest, cache_dtype=dtype)
    decoder = ExportedDecoder(tmp_path / "model.pt2")
    for batch, room in ((1, 12), (2, 31), (5, 32)):
        check(decoder, model, batch, room, dtype)
    assert not decoder.compiled
    with pytest.raises(
        ValueError, match=rf"max_seq_len from 2 to {longest}, got 1 and {longest + 1}"
    ):
        decoder.new_cache(1, longest + 1)
    with pytest.raises(GGUFError, match="tokenizer"):
        decoder.tokenizer  # noqa: B018 (these files have none)


@torch.inference_mode()
def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama", tmp_path)
    for ctx_size, path, complaint in (
        (31, "a.pt2", "ctx_size must be 32 or more, got 31"),
        (32, "a.zip", "must end in .pt2, got 'a.zip'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            export_model(model, tmp_path / path, ctx_size=ctx_size)
    with pytest.raises(ValueError, match="no archive that `rocmforge export` wrote"):
        ExportedDecoder(tmp_path / "model.gguf")
    export_model(model, tmp_path / "model.pt2", ctx_size=32)
    decoder = ExportedDecoder(tmp_path / "model.pt2")
    cache = decoder.new_cache(2, 8)
    with pytest.raises(ValueError, match=r"must be int64 \[2, T\], got torch.int64 \[3, 12\]"):
        decoder(ids(3), cache)
    decoder(ids(2)[:, :6], cache)
    with pytest.raises(ValueError, match="must be 1 to 2 tokens a sequence, as the cache holds 6"):
        decoder(ids(2)[:, :3], cache)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf", "model.pt2"]


COMPILED = """
import sys, torch
sys.modules["rocmforge_torch.models"] = sys.modules["rocmforge_torch.nn"] = None
from rocmforge_torch.exported import ExportedDecoder

decoder = ExportedDecoder(sys.argv[1])
assert decoder.compiled
ids, pieces, want = torch.load(sys.argv[2])
with torch.inference_mode():
    cache = decoder.new_cache(len(ids), 31)
    for (start, end), logits in zip(pieces, want, strict=True):
        assert torch.equal(decoder(ids[:, start:end], cache), logits)
"""


@torch.inference_mode()
def test_machine_code(tmp_path: Path) -> None:
    """AOTInductor's code calls our ops; another process runs it without our modules."""

    tiny = replace(TINY["llama"], options=TINY["llama"].options | {"num_hidden_layers": 1})
    model = load_model(write_gguf(tiny, build(tiny), tmp_path / "model.gguf"))
    export_model(model, tmp_path / "model.pt2", ctx_size=64, aot=True)
    cache, tokens, want = model.new_cache(2, 31), ids(2), []
    for start, end in PIECES:
        hidden = model.hidden(tokens[:, start:end], cache.advance(end - start), cache)
        want.append(model.logits(hidden[:, -1]))
    torch.save((tokens, PIECES, want), tmp_path / "io.pt")
    files = [str(tmp_path / name) for name in ("model.pt2", "io.pt")]
    subprocess.run([sys.executable, "-c", COMPILED, *files], check=True)
