"""Decoding by replay of captured graphs: one launch a token."""

from __future__ import annotations

from .decode import DecodeModel, GraphedDecode
from .readback import PendingTokens

__all__ = ["DecodeModel", "GraphedDecode", "PendingTokens"]
