"""Models larger than the GPU's memory: layers that are streamed to it while others compute."""

from __future__ import annotations

from .layers import stream_layers
from .plan import OffloadPlan, plan_offload
from .stream import WeightStream

__all__ = ["OffloadPlan", "WeightStream", "plan_offload", "stream_layers"]
