"""Settings of the package, one object: `rocmforge_torch.config`.

    exact     False: quantized products use integer dot products against activations rounded to
              8 bits per block of 32 (fast). True: every product is computed in float.
    fallback  what an operation without a quantized form does with a `GGUFTensor`:
              "error" (the default: nobody gets a full-size copy unasked) raises and names the
              operation, "dequantize" computes on the dequantized values with one warning per
              call site.

`ROCMFORGE_EXACT=1` sets the start value of `exact`.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from . import extension

Fallback = Literal["error", "dequantize"]


class Config:
    """Process-wide settings; assignments are checked and take effect at once."""

    def __init__(self) -> None:
        self._exact = False
        self._fallback: Fallback = "error"
        self.exact = os.environ.get("ROCMFORGE_EXACT", "0") not in ("", "0")

    @property
    def exact(self) -> bool:
        return self._exact

    @exact.setter
    def exact(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"config.exact must be True or False, got {value!r}")
        self._exact = value
        extension.set_exact(value)

    @property
    def fallback(self) -> Fallback:
        return self._fallback

    @fallback.setter
    def fallback(self, value: Fallback) -> None:
        if value not in get_args(Fallback):
            raise ValueError(f"config.fallback must be one of {get_args(Fallback)}, got {value!r}")
        self._fallback = value

    def __repr__(self) -> str:
        return f"Config(exact={self.exact}, fallback={self.fallback!r})"


config = Config()
