"""Whatever is wrong, a command says so in one sentence on stderr, and its exit code tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Run, start

COMMANDS = ("generate", "chat", "perplexity", "inspect", "bench")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some text")
    return path


def one_sentence(err: str) -> str:
    assert err.startswith("rocmforge: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_path(run: Run, command: str, text: Path) -> None:
    result = run(command, "-m", "/no/such/model.gguf", *_needed(command, text))
    assert result.code == 1
    assert one_sentence(result.err) == (
        "rocmforge: /no/such/model.gguf: No such file or directory\n"
    )
    assert result.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_file(run: Run, command: str, text: Path) -> None:
    result = run(command, "-m", text, *_needed(command, text))
    assert result.code == 1
    assert "a GGUF file begins with b'GGUF'" in one_sentence(result.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_directory(run: Run, command: str, text: Path) -> None:
    result = run(command, "-m", text.parent, *_needed(command, text))
    assert result.code == 1
    assert str(text.parent) in one_sentence(result.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_model(run: Run, command: str, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROCMFORGE_MODEL", raising=False)
    result = run(command, *_needed(command, text))
    assert result.code == 2
    assert "no model: give a GGUF file" in one_sentence(result.err)


def test_model_from_the_environment(
    run: Run, small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCMFORGE_MODEL", str(small_file))
    assert run("inspect", "--json").json["files"] == [str(small_file)]


@pytest.mark.parametrize("command", ["generate", "chat", "perplexity", "bench"])
def test_unsupported_architecture(
    run: Run, command: str, small_file: Path, text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(small_file.read_bytes().replace(b"llama", b"xlama", 1))
    result = run(command, "-m", other, *_needed(command, text))
    assert result.code == 1
    assert "architecture 'xlama'" in one_sentence(result.err)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("frobnicate",), "frobnicate"),
        (("generate", "--frob"), "--frob"),
        (("generate", "m", "--temp", "-1"), "--temp"),
        (("generate", "m", "--temp", "warm"), "--temp"),
        (("generate", "m", "--top-p", "1.5"), "--top-p"),
        (("generate", "m", "--min-p", "-0.5"), "--min-p"),
        (("generate", "m", "-n", "-2"), "--predict"),
        (("generate", "m", "-c", "-1"), "--ctx-size"),
        (("generate", "m", "-t", "0"), "--threads"),
        (("generate", "m", "-s", "-2"), "--seed"),
        (("generate", "m", "-ctk", "q3"), "-ctk"),
        (("generate", "m", "--dtype", "int8"), "--dtype"),
        (("perplexity", "m", "-f", "f", "--chunks", "0"), "--chunks"),
        (("bench", "m", "-r", "0"), "--repetitions"),
        (("quantize", "a"), "OUTPUT"),
    ],
)
def test_usage(run: Run, args: tuple[str, ...], complaint: str) -> None:
    result = run(*args)
    assert result.code == 2
    assert complaint in one_sentence(result.err)
    assert result.out == ""


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), *((c, "--help") for c in COMMANDS)])
def test_help(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.code == 0
    assert "Usage: rocmforge" in result.out


def test_debug_shows_the_traceback() -> None:
    process = start("inspect", "/no/such/model.gguf", "--debug")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "Traceback (most recent call last)" in err
    assert err.endswith("rocmforge: /no/such/model.gguf: No such file or directory\n")


def test_broken_pipe_is_quiet(small_file: Path) -> None:
    process = start("inspect", small_file, "--full")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


def _needed(command: str, text: Path) -> tuple[str, ...]:
    """The flags that a command cannot do without."""
    return {"generate": ("-p", "x"), "perplexity": ("-f", str(text))}.get(command, ())
