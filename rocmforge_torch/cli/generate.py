"""`rocmforge generate`: continue a text."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .errors import CommandError, Interrupted, UsageError
from .options import CacheType, Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import note, print_json, write

Prompt = Annotated[
    str | None,
    typer.Option("-p", "--prompt", help="Text to continue (default: stdin).", show_default=False),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="FILE", help="File with the prompt.", show_default=False),
]
SEED_BITS = 32  # of a seed that nobody named: enough, and short to type


def generate(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    prompt: Prompt = None,
    file: PromptFile = None,
    predict: options.Predict = -1,
    temp: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    repeat_penalty: options.RepeatPenalty = 1.0,
    repeat_last_n: options.RepeatLastN = 64,
    ignore_eos: options.IgnoreEos = False,
    seed: options.Seed = -1,
    ctx_size: options.CtxSize = 0,
    cache_type_k: options.CacheTypeK = CacheType.f16,
    cache_type_v: options.CacheTypeV = CacheType.f16,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    dtype: options.ActivationDtype = None,
    exact: options.Exact = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a text: streams it to stdout, then says on stderr how fast."""
    from ..generate import SamplingParams, TextBatch
    from . import session

    path = model_path(model, model_option, demo)
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    text = _prompt(prompt, file)
    seed = secrets.randbits(SEED_BITS) if seed < 0 else seed
    params = SamplingParams(
        temperature=temp,
        top_k=max(top_k, 0),
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        seed=seed,
        max_tokens=predict,
        ignore_eos=ignore_eos,
    )
    start = time.perf_counter()
    lm = session.load(path, device, dtype, threads, exact)
    batch = TextBatch(lm, [text], params, ctx_size=ctx_size or None, cache_dtype=cache_dtype)
    load_seconds = time.perf_counter() - start
    if not as_json and sys.stdout.isatty():
        write(text)
    clock = session.Clock(len(batch.generations[0].prompt))
    written = []
    try:
        for (piece,) in batch:
            clock.tick(len(batch.generations[0].tokens))
            written.append(piece)
            if not as_json:
                write(piece)
    except KeyboardInterrupt:
        if not as_json:
            write("\n")
        raise Interrupted(f"interrupted, {session.timing_line(clock.report())}") from None
    report = clock.report()
    if as_json:
        print_json(
            {
                "model": str(path),
                "prompt": text,
                "text": "".join(written),
                "finish_reason": batch.generations[0].finish_reason,
                "seed": seed,
                "load_seconds": round(load_seconds, 4),
                **report,
            }
        )
        return
    write("\n")
    note(session.timing_line(report))


def _prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt: -p, or the file of -f, or stdin; one newline at a file's end is no part of it."""
    from .session import read_text

    if prompt is not None and file is not None:
        raise UsageError("-p and -f both name a prompt: give one of them")
    if prompt is not None:
        return prompt
    if file is not None:
        return read_text(file).removesuffix("\n")
    if sys.stdin.isatty():
        raise UsageError("no prompt: give -p TEXT or -f FILE, or pipe a text in")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CommandError(f"stdin: not UTF-8 text (byte {error.start})") from None
