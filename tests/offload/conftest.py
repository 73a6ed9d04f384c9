"""Tiny models, and the device whose copies are late."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("gguf", "models"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
