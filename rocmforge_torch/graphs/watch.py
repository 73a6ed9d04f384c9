"""Notices that a model no longer is the one that was captured."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from .. import extension
from ..config import config
from ..tensor import GGUFTensor

Table = dict[str, Any]
Same = Callable[[], bool]
Comparison = Callable[[list[Table], list[Table], list[Tensor]], Same]


class ModelWatch:
    """A picture of a model: modules, tensors and where they lie, and what its ops depend on.

    Noticed are modules, parameters and buffers that come, go or are replaced in any way, `.data`
    that is assigned, storage that is set or resized, and `config.exact`. Numbers that change in
    place need no notice, since a replay reads them where they are. Not noticed are attributes that
    are neither module nor tensor, and tensors that no module has as parameter or buffer.

    The tensors are kept, so that a replay never reads memory that belongs to somebody else; while
    they are, `torch.utils.swap_tensors` refuses to exchange one for another.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        tables: list[Table] = []
        tensors: list[Tensor] = []
        for module in modules:
            for table in (module._parameters, module._buffers):
                tensors += [tensor for tensor in table.values() if tensor is not None]
            tables += [module._parameters, module._buffers, module._modules]
        self._blocks = [(t, t.qweight) for t in tensors if isinstance(t, GGUFTensor)]
        tensors = [t.qweight if isinstance(t, GGUFTensor) else t for t in tensors]
        # Other tensors over the same memory: `parameter.data = ...` takes it from the parameter.
        self._memory = [tensor.detach() for tensor in tensors]
        self._fixed = [weakref.ref(tensor) for tensor in tensors]  # swap_tensors minds them
        self._exact = config.exact
        tables = [table for table in tables if table]
        were = [dict(table) for table in tables]
        self._kept = tables, were, tensors  # so that no address becomes another object's
        self._same = (compiled_comparison or python_comparison)(tables, were, tensors)

    def unchanged(self) -> bool:
        """Whether the model is still the same; some 10 ns a tensor and module, for steps ask it."""
        return (
            self._same()
            and config.exact == self._exact
            and (not self._blocks or all(tensor.qweight is was for tensor, was in self._blocks))
        )


def python_comparison(tables: list[Table], were: list[Table], tensors: list[Tensor]) -> Same:
    """What says whether tables hold the very objects that they held, and tensors lie as now."""
    addresses = [*map(Tensor.data_ptr, tensors)]

    def same() -> bool:
        try:
            # Equal means identical: objects are compared by identity first, and tensors that are
            # not identical have no truth value (or, of one element, are equal in it).
            return tables == were and [*map(Tensor.data_ptr, tensors)] == addresses
        except RuntimeError:
            return False

    return same


class _Picture(ctypes.Structure):
    """As in csrc/ops/watch_cpu.cpp."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("table_count", ctypes.c_int64),
        ("tables", ctypes.POINTER(ctypes.c_void_p)),
        ("entries", ctypes.POINTER(ctypes.c_void_p)),
        ("tensor_count", ctypes.c_int64),
        ("tensors", ctypes.POINTER(ctypes.c_void_p)),
        ("addresses", ctypes.POINTER(ctypes.c_void_p)),
    )


def _compiled() -> Comparison | None:
    library = extension.interpreter_library()
    if library is None:
        return None
    unchanged = library.rocmforge_unchanged
    unchanged.restype = ctypes.c_bool
    next_entry = ctypes.cast(ctypes.pythonapi.PyDict_Next, ctypes.c_void_p)

    def comparison(tables: list[Table], were: list[Table], tensors: list[Tensor]) -> Same:
        entries: list[int | None] = []
        for table in were:
            for key, value in table.items():
                entries += [id(key), id(value)]
            entries.append(None)
        picture = _Picture(
            next_entry,
            len(tables),
            _pointers(map(id, tables)),
            _pointers(entries),
            len(tensors),
            _pointers(tensor._cdata for tensor in tensors),
            _pointers(map(Tensor.data_ptr, tensors)),
        )
        return functools.partial(unchanged, ctypes.byref(picture))

    return comparison


def _pointers(values: Iterable[int | None]) -> Any:
    array = [*values]
    return (ctypes.c_void_p * len(array))(*array)


compiled_comparison = _compiled()
