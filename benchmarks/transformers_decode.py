"""Decoding in transformers on a GGUF file, beside this package's engine: tokens a second.

usage: python -m benchmarks.transformers_decode MODEL.gguf [--device cuda] [--tokens 32]
           [--ways 'WAY;WAY'] [--no-compile]

Greedy decoding from the same prompt with a cache of fixed size, one sequence: our engine (on a GPU
its loop of captured graphs), transformers' model of `from_gguf` with a `RocmForgeCache` in eager
mode, its step of one token compiled (`fullgraph=True`) and, on a GPU, captured in a CUDA or HIP
graph. "sdpa" is transformers' own attention and `StaticCache`. The best of three rounds counts; all
are timed in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from rocmforge_torch import extension, load_model
from rocmforge_torch.fx.backend import rocmforge
from rocmforge_torch.generate import SamplingParams, generate_tokens
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.integrations.transformers import RocmForgeCache, from_gguf

ROUNDS = 3
PROMPT = tuple(range(1000, 1016))
Step = Callable[[Tensor, int], Tensor]  # tokens [1, T], position -> logits [1, V]
Decode = Callable[[int], tuple[float, list[int]]]  # of so many tokens: seconds each, the tokens


def by_steps(start: Callable[[], Step], device: str) -> Decode:
    """Greedy decoding by a function of a step; the first token is not timed."""

    @torch.inference_mode()
    def decode(tokens: int) -> tuple[float, list[int]]:
        step, found = start(), []
        logits = step(torch.tensor([PROMPT], device=device), 0)
        begin = 0.0
        for i in range(tokens + 1):
            token = logits.argmax(-1, keepdim=True)
            found.append(int(token))
            logits = step(token, len(PROMPT) + i)
            if i == 0:
                begin = time.perf_counter()
        logits.argmax().item()
        return (time.perf_counter() - begin) / tokens, found

    return decode


def engine(path: str, device: str, room: int) -> Decode:
    model = load_model(path, device)
    if device != "cpu":
        graphed = GraphedDecode(model, 1, room)

        def loop(tokens: int) -> tuple[float, list[int]]:
            params = SamplingParams(temperature=0.0, max_tokens=tokens + 1, ignore_eos=True)
            begin, found = 0.0, []
            steps = generate_tokens(model, [PROMPT], params, ctx_size=room, graphed=graphed)
            for (generation,) in steps:
                found = generation.tokens
                begin = begin or time.perf_counter()
            return (time.perf_counter() - begin) / tokens, list(found)

        return loop

    def start() -> Step:
        cache = model.new_cache(max_seq_len=room, dtype=torch.float32)
        return lambda ids, _: model(ids, cache)[:, -1]

    return by_steps(start, device)


class Captured:
    """A step of one token as a graph: the tensors that it reads and writes stay where they are."""

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], device: str, at_rest: bool
    ) -> None:
        self._step = step
        self._early = extension.inputs_at_rest if at_rest else nullcontext
        self._ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._position = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False
        self._logits = torch.empty(0)

    def __call__(self, ids: Tensor, position: Tensor) -> Tensor:
        self._ids.copy_(ids)
        self._position.copy_(position)
        if not self._warm:  # compiles, loads kernels
            self._warm = True
            return self._step(self._ids, self._position)
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with self._early(), torch.cuda.graph(graph):
                self._logits = self._step(self._ids, self._position)
            self._graph = graph
        self._graph.replay()
        return self._logits


@dataclass(frozen=True)
class Way:
    """How transformers decodes.

    Attributes:
        backend: what compiles the step, if anything does.
        options: of the backend.
        captured: whether the step is captured in a graph.
        fuse: whether projections are fused, which is for compiled steps.
        attention: the `attn_implementation`.
        at_rest: whether kernels of the captured step may read slots and lengths early: not where a
            compiler decides where in the step these are computed.
    """

    backend: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    captured: bool = False
    fuse: bool = False
    attention: str = "rocmforge"
    at_rest: bool = True


# The backend by itself, not by its name: that is known where the package is installed.
OURS: dict[str, Any] = {"backend": rocmforge, "fuse": True}
PASSES = {"inductor": False}
WAYS = {
    "eager": Way(),
    "compiled by inductor": Way("inductor", fuse=True),
    "compiled by rocmforge": Way(**OURS, options=PASSES),
    "captured": Way(captured=True),
    "sdpa, captured": Way(captured=True, attention="sdpa"),
    "compiled by inductor, captured": Way("inductor", fuse=True, captured=True, at_rest=False),
    "compiled by rocmforge, captured": Way(**OURS, options=PASSES, captured=True),
    "compiled by both, captured": Way(**OURS, captured=True, at_rest=False),
}


# Compiling by Inductor takes minutes: on demand.
USUAL = {
    True: ("eager", "compiled by rocmforge"),  # on the CPU
    False: ("eager", "captured", "sdpa, captured", "compiled by rocmforge, captured"),
}


@cache
def loaded(path: str, device: str, fuse: bool, attention: str) -> Any:
    """A model, which all ways share that need the same one."""
    return from_gguf(path, device, fuse=fuse, attn_implementation=attention)


def theirs(path: str, device: str, room: int, how: str) -> Decode:
    way = WAYS[how]
    model = loaded(path, device, way.fuse, way.attention)
    # One cache: a compiled or captured step must find the tensors that it was made with.
    own = way.attention == "rocmforge"
    kept = RocmForgeCache(model, room) if own else StaticCache(model.config, max_cache_len=room)

    def forward(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def run(ids: Tensor, positions: Tensor) -> Tensor:
            logits: Tensor = model(
                ids, position_ids=positions, past_key_values=kept, logits_to_keep=1
            ).logits
            return logits[:, -1]

        return run

    eager = step = forward(model)
    if way.backend:
        options = dict(way.options) or None
        step = forward(torch.compile(model, fullgraph=True, backend=way.backend, options=options))
    if way.captured:
        step = Captured(step, device, way.at_rest)

    def start() -> Step:
        kept.reset()

        def run(ids: Tensor, position: int) -> Tensor:
            count = ids.shape[1]
            positions = torch.arange(position, position + count, device=device)[None]
            return (step if count == 1 else eager)(ids, positions)

        return run

    return by_steps(start, device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--ways", help="separated by ';': " + "; ".join(WAYS))
    args = parser.parse_args()
    room = len(PROMPT) + args.tokens + 2
    usual = [
        way for way in USUAL[args.device == "cpu"] if not (WAYS[way].backend and args.no_compile)
    ]
    ways = args.ways.split(";") if args.ways else usual
    runs = {"engine": engine(args.model, args.device, room)}
    runs |= {way: theirs(args.model, args.device, room, way) for way in ways}
    ready = {}
    for name, decode in runs.items():
        begin = time.perf_counter()
        decode(2)
        ready[name] = time.perf_counter() - begin
    results = {name: [decode(args.tokens) for _ in range(ROUNDS)] for name, decode in runs.items()}
    best = {name: min(seconds for seconds, _ in result) for name, result in results.items()}
    print(f"\n{'':32}{'tokens/s':>10}{'of engine':>12}{'same tokens':>13}{'ready in':>10}")
    for name, seconds in best.items():
        same = sum(
            a == b for a, b in zip(results[name][0][1], results["engine"][0][1], strict=True)
        )
        share = best["engine"] / seconds
        print(
            f"{name:32}{1 / seconds:10.1f}{share:12.0%}{same:>10}/{args.tokens + 1:<2}"
            f"{ready[name]:8.1f} s"
        )
    record = {"device": args.device, "threads": torch.get_num_threads(), "seconds_per_token": best}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
