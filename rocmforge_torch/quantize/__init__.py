"""Writing models in other types: mixes, importance, and what reads a GGUF file or a folder."""

from __future__ import annotations

from .importance import Importance
from .model_source import ModelSource, open_model
from .plan import Plan, Recipe, plan, recipe, target_types
from .write import uses_importance, write_quantized

__all__ = [
    "Importance",
    "ModelSource",
    "Plan",
    "Recipe",
    "open_model",
    "plan",
    "recipe",
    "target_types",
    "uses_importance",
    "write_quantized",
]
