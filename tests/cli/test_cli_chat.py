"""`rocmforge chat`: history in the cache, commands, and the same answers as a fresh model."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Result, Run, start

from rocmforge_torch import load_model
from rocmforge_torch.cli.conversation import Conversation
from rocmforge_torch.generate import SamplingParams
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.nn import KVCache

GREEDY = ("--temp", "0", "-n", "8")


@pytest.fixture
def chat(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    def talk(model: Path, lines: list[str], *flags: str) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", "-m", model, *GREEDY, *flags)

    return talk


def turns(result: Result, code: int = 0) -> list[dict[str, Any]]:
    assert result.code == code
    return [json.loads(line) for line in result.out.splitlines()]


def test_answers_are_those_of_the_model(chat: Any, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    messages: list[dict[str, str]] = [{"role": "system", "content": "be"}]
    for turn in turns(chat(tiny_model, ["hello", "and?"], "--json", "-sys", "be")):
        messages.append({"role": "user", "content": turn["message"]})
        prompt = model.tokenizer.encode_chat(messages)
        assert turn["text"] == model.generate(prompt, temperature=0.0, max_tokens=8)
        messages.append({"role": "assistant", "content": turn["text"]})
    assert [m["content"] for m in messages if m["role"] == "user"] == ["hello", "and?"]


def test_only_new_tokens_are_computed(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    talk = Conversation(model, SamplingParams(temperature=0.0, max_tokens=4), 256)
    first = talk.say("hello")
    talk.end("".join(talk.reply(first)))
    whole = model.tokenizer.encode_chat([*talk.messages, {"role": "user", "content": "and?"}])
    second = talk.say("and?")
    assert whole[-len(second) :] == second
    assert len(second) < len(whole) - len(first) + 1
    assert talk.cached == whole[: -len(second)]
    assert talk.cache.lengths.tolist() == [len(talk.cached)]


@pytest.fixture(params=["eager", "recorded"])
def replays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How often a graph was replayed; None where a GraphedDecode runs eagerly."""
    if request.param == "eager":
        return lambda: None
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "graphs")
    from recorded_graphs import RecordingDevice

    before = RecordingDevice.replays
    monkeypatch.setattr(
        "rocmforge_torch.graphs.decode.graph_device", lambda device: RecordingDevice()
    )
    return lambda: RecordingDevice.replays - before


def hold(talk: Conversation, text: str, pieces: int = 1000) -> tuple[list[int], str, str]:
    """One turn, broken off after so many pieces -> its new tokens, the answer, why it ended."""
    new = talk.say(text)
    with contextlib.closing(talk.reply(new)) as answer:
        written = "".join(itertools.islice(answer, pieces))
    talk.end(written)
    return new, written, talk.finish_reason


def talking_twice(path: Path, room: int, max_tokens: int) -> list[Conversation]:
    """The same conversation through a cache, and through a GraphedDecode."""
    model = load_model(path)
    params = SamplingParams(temperature=1.5, seed=7, max_tokens=max_tokens)
    talks = [Conversation(model, params, room, graphed=graphed) for graphed in (False, True)]
    assert [isinstance(talk.filled, GraphedDecode) for talk in talks] == [False, True]
    return talks


def captures(talk: Conversation) -> int:
    assert isinstance(talk.filled, GraphedDecode)
    return talk.filled.captures


def test_graphs_say_the_same(tiny_model: Path, replays: Any) -> None:
    """Whole turns, and turns that are broken off while steps are under way."""
    talks = talking_twice(tiny_model, 600, 20)
    for text, pieces in (("hello", 1000), ("and?", 3), ("so", 1), ("", 0), ("more", 1000)):
        first, second = (hold(talk, text, pieces) for talk in talks)
        assert first == second
        assert talks[0].cached == talks[1].cached
        assert len(first[0]) < len(talks[0].cached) or text == "hello"
    assert talks[0].messages == talks[1].messages
    assert captures(talks[1]) == (replays() is not None), "every turn replays the same graph"
    assert replays() is None or replays() > 40


def test_graphs_end_where_the_context_does(tiny_model: Path, replays: Any) -> None:
    talks = talking_twice(tiny_model, 70, -1)
    for text in ("x" * 20, "y" * 25):
        first, second = (hold(talk, text) for talk in talks)
        assert first == second
        assert talks[0].cached == talks[1].cached
        assert first[2] == "length"
        assert len(talks[0].cached) == 70
        for talk in talks:
            talk.clear()
    assert captures(talks[1]) == (replays() is not None)


def test_a_repeat_penalty_is_eager(tiny_model: Path) -> None:
    params = SamplingParams(repeat_penalty=1.1)
    assert isinstance(Conversation(load_model(tiny_model), params, 64).filled, KVCache)


def test_clear_forgets(chat: Any, tiny_model: Path) -> None:
    lines = ["hello", "/clear", "hello", "", "/help", "/exit", "never"]
    first, second = turns(chat(tiny_model, lines, "--json"))
    assert first["text"] == second["text"]
    assert first["prompt_tokens"] - second["prompt_tokens"] in (0, len(first["text"]))
    assert first["message"] == second["message"] == "hello"


def test_text_and_timing(chat: Any, tiny_model: Path) -> None:
    result = chat(tiny_model, ["hello"])
    (turn,) = turns(chat(tiny_model, ["hello"], "--json"))
    assert result.out == turn["text"] + "\n"
    assert "first token after" in result.err


def test_full_context_is_said_and_survived(chat: Any, tiny_model: Path) -> None:
    result = chat(tiny_model, ["hello", "x" * 200, "/clear", "hello"], "--json", "-c", "60")
    assert "but the context holds 60: /clear it" in result.err
    assert [turn["message"] for turn in turns(result, code=1)] == ["hello", "hello"]


def test_answer_ends_where_the_context_does(chat: Any, tiny_model: Path) -> None:
    (turn,) = turns(chat(tiny_model, ["hello"], "--json", "-c", "40", "-n", "-1"))
    assert turn["finish_reason"] == "length"
    assert turn["prompt_tokens"] + turn["generated_tokens"] in (40, 41)


def test_model_without_a_template_continues_a_transcript(chat: Any, plain_model: Path) -> None:
    result = chat(plain_model, ["hello"], "--json")
    (turn,) = turns(result)
    model = load_model(plain_model)
    transcript = "User: hello\n\nAssistant:"
    expected = model.generate(
        transcript, temperature=0.0, max_tokens=8, stop=("\n\nUser:", "\nUser:")
    )
    assert turn["text"] == expected.lstrip()
    assert "no chat template" in result.err


def test_ctrl_c_stops_the_answer_then_the_program(tiny_model: Path) -> None:
    process = start("chat", "-m", tiny_model, "-c", "100000", "--temp", "5", "-sys", "x")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    process.stdout.read(1)  # an answer has begun
    process.send_signal(signal.SIGINT)
    line = process.stderr.readline() if process.stderr else ""
    assert "first token after" in line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "rocmforge: interrupted\n"
