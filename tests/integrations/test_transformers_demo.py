"""transformers on the demo model: log-probabilities, memory, tokenizer; and what an import does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rocmforge_torch import load_gguf, load_model
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.integrations.transformers import from_gguf, tokenizer_from_gguf

CORPUS = Path(__file__).parents[1] / "data" / "tokenizer_corpus.txt"


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.usefixtures("exact")
def test_log_probabilities_are_those_of_our_decoder(demo_model_path: Path) -> None:
    ids = torch.randint(1000, 200000, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = load_model(demo_model_path)(ids)
        got = from_gguf(demo_model_path)(ids, use_cache=False).logits
    # The tolerance of the tiny models, whose logits have a deviation of about 1.
    difference = (got.log_softmax(-1) - want.log_softmax(-1)).abs().max()
    assert difference <= 1e-4 * want.std()


MEMORY = """
import sys, re, torch
from transformers.models.gemma3 import modeling_gemma3
from rocmforge_torch.integrations.transformers import from_gguf
def kilobytes(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = kilobytes("VmRSS")
model = from_gguf(sys.argv[1])
with torch.inference_mode():
    model(torch.arange(16)[None] + 1000, logits_to_keep=1)
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_peak_memory_is_the_file(demo_model_path: Path) -> None:
    """Loading and a first pass over every weight, in a process of its own."""
    peak = int(run(MEMORY, str(demo_model_path))) * 1024
    assert peak <= 1.2 * demo_model_path.stat().st_size


def test_tokenizer_is_llama_cpp_s(demo_model_path: Path) -> None:
    theirs = tokenizer_from_gguf(demo_model_path)
    ours = Tokenizer.from_metadata(load_gguf(demo_model_path).metadata)
    lines = [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if "▁" not in line]
    lines += ["<start_of_turn>user\nHi there<end_of_turn>\n", "  two spaces", ""]
    assert len(lines) > 20
    for line in lines:
        ids = ours.encode(line, parse_special=True)
        assert theirs(line)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (2, 1, 0)


IMPORT = """
import sys
import rocmforge_torch
assert not [name for name in ("transformers", "accelerate", "peft") if name in sys.modules]
from transformers.integrations.gguf import kernels, utils
from transformers.quantizers import auto
before = {**vars(kernels)}, {**vars(utils)}, {**auto.AUTO_QUANTIZER_MAPPING}
import rocmforge_torch.integrations.transformers
assert (vars(kernels), vars(utils)) == before[:2]
added = set(auto.AUTO_QUANTIZER_MAPPING) - set(before[2])
assert added == {"rocmforge"} and before[2].items() <= auto.AUTO_QUANTIZER_MAPPING.items()
print("unchanged")
"""


def test_an_import_changes_nothing() -> None:
    """Ours brings nobody else's library; that of the integration adds a method's name to a list."""
    assert run(IMPORT) == "unchanged\n"
