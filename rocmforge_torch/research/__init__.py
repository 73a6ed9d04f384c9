"""Looking into models and changing their files: for experiments, not on the way to a text."""

from __future__ import annotations

from .record import Recording, record

__all__ = ["Recording", "record"]
