"""Metadata keys of one architecture, read by name and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..gguf import GGUFError
from ..gguf.errors import quote

MOST = 2**31 - 1


class Keys:
    """The keys `ARCHITECTURE.name`; every error names the key, what it holds and what it needs."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, source: str) -> None:
        self.metadata = metadata
        self.architecture = architecture
        self.source = source

    def error(self, name: str, problem: str) -> GGUFError:
        subject = f"key {quote(f'{self.architecture}.{name}')}"
        return GGUFError(problem, source=self.source, subject=subject)

    def value(self, name: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{name}")

    def integer(
        self, name: str, default: int | None = None, least: int = 1, most: int = MOST
    ) -> int:
        """A whole number; an array (one value a layer) must hold one value throughout."""
        value = self.value(name)
        if value is None:
            if default is None:
                raise self.error(name, "is missing, the model needs it")
            value = default
        if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
            value = value.flat[0].item()
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(
                name, f"must be a whole number from {least} to {most}, it is {value!r}"
            )
        return value

    def number(self, name: str, default: float | None = None, positive: bool = False) -> float:
        """A finite number, positive if asked for."""
        value = self.value(name)
        if value is None:
            if default is None:
                raise self.error(name, "is missing, the model needs it")
            return default
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or (positive and value <= 0):
            kind = "positive" if positive else "finite"
            raise self.error(name, f"must be a {kind} number, it is {value!r}")
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, it is {value!r}")
        return value
