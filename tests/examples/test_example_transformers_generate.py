"""The transformers example, on the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import transformers_generate
from rocmforge_torch import load_model


def test_it_writes_what_our_engine_writes(
    demo_model_path: Path, capsys: pytest.CaptureFixture[str], exact: None
) -> None:
    """Exactly: activations rounded to 8 bits would make more of sums in another order."""
    texts = transformers_generate.main(str(demo_model_path))
    prompt = transformers_generate.PROMPT
    want = prompt + load_model(demo_model_path).generate(prompt, max_tokens=24, temperature=0)
    assert texts == {"generate": want, "pipeline": want}
    printed = capsys.readouterr().out
    assert "GGUFTensor(Q5_0, shape=[1024, 640]" in printed
    assert "loss 3.98" in printed
