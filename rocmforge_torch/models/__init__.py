"""Models: a table of architectures, one decoder, `load_model`."""

from __future__ import annotations

from .architectures import ARCHITECTURES
from .causal_lm import CausalLM, load_model
from .config import DecoderConfig

__all__ = ["ARCHITECTURES", "CausalLM", "DecoderConfig", "load_model"]
