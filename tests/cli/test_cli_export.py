"""`rocmforge export`: an archive writes what its model does, without a module of the model."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from commands import Run

from rocmforge_torch import load_model

PROMPT = "The capital of France is"
RUN = """
import sys
for name in ("models", "nn", "generate", "fx", "graphs"):
    sys.modules[f"rocmforge_torch.{name}"] = None  # importing one of these fails
from rocmforge_torch.exported import ExportedDecoder

path, prompt, tokens = sys.argv[1:]
print(ExportedDecoder(path).generate(prompt, int(tokens)))
"""


def run_apart(archive: Path, prompt: str, tokens: int) -> str:
    command = [sys.executable, "-c", RUN, str(archive), prompt, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\n")


def test_the_same_text(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.pt2"
    report = run("export", tiny_model, "-o", out, "-c", "64", "--json").json
    assert report["ctx_size"] == 64
    assert report["output_bytes"] == out.stat().st_size
    assert not report["compiled"]
    text = run("generate", tiny_model, "-p", "abc", "-n", "20", "--temp", "0").out
    assert run_apart(out, "abc", 20) + "\n" == text


def test_a_full_context_ends_the_text(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.pt2"
    assert run("export", tiny_model, "-o", out, "-c", "32").code == 0
    text = load_model(tiny_model).generate("abc", temperature=0.0, ctx_size=32)
    as_read = io.StringIO(text, newline=None).read()  # a pipe of text has one kind of line end
    assert run_apart(out, "abc", 100) == as_read


def test_bad_targets(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.pt2"
    there.write_text("something")
    for target, complaint in (
        (tmp_path / "model.bin", "the name of an archive must end in .pt2"),
        (there, "exists already: --force replaces it"),
        (tmp_path / "nowhere" / "model.pt2", "is no directory to write model.pt2 into"),
    ):
        result = run("export", tiny_model, "-o", target)
        assert result.code == 1
        assert complaint in result.err
    assert there.read_text() == "something"
    assert run("export", tiny_model, "-o", there, "--force").code == 0


def test_demo_model(run: Run, demo_model_path: Path, tmp_path: Path) -> None:
    """Its weights stay as small as they are, and its text is that of `rocmforge generate`."""
    out = tmp_path / "demo.pt2"
    report = run("export", demo_model_path, "-o", out, "--json").json
    assert report["output_bytes"] < 1.02 * report["model_bytes"]
    flags = ("-p", PROMPT, "-n", "24", "--temp", "0")
    assert run_apart(out, PROMPT, 24) + "\n" == run("generate", "-m", demo_model_path, *flags).out
