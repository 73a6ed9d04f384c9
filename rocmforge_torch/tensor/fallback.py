"""What happens to operations that have no quantized form, as `config.fallback` says."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..config import config

_INSIDE = tuple(
    os.path.dirname(os.path.dirname(os.path.abspath(file))) + os.sep
    for file in (__file__, torch._C.__file__)
)
_BELOW_INTERPRETER = ("<frozen ", "<string>", "<eval_with_key>")  # frames of no file


def without_quantized_form(
    tensor_type: type[Tensor],
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reason: str = "",
) -> Any:
    """Compute `func` on dequantized values with a warning, or raise.

    Raises:
        NotImplementedError: `func` writes to a tensor of `tensor_type`, or `config.fallback` is
            "error".
    """
    because = f" ({reason})" if reason else ""
    name = func if isinstance(func, torch._ops.OpOverload) else func.__name__
    if _writes_to(tensor_type, func, args, kwargs):
        raise NotImplementedError(
            f"{name} would write to a GGUFTensor in place, which only copy_ can: compute on "
            ".dequantize() and copy_ the result, which quantizes it"
        )
    if config.fallback == "error":
        raise NotImplementedError(
            f"{name} has no quantized form for a GGUFTensor{because}; call .dequantize() to get an "
            'ordinary tensor, or set rocmforge_torch.config.fallback = "dequantize"'
        )
    _warn(
        f"{name} has no quantized form for a GGUFTensor{because}: it is dequantized here, at every "
        'call; rocmforge_torch.config.fallback = "error" makes this an error'
    )
    args, kwargs = tree_map_only(tensor_type, lambda t: t.dequantize(), (args, kwargs))
    return func(*args, **kwargs)


def _writes_to(
    tensor_type: type[Tensor], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether an argument that an ATen overload writes to is, or holds, such a tensor."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = given.get(argument.name)
            values = value if isinstance(value, list) else [value]
            if any(isinstance(v, tensor_type) for v in values):
                return True
    return False


def _warn(message: str) -> None:
    """Warn at the innermost line that is neither PyTorch's nor ours; Python says it once a line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE + _BELOW_INTERPRETER):
        frame = frame.f_back
    if frame is None:
        warnings.warn(message, stacklevel=1)
        return
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
