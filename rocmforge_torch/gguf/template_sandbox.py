"""A Jinja environment for programs that nobody trusts: no way out, and bounded work.

Jinja's sandbox keeps a template away from Python's objects, but lets it loop and multiply without
end. Here every loop round and macro call is counted, as is every character written, and no
operation may make a text or list that is larger than the whole result may be.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.filters import do_format
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

MAX_CHARS = 1 << 24  # written, or in one text or list
MAX_STEPS = 300_000  # loop rounds and macro calls
MAX_SECONDS = 5.0
MAX_BITS = 1 << 12  # of an integer
WIDE_FORMAT = re.compile(r"\d{6}|%[^%A-Za-z]*\*")  # of "%1000000d", "{:1000000}", "%*d"


class Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._steps, self._chars = MAX_STEPS, MAX_CHARS
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self, chars: int) -> None:
        """Take one step that writes up to so many characters of the template itself."""
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:g} seconds")
        self.write(chars)

    def write(self, chars: int) -> None:
        self._chars -= chars
        if self._chars < 0:
            raise SecurityError(f"it writes more than {MAX_CHARS} characters")


budget: ContextVar[Budget] = ContextVar("budget")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; render inside a context where ``budget`` is set."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        """``filters`` replace Jinja's own."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_count_output,
            extensions=[Generation, jinja2.ext.loopcontrols],
        )
        self.globals = {
            name: self.globals[name] for name in ("range", "dict", "cycler", "joiner", "namespace")
        }
        self.filters = {
            name: _bounded(function)
            for name, function in {**self.filters, "format": _format, **filters}.items()
        }
        self.filters["_step"] = _step
        self.filters["_sized"] = _sized

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Instrument().visit(tree)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "*":
            _check_sizes(left, right)
        result = super().call_binop(context, operator, left, right)
        return _sized(result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | list | tuple):
            _check_sizes(owner, *args, *kwargs.values())
        if method is not __obj and isinstance(owner, str):
            _check_format(owner)
        return super().call(__context, __obj, *args, **kwargs)


class Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrument(NodeTransformer):
    """Adds the counting to a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        if node.test is not None:  # counts the rounds that the test leaves out, too
            node.test = nodes.And(_step_call(node, 0), node.test, lineno=node.lineno)
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node, "_sized", [], [], None, None, lineno=node.lineno)

    def _counted(self, node: nodes.For | nodes.Macro) -> nodes.Node:
        chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_step_call(node, chars), lineno=node.lineno))
        return node


def _step_call(node: nodes.Node, chars: int) -> nodes.Filter:
    value = nodes.Const(chars, lineno=node.lineno)
    return nodes.Filter(value, "_step", [], [], None, None, lineno=node.lineno)


# These two need the context only to keep Jinja from evaluating them while it compiles.
@jinja2.pass_context
def _step(context: Context, chars: int) -> bool:
    budget.get().step(chars)
    return True


@jinja2.pass_context
def _count_output(context: Context, value: Any) -> Any:
    text = value if isinstance(value, str) else str(value)
    budget.get().write(len(text))
    return text


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _check_format(value)
    return do_format(value, *args, **kwargs)


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses arguments which together may make too large a result."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_sizes(*args, *kwargs.values())
        return _sized(function(*args, **kwargs))

    return bounded


def _check_sizes(*values: Any) -> None:
    """Texts can be repeated as often as a number says, or for each character of another."""
    largest = sorted((_size(value) for value in values), reverse=True)[:2]
    if len(largest) == 2 and largest[0] * largest[1] > MAX_CHARS << 2:
        raise SecurityError(f"it makes a text of more than {MAX_CHARS} characters")


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(len(item) if isinstance(item, str) else 1 for item in value)
    if isinstance(value, int):
        return abs(value)
    return MAX_RANGE if isinstance(value, Iterator) else 0


def _check_format(text: str) -> None:
    if WIDE_FORMAT.search(str(text)):
        raise SecurityError("it formats with a huge width")


def _check_power(base: Any, exponent: Any) -> None:
    numbers = isinstance(base, int) and isinstance(exponent, int)
    if numbers and exponent * max(base.bit_length(), 1) > MAX_BITS:
        raise SecurityError("it computes a huge number")


def _sized(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple) and _size(value) > MAX_CHARS:
        raise SecurityError(f"it makes a text of more than {MAX_CHARS} characters")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise SecurityError("it computes a huge number")
    return value
