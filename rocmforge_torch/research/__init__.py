"""Looking into models and changing their files: for experiments, not on the way to a text."""

from __future__ import annotations

from .explain import Explanation, Use, explain
from .record import Recording, record

__all__ = ["Explanation", "Recording", "Use", "explain", "record"]
