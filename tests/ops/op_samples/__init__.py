"""Valid and refused inputs of every op: op name -> function that makes them.

`SAMPLES` and `BAD_SAMPLES` are what tests/ops/test_contract.py runs every op on; an op without an
entry in both fails there.
"""

from __future__ import annotations

from . import activation, attention, cache, norm, quant, rope, rope_cache, sampling
from .base import BadSample, Sample

_FAMILIES = (activation, attention, cache, norm, quant, rope, rope_cache, sampling)

SAMPLES = {op: make for family in _FAMILIES for op, make in family.SAMPLES.items()}
BAD_SAMPLES = {op: make for family in _FAMILIES for op, make in family.BAD_SAMPLES.items()}

__all__ = ["BAD_SAMPLES", "SAMPLES", "BadSample", "Sample"]
