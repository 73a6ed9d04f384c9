"""The `rocmforge` command: one file per subcommand, put together here."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from . import options
from .bench import bench
from .chat import chat
from .compare import compare
from .doctor import doctor
from .errors import FAILED, INTERRUPTED, USAGE, Interrupted, UsageError, sentence
from .export import export
from .generate import generate
from .imatrix import imatrix
from .inspect import inspect
from .perplexity import perplexity
from .quantize import quantize
from .tune import tune

app = typer.Typer(
    name="rocmforge",
    help="Run, measure and convert GGUF models in PyTorch; their weights stay quantized.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    generate,
    chat,
    perplexity,
    inspect,
    bench,
    quantize,
    compare,
    imatrix,
    export,
    doctor,
    tune,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the process's command line and exit with its code."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would be tried again, and complained about, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run a command line; returns the exit code, having said what went wrong on stderr."""
    options.debug_enabled = False
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(args)


def _run(args: Sequence[str]) -> int:
    try:
        code = app(list(args) or ["--help"], prog_name="rocmforge", standalone_mode=False)
    except UsageError as error:
        return _fail(error.format_message(), USAGE)
    except typer.Exit as finished:
        code = finished.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Interrupted as error:
        return _fail(sentence(error), INTERRUPTED)
    except Exception as error:
        if options.debug_enabled:
            traceback.print_exc()
        return _fail(sentence(error), FAILED)
    if code == INTERRUPTED:  # how typer says that Ctrl-C was pressed
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"rocmforge: warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"rocmforge: {message}", file=sys.stderr)
    return code
