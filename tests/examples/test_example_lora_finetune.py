"""The fine-tuning example, on the demo model: a few steps teach it the task."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig
from safetensors.torch import load_file

from examples import lora_finetune


@pytest.mark.slow
def test_the_loss_falls_and_the_task_is_learned(
    demo_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lora_finetune.main(demo_model_path, steps=5, held_out=3, save=tmp_path)
    assert found["first"] > 3
    assert found["last"] < found["first"] / 4
    # Orders that it has not seen, and also with the adapter merged into weights of 5 to 8 bits.
    assert found["after"] < found["before"] / 4
    assert found["merged"] < found["before"] / 4
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    assert LoraConfig.from_pretrained(tmp_path).r == 8
    printed = capsys.readouterr().out
    assert "peak memory" in printed
    assert "merged; 'Turn off" in printed
