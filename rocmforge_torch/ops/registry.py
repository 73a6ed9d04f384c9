"""Defines an op from one function: its schema, its shape function and its reference.

An op's shape function checks every argument and returns empty outputs. It serves as the fake (meta)
implementation and runs ahead of the reference, so that every path refuses the same input with the
same sentence. Kernels are registered from C++ for the devices that have them; everywhere else the
reference runs, and says so once. The overload `out` of an op is derived from it in out.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library

NAMESPACE = "rocmforge"
LIBRARY = Library(NAMESPACE, "DEF")
PARTIAL = Library(f"{NAMESPACE}_fallback", "DEF")  # what kernels call for what they do not know

ShapeFunction = Callable[..., Any]
OPS: dict[str, str] = {}  # name -> schema
SHAPES: dict[str, ShapeFunction] = {}  # name -> shape function
FALLBACKS: dict[str, Callable[..., Any]] = {}  # name -> what runs where there is no kernel


def check(condition: bool | torch.SymBool, op: str, message: str) -> None:
    """Raise RuntimeError("rocmforge::OP: MESSAGE") unless the condition holds."""
    if not condition:
        raise RuntimeError(f"{NAMESPACE}::{op}: {message}")


def define(
    schema: str,
    reference: Callable[..., Any],
    value_check: Callable[..., None] | None = None,
    reference_on: str | None = None,
    partial: bool = False,
) -> Callable[[ShapeFunction], ShapeFunction]:
    """Decorator of a shape function: registers `rocmforge::SCHEMA` with it and its reference.

    `value_check` looks at what a shape function cannot: the values of the arguments, on the CPU.
    `reference_on` is a dispatch key whose kernel the reference is, for ops that only move bytes.
    `partial` says that a kernel may know some types only; it hands other calls to the op of the
    same name in the namespace `rocmforge_fallback`.
    """
    name = schema.partition("(")[0]

    def register(shape_function: ShapeFunction) -> ShapeFunction:
        OPS[name] = schema
        SHAPES[name] = shape_function
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"{NAMESPACE}::{name}", shape_function, lib=LIBRARY)
        FALLBACKS[name] = _fallback(name, shape_function, reference, value_check)
        LIBRARY.impl(name, FALLBACKS[name], "CompositeExplicitAutograd")
        if reference_on is not None:
            LIBRARY.impl(name, _checked(shape_function, reference), reference_on)
        if partial:
            rest = _fallback(name, shape_function, reference, value_check, "for these arguments")
            PARTIAL.define(schema)
            PARTIAL.impl(name, rest, "CompositeExplicitAutograd")
        return shape_function

    return register


def _checked(shape_function: ShapeFunction, reference: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        shape_function(*args, **kwargs)
        return reference(*args, **kwargs)

    return run


def _fallback(
    name: str,
    shape_function: ShapeFunction,
    reference: Callable[..., Any],
    value_check: Callable[..., None] | None,
    missing: str = "here",
) -> Callable[..., Any]:
    warned: set[str] = set()

    def run(*args: Any, **kwargs: Any) -> Any:
        shape_function(*args, **kwargs)
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        if value_check is not None and device.type == "cpu":
            value_check(*args, **kwargs)
        if device.type not in warned:
            warned.add(device.type)
            warnings.warn(
                f"{NAMESPACE}::{name} has no {device.type} kernel {missing}; its reference runs "
                "(slow). `rocmforge doctor` shows which ops have kernels and what to build.",
                RuntimeWarning,
                stacklevel=2,
            )
        return reference(*args, **kwargs)

    return run
