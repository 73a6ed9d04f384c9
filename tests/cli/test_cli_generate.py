"""`rocmforge generate`: text, timings, seeds, limits, and every way to stop it."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run, start

from rocmforge_torch import load_model

PROMPT = "The capital of France is"
ANSWER = " the capital of the country of France. It is the largest city in France"
TIMING = re.compile(
    r"prompt \d+ tokens at [\d.]+/s, generated \d+ tokens( at [\d.]+/s)?, "
    r"first token after [\d.]+ s\n"
)


def test_streams_text_then_timing(run: Run, tiny_model: Path) -> None:
    result = run("generate", tiny_model, "-p", "abc", "-n", "12", "--temp", "0")
    model = load_model(tiny_model)
    assert result.code == 0
    assert result.out == model.generate("abc", temperature=0.0, max_tokens=12) + "\n"
    assert TIMING.fullmatch(result.err)


def test_json(run: Run, tiny_model: Path) -> None:
    flags = ("-n", "12", "--temp", "0", "--ignore-eos", "--json")
    report = run("generate", "-m", tiny_model, "-p", "abc", *flags).json
    assert report["model"] == str(tiny_model)
    assert report["prompt"] == "abc"
    assert report["prompt_tokens"] == 4  # BOS and three bytes
    assert report["generated_tokens"] == 12
    assert report["finish_reason"] == "length"
    assert report["generated_tokens_per_second"] > 0
    assert 0 < report["first_token_seconds"] <= report["seconds"]


def test_seed_decides(run: Run, tiny_model: Path) -> None:
    def text(*flags: str) -> str:
        args = ("-p", "abc", "-n", "30", "--temp", "2", "--top-k", "0", "--ignore-eos", "--json")
        report = run("generate", tiny_model, *args, *flags).json
        seeds.append(report["seed"])
        return str(report["text"])

    seeds: list[int] = []
    assert text("-s", "7") == text("-s", "7")
    assert text("-s", "7") != text("-s", "8")
    assert text() != text()
    assert seeds[:4] == [7, 7, 7, 8]
    assert seeds[4] != seeds[5]
    assert text("-s", str(seeds[4])) == text("-s", str(seeds[4]))


def test_prompt_from_file_and_stdin(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("two\nlines\n")
    flags = ("-n", "1", "--json")
    assert run("generate", tiny_model, "-f", file, *flags).json["prompt"] == "two\nlines"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    assert run("generate", tiny_model, *flags).json["prompt"] == "from a pipe"
    both = run("generate", tiny_model, "-p", "x", "-f", file)
    assert both.code == 2
    assert "-p and -f both name a prompt" in both.err
    file.write_bytes(b"ab\xff")
    assert run("generate", tiny_model, "-f", file).err == (
        f"rocmforge: {file}: not UTF-8 text (byte 2)\n"
    )


def test_flags_from_the_environment(
    run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCMFORGE_MODEL", str(tiny_model))
    monkeypatch.setenv("ROCMFORGE_N_PREDICT", "3")
    monkeypatch.setenv("ROCMFORGE_SEED", "11")
    monkeypatch.setenv("ROCMFORGE_DTYPE", "bf16")
    report = run("generate", "-p", "abc", "--ignore-eos", "--json").json
    assert (report["generated_tokens"], report["seed"]) == (3, 11)
    # The command line is stronger.
    report = run("generate", "-p", "abc", "--ignore-eos", "-n", "2", "--json").json
    assert report["generated_tokens"] == 2
    monkeypatch.setenv("ROCMFORGE_DTYPE", "int3")
    assert run("generate", "-p", "abc").code == 2


def test_context_bounds_the_text(run: Run, tiny_model: Path) -> None:
    flags = ("-p", "abc", "-c", "10", "--ignore-eos", "--json")
    report = run("generate", tiny_model, *flags).json
    assert report["finish_reason"] == "length"
    assert report["prompt_tokens"] + report["generated_tokens"] in (10, 11)


def test_too_long_prompt(run: Run, tiny_model: Path) -> None:
    for flags, limit in ((("-c", "10"), 10), ((), 256)):
        result = run("generate", tiny_model, "-p", "x" * 300, *flags)
        assert result.code == 1
        assert result.out == ""
        assert result.err.startswith(
            f"rocmforge: the prompt has 301 tokens, but the context holds {limit}"
        )
        assert result.err.count("\n") == 1


def test_cache_types(run: Run, tiny_model: Path) -> None:
    flags = ("-p", "abc", "-n", "3", "--temp", "0", "--json")
    for keys, values in (("f16", "bf16"), ("f32", "f16"), ("fp8", "fp8_e5m2")):
        report = run("generate", tiny_model, *flags, "-ctk", keys, "-ctv", values).json
        assert report["generated_tokens"] > 0
    result = run("generate", tiny_model, *flags, "--cache-type-k", "q5_0")
    assert result.code == 2
    assert "'q5_0' is not one of" in result.err


@pytest.mark.parametrize(
    ("device", "code", "complaint"),
    [
        ("gpu", 2, "--device must be cpu, cuda or cuda:N, got 'gpu'"),
        ("cuda:x", 2, "--device must be cpu, cuda or cuda:N, got 'cuda:x'"),
        ("cuda:99", 1, "`rocmforge doctor` says more"),
    ],
)
def test_wrong_device(run: Run, tiny_model: Path, device: str, code: int, complaint: str) -> None:
    result = run("generate", tiny_model, "-p", "x", "--device", device)
    assert result.code == code
    assert complaint in result.err


def test_ctrl_c_is_one_line_and_130(tiny_model: Path) -> None:
    process = start("generate", tiny_model, "-p", "abc", "--ignore-eos", "-c", "100000")
    assert process.stdout is not None
    process.stdout.read(1)  # the text has begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"rocmforge: interrupted, prompt 4 tokens.*\n", err)


def test_broken_pipe_is_quiet(tiny_model: Path) -> None:
    process = start("generate", tiny_model, "-p", "abc", "--ignore-eos", "-c", "100000")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


def test_demo_model_says_what_llama_cpp_says(run: Run, demo_model_path: Path) -> None:
    flags = ("-p", PROMPT, "-n", "15", "--temp", "0", "--exact")
    assert run("generate", "-m", demo_model_path, *flags).out == ANSWER + "\n"


@pytest.mark.parametrize("command", ["inspect", "generate"])
def test_starts_without_what_it_does_not_need(tiny_model: Path, command: str) -> None:
    """Start-up time is imports, and these are slow ones."""
    absent = {"transformers", "torch._dynamo", "gguf", "rich.progress"}
    flags = ["-p", "abc", "-n", "1"] if command == "generate" else []
    code = (
        "import sys; from rocmforge_torch import cli;"
        f"code = cli.run([{command!r}, {str(tiny_model)!r}, *{flags!r}]);"
        f"print(code, sorted({absent!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
