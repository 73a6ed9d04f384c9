"""`rocmforge chat`: talk with a model, one line a turn."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import FAILED
from .flags import ModelFlags, RunFlags, SamplingFlags, with_flags
from .options import Debug, Json
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


@with_flags
def chat(
    source: ModelFlags,
    sampling: SamplingFlags,
    running: RunFlags,
    system: System = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Talk with a model: a line is a message, and answers stream back.

    Messages come from the terminal or from stdin. With --json every answer is one line of JSON.
    """
    from .conversation import Conversation

    path = source.path()
    cache_dtype = running.cache_dtype
    params = sampling.params()
    lm = running.load(path)
    ctx_size = running.ctx_size or lm.config.context_length
    talk = Conversation(lm, params, ctx_size, cache_dtype, system)
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
        with contextlib.closing(talk.reply(new)) as pieces:
            for piece in pieces:
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
