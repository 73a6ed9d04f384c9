"""The limits in force: what the compiled library holds for each GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from .. import extension
from ..quant_types import QUANT_TYPES_BY_NAME
from .limits import DEFAULT, Limits
from .tables import TuningError, files, limits_for

_problems: dict[int, str] = {}


def load() -> None:
    """Have the tables read when the process first uses a GPU: importing must not be that."""
    if extension.has_gpu_library():
        torch.cuda._lazy_call(_read_tables)


def limits_of(device: torch.device, qtype: int) -> Limits:
    """The limits in force for a type on a GPU; on other devices, whose kernels have none, and
    without its library the defaults."""
    if not _has_table(device):
        return DEFAULT
    return extension.product_limits(_index(device), qtype)


def most_fused_rows(device: torch.device, qtype: int) -> int:
    """The most rows of a product that our own kernels take, which norm and gate on the way.

    Nothing but time depends on it: an op with more rows norms and gates by kernels beside the GEMM.
    """
    if not _has_table(device):
        return DEFAULT.tile
    return extension.most_fused_rows(_index(device), qtype)


@contextmanager
def forced(device: torch.device, limits: Mapping[int, Limits]) -> Iterator[None]:
    """Puts other limits of some types, by number, into force; for all threads.

    Raises:
        RuntimeError: the GPU library is not there, or its kernels cannot do that.
    """
    index = _index(device)
    before = {qtype: limits_of(device, qtype) for qtype in limits}
    try:
        for qtype, wanted in limits.items():
            extension.set_product_limits(index, qtype, wanted)
        yield
    finally:
        for qtype, old in before.items():
            extension.set_product_limits(index, qtype, old)


def tables_of(index: int) -> list[Path]:
    """The files that speak of a GPU's architecture."""
    return files(extension.architecture(index))


def problem(index: int) -> str | None:
    """One sentence if a file for a GPU is no table, so that its limits are the defaults."""
    return _problems.get(index)


def _has_table(device: torch.device) -> bool:
    return device.type == "cuda" and extension.has_gpu_library()


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _read_tables() -> None:
    for index in range(torch.cuda.device_count()):
        try:
            found = limits_for(extension.architecture(index))
        except (TuningError, OSError) as error:
            _problems[index] = f"{error}; correct the file or delete it"
            warnings.warn(_problems[index], RuntimeWarning, stacklevel=2)
            continue
        for name, limits in found.items():
            extension.set_product_limits(index, QUANT_TYPES_BY_NAME[name].id, limits)
