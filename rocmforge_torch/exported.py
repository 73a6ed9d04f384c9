"""`ExportedDecoder`: runs what `rocmforge export` wrote.

Of this package it needs the ops (their schemas and the compiled library) and the tokenizer, and no
module of a model: the program in the archive is all there is of that.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import ops  # noqa: F401  (registers the operators)
from .gguf.tokenizer import Tokenizer

# Files in the archive, beside those of PyTorch.
INFO, TOKENIZER = "decoder.json", "tokenizer_keys.json"
PREFILL_CHUNK = 512  # tokens of a prompt at a time; bounds what their activations take
LEAST_ROOM = 2  # tokens of a cache: to torch.export a size of 1 is a constant


@dataclass(frozen=True)
class DecoderInfo:
    """What the archive says about its program.

    Attributes:
        architecture: as in the GGUF file.
        num_layers, vocab_size: sizes.
        ctx_size: the most tokens of a sequence.
        key_row, value_row: [Hkv, n], what a token takes in a layer of the cache.
        key_dtype, value_dtype: names of torch's dtypes.
    """

    architecture: str
    num_layers: int
    vocab_size: int
    ctx_size: int
    key_row: tuple[int, int]
    value_row: tuple[int, int]
    key_dtype: str
    value_dtype: str


@dataclass
class ProgramCache:
    """Keys and values of B sequences of at most S tokens.

    Attributes:
        lengths: int64 [B], tokens of each sequence so far.
        k, v: one tensor [B, S, Hkv, n] a layer.
        filled: tokens of each sequence, as the host counts them.
    """

    lengths: Tensor
    k: list[Tensor]
    v: list[Tensor]
    filled: int = 0


class ExportedDecoder:
    """A decoder out of an archive.

    Attributes:
        info: sizes, and the form of the cache.
        compiled: whether the program is machine code (AOTInductor) or a graph of ops.
    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        """Load an archive. Archives can run code of their author's: load your own only.

        Args:
            path: the `.pt2` file.
            device: where the program runs; machine code runs on the CPU only.

        Raises:
            ValueError: the file is none that `rocmforge export` wrote, or cannot run on the device.
            OSError: the file cannot be opened.
        """
        # PyTorch's own door to archives of both kinds, which has no public name yet.
        from torch.export.passes import move_to_device_pass
        from torch.export.pt2_archive._package import load_pt2

        path = os.fspath(path)
        if not _is_archive(path):
            raise ValueError(f"{path}: no archive that `rocmforge export` wrote")
        self.device = torch.device(device)
        contents = load_pt2(path)
        self.info = DecoderInfo(**json.loads(contents.extra_files[INFO]))
        self._tokenizer_keys: str = contents.extra_files[TOKENIZER]
        self.compiled = bool(contents.aoti_runners)
        if self.compiled:
            if self.device.type != "cpu":
                raise ValueError(f"{path}: holds machine code for the CPU, not for {self.device}")
            self._program: Callable[..., Tensor] = contents.aoti_runners["model"]
        else:
            program = contents.exported_programs["model"]
            if self.device.type != "cpu":
                program = move_to_device_pass(program, str(self.device))
            self._program = program.module(check_guards=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model's file, built when first asked for.

        Raises:
            GGUFError: the file described none.
        """
        return Tokenizer.from_metadata(json.loads(self._tokenizer_keys))

    def new_cache(self, batch_size: int = 1, max_seq_len: int | None = None) -> ProgramCache:
        """An empty cache for B sequences of at most `max_seq_len` tokens (default: `ctx_size`).

        Raises:
            ValueError: batch_size is not positive, or max_seq_len not from 2 to `ctx_size`.
        """
        info = self.info
        room = info.ctx_size if max_seq_len is None else max_seq_len
        if batch_size < 1 or not LEAST_ROOM <= room <= info.ctx_size:
            raise ValueError(
                f"batch_size must be positive and max_seq_len from {LEAST_ROOM} to "
                f"{info.ctx_size}, got {batch_size} and {room}"
            )

        def layers(row: Sequence[int], dtype: str) -> list[Tensor]:
            shape, kind = (batch_size, room, *row), getattr(torch, dtype)
            return [
                torch.empty(shape, dtype=kind, device=self.device) for _ in range(info.num_layers)
            ]

        lengths = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        return ProgramCache(
            lengths,
            layers(info.key_row, info.key_dtype),
            layers(info.value_row, info.value_dtype),
        )

    def __call__(self, input_ids: Tensor, cache: ProgramCache) -> Tensor:
        """input_ids int64 [B, T], which follow what is in the cache -> the logits after the last
        of them [B, V].

        Raises:
            ValueError: the ids are no int64 [B, T] of the cache's B, or do not fit into it.
        """
        batch, room = cache.k[0].shape[:2]
        if input_ids.dtype != torch.int64 or input_ids.dim() != 2 or input_ids.shape[0] != batch:
            raise ValueError(
                f"input_ids must be int64 [{batch}, T], got {input_ids.dtype} "
                f"{list(input_ids.shape)}"
            )
        tokens = input_ids.shape[1]
        if not 1 <= tokens <= room - cache.filled:
            raise ValueError(
                f"input_ids must be 1 to {room - cache.filled} tokens a sequence, as the cache "
                f"holds {cache.filled} of {room}, got {tokens}"
            )
        cache.filled += tokens
        logits: Tensor = self._program(input_ids.contiguous(), cache.lengths, cache.k, cache.v)
        return logits

    @torch.inference_mode()
    def stream(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """The likeliest text after a prompt, in pieces of whole characters, as it is written.

        Raises:
            ValueError: the prompt is empty, or does not fit into `ctx_size` tokens.
        """
        tokens = self.tokenizer.encode(prompt, parse_special=True)
        # The last token is never computed with, so it needs no room.
        most = min(max_tokens, self.info.ctx_size - len(tokens) + 1)
        if not 1 <= len(tokens) <= self.info.ctx_size:
            raise ValueError(
                f"the prompt must have 1 to {self.info.ctx_size} tokens, it has {len(tokens)}"
            )
        cache = self.new_cache(1, max(len(tokens) + most - 1, LEAST_ROOM))
        ids = torch.tensor([tokens], device=self.device)
        for chunk in ids.split(PREFILL_CHUNK, 1):
            logits = self(chunk, cache)
        writer = self.tokenizer.stream(tokens)
        for count in range(1, most + 1):
            chosen = logits.argmax(-1, keepdim=True)
            token = int(chosen)
            if token in self.tokenizer.eog_ids:
                break
            yield writer.push(token)
            if count < most:
                logits = self(chosen, cache)
        yield writer.finish()

    def generate(self, prompt: str, max_tokens: int) -> str:
        """What `stream` writes, in one piece."""
        return "".join(self.stream(prompt, max_tokens))


def _is_archive(path: str) -> bool:
    """Whether a file is a zip archive with our description in it."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            return False
        names = zipfile.ZipFile(file).namelist()
    return any(name.endswith(f"/{INFO}") for name in names)
