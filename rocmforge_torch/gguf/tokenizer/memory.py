"""Building a large tokenizer without waste: what Python and the C library would do on the way."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bulk_building() -> Iterator[None]:
    """Around the making of millions of small objects, most of which go again.

    They form no cycles, so the cyclic collector, which would walk over them again and again,
    pauses. At the end freed memory is handed back to the system where the C library can (glibc):
    tens of megabytes lie between the small blocks that stay.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        _trim()


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
