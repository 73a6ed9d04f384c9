"""Decoding in transformers on a GGUF file, beside this package's engine: tokens a second.

usage: python -m benchmarks.transformers_decode MODEL.gguf [--tokens 32] [--no-compile]

Greedy decoding from the same prompt with a cache of fixed size, one sequence: our engine's decoder,
transformers' model of `from_gguf` in eager mode, and the same compiled (`fullgraph=True`). The best
of three rounds counts; all are timed in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import StaticCache

from rocmforge_torch import load_model
from rocmforge_torch.integrations.transformers import from_gguf

ROUNDS = 3
PROMPT = tuple(range(1000, 1016))
Step = Callable[[torch.Tensor, int], torch.Tensor]  # tokens [1, T], position -> logits [1, V]


def ours(path: str, room: int) -> Callable[[], Step]:
    model = load_model(path)

    def start() -> Step:
        cache = model.new_cache(max_seq_len=room, dtype=torch.float32)
        return lambda ids, _: model(ids, cache)[:, -1]

    return start


def theirs(path: str, room: int, compiled: bool) -> Callable[[], Step]:
    model = from_gguf(path)
    # One cache: a compiled step must find the tensors that it was compiled with.
    cache = StaticCache(model.config, max_cache_len=room)
    step: Any = torch.compile(model, fullgraph=True) if compiled else model

    def start() -> Step:
        cache.reset()

        def run(ids: torch.Tensor, position: int) -> torch.Tensor:
            positions = torch.arange(position, position + ids.shape[1])[None]
            forward = step if ids.shape[1] == 1 else model
            logits: torch.Tensor = forward(
                ids, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits
            return logits[:, -1]

        return run

    return start


@torch.inference_mode()
def decode(start: Callable[[], Step], tokens: int) -> tuple[float, list[int]]:
    """(seconds a token, the tokens) of a greedy text; the first token is not timed."""
    step, found = start(), []
    logits = step(torch.tensor([PROMPT]), 0)
    begin = 0.0
    for i in range(tokens + 1):
        token = logits.argmax(-1, keepdim=True)
        found.append(int(token))
        logits = step(token, len(PROMPT) + i)
        if i == 0:
            begin = time.perf_counter()
    return (time.perf_counter() - begin) / tokens, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    room = len(PROMPT) + args.tokens + 2
    runs = {"engine": ours(args.model, room), "eager": theirs(args.model, room, False)}
    if not args.no_compile:
        runs["compiled"] = theirs(args.model, room, True)
        begin = time.perf_counter()
        decode(runs["compiled"], 2)
        print(f"compiling took {time.perf_counter() - begin:.0f} s")
    results = {
        name: [decode(start, args.tokens) for _ in range(ROUNDS)] for name, start in runs.items()
    }
    best = {name: min(seconds for seconds, _ in result) for name, result in results.items()}
    print(f"\n{'':10}{'tokens/s':>10}{'of engine':>12}{'same tokens':>13}")
    for name, seconds in best.items():
        same = sum(
            a == b for a, b in zip(results[name][0][1], results["engine"][0][1], strict=True)
        )
        share = best["engine"] / seconds
        print(f"{name:10}{1 / seconds:10.1f}{share:12.0%}{same:>10}/{args.tokens + 1}")
    print(json.dumps({"threads": torch.get_num_threads(), "seconds_per_token": best}))


if __name__ == "__main__":
    main()
