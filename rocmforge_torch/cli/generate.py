"""`rocmforge generate`: continue a text."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from .errors import CommandError, Interrupted, UsageError
from .flags import ModelFlags, RunFlags, SamplingFlags, with_flags
from .options import Debug, IgnoreEos, Json
from .output import note, print_json, write

Prompt = Annotated[
    str | None,
    typer.Option("-p", "--prompt", help="Text to continue (default: stdin).", show_default=False),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="FILE", help="File with the prompt.", show_default=False),
]


@with_flags
def generate(
    source: ModelFlags,
    sampling: SamplingFlags,
    running: RunFlags,
    prompt: Prompt = None,
    file: PromptFile = None,
    ignore_eos: IgnoreEos = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a text: streams it to stdout, then says on stderr how fast."""
    from ..generate import TextBatch
    from . import session

    path = source.path()
    cache_dtype = running.cache_dtype
    text = _prompt(prompt, file)
    params = sampling.params(ignore_eos)
    start = time.perf_counter()
    lm = running.load(path)
    ctx_size = running.ctx_size or None
    batch = TextBatch(lm, [text], params, ctx_size=ctx_size, cache_dtype=cache_dtype)
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
                "seed": params.seed,
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
