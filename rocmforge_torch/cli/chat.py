"""`rocmforge chat`: talk with a model, one line a turn."""

from __future__ import annotations

import contextlib
import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .errors import FAILED
from .generate import SEED_BITS
from .options import CacheType, Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import note, print_json, write

if TYPE_CHECKING:
    from .conversation import Conversation

System = Annotated[
    str | None,
    typer.Option(
        "-sys", "--system-prompt", help="What the model is told first.", show_default=False
    ),
]

HELP = "/exit ends, /clear forgets, /help shows this. Ctrl-C stops an answer, or ends."


def chat(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    system: System = None,
    predict: options.Predict = -1,
    temp: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    repeat_penalty: options.RepeatPenalty = 1.0,
    repeat_last_n: options.RepeatLastN = 64,
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
    """Talk with a model: a line is a message, and answers stream back.

    Messages come from the terminal or from stdin. With --json every answer is one line of JSON.
    """
    from ..generate import SamplingParams
    from . import session
    from .conversation import Conversation

    path = model_path(model, model_option, demo)
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    params = SamplingParams(
        temperature=temp,
        top_k=max(top_k, 0),
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        seed=secrets.randbits(SEED_BITS) if seed < 0 else seed,
        max_tokens=predict,
    )
    lm = session.load(path, device, dtype, threads, exact)
    talk = Conversation(lm, params, ctx_size or lm.config.context_length, cache_dtype, system)
    person = sys.stdin.isatty()
    if not talk.has_template:
        note("This model has no chat template: it continues a transcript of User and Assistant.")
    if person and not as_json:
        note(HELP)
    failed = False
    while (line := _read(person and not as_json)) is not None:
        if line in ("/exit", "/quit"):
            break
        if line == "/clear":
            talk.clear()
        elif line == "/help":
            note(HELP)
        elif line:
            failed |= not _turn(talk, line, as_json)
    if failed and not person:  # a program talks: it has seen no note
        raise typer.Exit(FAILED)


def _read(person: bool) -> str | None:
    """The next message, None at the end of the input."""
    if person:
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401  (gives input() a history and line editing)
    try:
        return input("> " if person else "").strip()
    except (EOFError, KeyboardInterrupt) as end:
        if person:
            write("\n")  # what follows does not belong behind the prompt
        if isinstance(end, KeyboardInterrupt):
            raise
        return None


def _turn(talk: Conversation, line: str, as_json: bool) -> bool:
    """One message and its answer, False if there was none.

    Ctrl-C breaks the answer off, what came of it counts.
    """
    from . import session

    try:
        new = talk.say(line)
    except ValueError as error:
        note(str(error))
        return False
    clock = session.Clock(len(new))
    written: list[str] = []
    try:
        for piece in talk.reply(new):
            written.append(piece)
            clock.tick(talk.answer_tokens)
            if not as_json:
                write(piece)
    except KeyboardInterrupt:
        talk.finish_reason = "interrupted"
    answer = "".join(written)
    talk.end(answer)
    report = clock.report()
    if as_json:
        print_json(
            {"message": line, "text": answer, "finish_reason": talk.finish_reason, **report},
            indent=None,
        )
    else:
        write("\n")
        note(session.timing_line(report))
    return True
