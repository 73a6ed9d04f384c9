"""A tensor over memory that somebody else owns, told when the last view of it is gone.

DLPack carries a deleter: PyTorch calls it when the storage dies, whichever tensor, view or thread
held it last.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import torch

_CPU, _CUDA, _ROCM = 1, 2, 10  # DLDeviceType
_UINT8 = 1  # DLDataTypeCode of unsigned integers


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [
    ("tensor", _Tensor),
    ("context", ctypes.c_void_p),
    ("deleter", _DELETER),
]

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

# What lives until its deleter runs, by the number in `context`.
_living: dict[int, tuple[_Managed, Any, Callable[[], None]]] = {}
_numbers = itertools.count(1)  # next() is atomic: tensors are made and die on any thread


@_DELETER
def _delete(managed: Any) -> None:
    _, _, on_free = _living.pop(managed.contents.context)
    on_free()


def bytes_at(
    address: int, nbytes: int, device: torch.device, on_free: Callable[[], None]
) -> torch.Tensor:
    """uint8 [nbytes] at `address`; `on_free()` runs once when the last tensor over it is gone."""
    number = next(_numbers)
    shape = (ctypes.c_int64 * 1)(nbytes)
    kind = _CPU if device.type == "cpu" else _ROCM if torch.version.hip else _CUDA
    managed = _Managed(
        _Tensor(address, _Device(kind, device.index or 0), 1, _DataType(_UINT8, 8, 1), shape),
        number,
        _delete,
    )
    _living[number] = managed, shape, on_free
    capsule = _new_capsule(ctypes.addressof(managed), b"dltensor", None)
    return torch.utils.dlpack.from_dlpack(capsule)
