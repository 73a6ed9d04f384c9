"""examples/run_exported.py on the demo model, exported before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rocmforge_torch import load_model
from rocmforge_torch.models.export import export_model


def test_it_writes_what_the_model_writes(
    run_example: Callable[..., str], demo_model_path: Path, tmp_path: Path
) -> None:
    model = load_model(demo_model_path)
    export_model(model, tmp_path / "demo.pt2", ctx_size=128)
    out = run_example("run_exported.py", tmp_path / "demo.pt2")
    assert "architecture='gemma3'" in out
    prompt = "The capital of France is"
    assert prompt + model.generate(prompt, temperature=0.0, max_tokens=24) + "\n" in out
    assert " the'" in out.splitlines()[-5]
