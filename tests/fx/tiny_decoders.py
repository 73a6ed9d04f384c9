"""One-layer models of every architecture, and a run of prefill and decoding through a cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny_models import TINY, VOCAB, build, write_gguf
from torch import Tensor

from rocmforge_torch.models import CausalLM, load_model
from rocmforge_torch.nn import KVCache

# The first model of every architecture.
ARCHITECTURES = {tiny.architecture: name for name, tiny in reversed(TINY.items())}
ROOM = 31  # below the original context of longrope, as its frequencies depend on the room
PIECES = ((0, 7), (7, 12), (12, 13), (13, 14), (14, 15))  # a prompt in two pieces, then tokens


@cache
def _path(name: str, layers: int) -> Path:
    tiny = TINY[name]
    tiny = replace(tiny, options=tiny.options | {"num_hidden_layers": layers})
    folder = Path(tempfile.mkdtemp(prefix="tiny-"))
    return write_gguf(tiny, build(tiny), folder / f"{name}.gguf")


def decoder(name: str, layers: int = 1, fuse: bool = False) -> CausalLM:
    return load_model(_path(name, layers), fuse=fuse)


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(batch))


def new_cache(model: CausalLM, batch: int) -> KVCache:
    return model.new_cache(batch, ROOM, torch.float32)


def run(function: Callable[..., Tensor], cache: KVCache) -> list[Tensor]:
    """The logits of PIECES."""
    tokens = ids(cache.batch_size, PIECES[-1][1])
    return [function(tokens[:, start:end].clone(), cache) for start, end in PIECES]


def graphs_compiled() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@contextmanager
def no_more_graphs() -> Iterator[None]:
    patch: Any = torch._dynamo.config.patch(error_on_recompile=True)
    with patch:
        yield
