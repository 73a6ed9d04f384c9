"""Chat templates: the Jinja programs in GGUF files that write a conversation as a prompt.

Templates may count on what transformers offers them: ``raise_exception``, ``strftime_now``, the
filter ``tojson`` without HTML escapes, ``break`` and ``continue``, ``{% generation %}``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from contextvars import copy_context
from datetime import datetime
from typing import Any, NoReturn

import jinja2

from .errors import GGUFError, quote
from .template_sandbox import Budget, Sandbox, budget

KEY = "tokenizer.chat_template"
NAMED_KEY = re.compile(re.escape(KEY) + r"\.(\w+)")
DEFAULT = "default"
MAX_TEMPLATE_CHARS = 1 << 20
MAX_INDENT = 64


class _Refused(Exception):
    """A template's own ``raise_exception``."""


def read_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The sources of a file's templates by name; the unnamed one is ``"default"``.

    Raises:
        GGUFError: a template is no string, or too long.
    """
    templates = {}
    for key, source in metadata.items():
        named = NAMED_KEY.fullmatch(key)
        if key != KEY and not named:
            continue
        if not isinstance(source, str):
            raise GGUFError(f"must be a string, it is {source!r:.80}", subject=f"key {quote(key)}")
        if len(source) > MAX_TEMPLATE_CHARS:
            raise GGUFError(
                f"a template of {len(source)} characters, at most {MAX_TEMPLATE_CHARS} allowed",
                subject=f"key {quote(key)}",
            )
        templates[named[1] if named else DEFAULT] = source
    return templates


def apply_template(templates: Mapping[str, str], name: str, variables: Mapping[str, Any]) -> str:
    """Run one of the templates.

    Args:
        templates: sources by name.
        name: the one to run.
        variables: what it may read.

    Raises:
        GGUFError: the template is malformed, fails, leaves the sandbox or takes too much.
        ValueError: there is no such template, or it refuses what it is given.
    """
    if name not in templates:
        known = ", ".join(map(quote, templates)) or "none"
        raise ValueError(f"the model has no chat template {quote(name)}; it has: {known}")
    subject = f"key {quote(KEY if name == DEFAULT else f'{KEY}.{name}')}"
    try:
        # In a context of its own, so that renderings at the same time do not share a budget.
        return copy_context().run(_render, templates[name], variables)
    except _Refused as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {error.message}"
        raise GGUFError(f"is no valid Jinja template: {problem}", subject=subject) from None
    except (Exception, RecursionError) as error:  # whatever a hostile program can bring about
        problem = f"{type(error).__name__}: {error}"[:500]
        raise GGUFError(f"the template fails: {problem}", subject=subject) from error


def _render(source: str, variables: Mapping[str, Any]) -> str:
    budget.set(Budget())
    return _compile(source).render(variables)


@functools.lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    environment = Sandbox(filters={"tojson": _to_json})
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if (len(indent) if isinstance(indent, str) else indent or 0) > MAX_INDENT:
        raise ValueError(f"tojson indents by at most {MAX_INDENT}, not by {indent!r:.80}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
