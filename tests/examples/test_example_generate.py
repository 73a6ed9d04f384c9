"""examples/generate.py on the demo model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from rocmforge_torch import load_model


def test_it_writes_what_the_model_writes(
    run_example: Callable[..., str], demo_model_path: Path
) -> None:
    out = run_example("generate.py", demo_model_path)
    model = load_model(demo_model_path)
    assert "Attention(" in out
    options = {"max_tokens": 48, "temperature": 0.7, "seed": 1}
    assert model.generate("Once upon a time", **options) in out
    assert "'The capital of France is the capital of the country" in out
    assert "'2, 4, 6, 8," in out
    best = [float(share) for share in re.findall(r"^ *([\d.]+)%  '", out, re.MULTILINE)]
    assert len(best) == 5
    assert best == sorted(best, reverse=True)
