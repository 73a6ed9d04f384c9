"""Decoding through a GraphedDecode against the eager loop, on the CPU.

Every test with the fixture `device` runs twice: eagerly, and with graphs that a CPU can record.
"""

from __future__ import annotations

import random
import threading
import warnings
import weakref
from typing import Any

import pytest
import torch
from decoding import PROMPTS, Rows, alone, warm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_graphs import Recorder, RecordingDevice

from rocmforge_torch.generate import Sampler, SamplingParams, generate_tokens
from rocmforge_torch.generate.loop import prefill
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.graphs.device import HostDevice
from rocmforge_torch.graphs.host_reads import RefuseHostReads
from rocmforge_torch.models import CausalLM, load_model

F32 = torch.float32
put = HostDevice.put


def generated(model: CausalLM, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    options.setdefault("params", warm(3, 100))
    *_, generations = generate_tokens(model, prompts, **options)
    return [g.tokens for g in generations]


# The generation loop.


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS[:3]], ids=len)
def test_the_loop_writes_the_same(
    model: CausalLM, device: str, prompts: list[list[int]], temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=100)
    want = generated(model, prompts, params=params, graphed=False)
    replays = RecordingDevice.replays
    assert generated(model, prompts, params=params, graphed=True) == want
    assert (RecordingDevice.replays - replays > 95) == (device == "recorded")


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "q8_0", "q4_0", "fp8", "fp8_e5m2"])
@pytest.mark.usefixtures("recorded")
def test_cache_formats(model: CausalLM, dtype: str) -> None:
    want = generated(model, PROMPTS[:3], cache_dtype=dtype, graphed=False)
    decode = GraphedDecode(model, 3, 128, cache_dtype=dtype, buckets=[3])
    assert generated(model, PROMPTS[:3], graphed=decode) == want
    assert (decode.reason, decode.captures) == (None, 1)


@pytest.mark.usefixtures("device")
def test_the_loop_ends_the_same(model: CausalLM) -> None:
    """By a token, by the length of the context, and by the one who reads."""
    for options in (
        {"eog_ids": {generated(model, PROMPTS[:3], graphed=False)[1][4]}},
        {"params": warm(3), "ctx_size": 14},
        {"params": warm(3), "ctx_size": 11},
        {"params": warm(3, 1)},
        {"params": warm(3, 0)},
    ):
        want = generated(model, PROMPTS[:3], graphed=False, **options)
        assert generated(model, PROMPTS[:3], graphed=True, **options) == want
    ended = []
    for graphed in (False, True):
        for step, generations in enumerate(
            generate_tokens(model, PROMPTS[:3], warm(3, 20), graphed=graphed)
        ):
            if step == 2:
                generations[1].finish_reason = "stop"
        ended.append([g.tokens for g in generations])
    assert ended[0] == ended[1]


@pytest.mark.usefixtures("recorded")
def test_one_capture_serves_many_calls(model: CausalLM) -> None:
    decode = GraphedDecode(model, 2, 128)
    for prompts in (PROMPTS[:2], PROMPTS[2:], PROMPTS[:1]):
        assert generated(model, prompts, graphed=decode) == generated(model, prompts, graphed=False)
    steps = generate_tokens(model, PROMPTS[:2], warm(3), graphed=decode)
    next(steps)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] of the GraphedDecode are decoding"):
        generated(model, PROMPTS[:1], graphed=decode)
    steps.close()
    assert decode.rows == ()
    assert decode.captures == 2


def test_what_the_loop_refuses(model: CausalLM, gemma_path: Any) -> None:
    decode = GraphedDecode(model, 2, 16)
    with pytest.raises(ValueError, match="of another model"):
        generated(load_model(gemma_path), PROMPTS[:1], graphed=decode)
    with pytest.raises(ValueError, match=r"3 prompts need 3 rows of 15 tokens, but .* 2 of 16"):
        generated(model, PROMPTS[:3], params=warm(3, 5), graphed=decode)


def test_a_repeat_penalty_is_eager_and_says_so(model: CausalLM) -> None:
    params = SamplingParams(seed=1, max_tokens=9, repeat_penalty=1.3)
    want = generated(model, PROMPTS[:2], params=params, graphed=False)
    with pytest.warns(RuntimeWarning, match="a repeat penalty needs the tokens"):
        assert generated(model, PROMPTS[:2], params=params, graphed=True) == want


# Rows that come and go.


@pytest.mark.usefixtures("exact", "device")
@settings(max_examples=15, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_rows_join_and_leave(model: CausalLM, seed: int, max_batch: int) -> None:
    """Rows of a random schedule write what each prompt does alone, whatever is in the others."""
    chance = random.Random(seed)
    decode = GraphedDecode(model, max_batch, 60, cache_dtype=F32)
    for tensor in (*decode.cache.k, *decode.cache.v):
        tensor.fill_(float("nan"))
    rows = Rows(decode)
    begun: dict[int, tuple[list[int], int]] = {}
    filling: dict[int, tuple[Any, list[int], int]] = {}

    def check(row: int) -> None:
        prompt, row_seed = begun.pop(row)
        got = rows.tokens[row]
        assert got == alone(model, prompt, row_seed, len(got), F32)

    for number in range(40):
        free = {*range(max_batch)} - begun.keys() - filling.keys()
        if free and chance.random() < 0.5:
            row, prompt = chance.choice(sorted(free)), chance.choices(range(96), k=9)
            filling[row] = decode.begin(row), prompt, 0
        if filling and chance.random() < 0.7:  # a piece of a prompt between two steps
            row = chance.choice(sorted(filling))
            cache, prompt, done = filling.pop(row)
            piece = prompt[done : done + chance.randint(1, 5)]
            with torch.inference_mode():
                ids = torch.tensor([piece])
                hidden = model.hidden(ids, cache.advance(len(piece)), cache)[:, -1]
            if done + len(piece) == len(prompt):
                begun[row] = prompt, number
                rows.join(row, hidden, len(prompt), number)
            else:
                filling[row] = cache, prompt, done + len(piece)
        if begun:
            rows.steps(chance.randint(1, 3))
        if begun and chance.random() < 0.3:
            row = chance.choice(sorted(begun))
            decode.leave([row])
            check(row)
        full = [r for r, (p, _) in begun.items() if len(p) + len(rows.tokens[r]) > 57]
        decode.leave(full)
        for row in full:
            check(row)
    for row in sorted(begun):
        check(row)
    assert decode.reason in (None, "the model is on the CPU, which has no graphs")


@pytest.mark.usefixtures("recorded", "exact")
def test_a_row_may_go_on_after_it_left(model: CausalLM) -> None:
    decode = GraphedDecode(model, 2, 60, cache_dtype=F32)
    rows = Rows(decode)
    rows.start(1, PROMPTS[0], 4)
    rows.steps(6)
    decode.leave([1])
    sampler = Sampler(warm(4), 1)
    sampler.rows.step.fill_(7)
    decode.join([1], rows.tokens[1][-1:], [len(PROMPTS[0]) + 6], sampler.rows)
    rows.steps(6)
    assert rows.tokens[1] == alone(model, PROMPTS[0], 4, 13, F32)


@pytest.mark.usefixtures("device")
def test_tokens_can_be_read_late_and_in_any_order(model: CausalLM) -> None:
    decode = GraphedDecode(model, 2, 60, buckets=[2])
    params = warm(6, 10)
    with torch.inference_mode():
        sampler = Sampler(params, 2)
        hidden = prefill(model, PROMPTS[:2], decode.begin(0, 2))
        chosen = sampler(model.logits(hidden), [])
        decode.join([0, 1], chosen, [11, 1], sampler.rows)
    steps = [decode.step() for _ in range(9)]
    late = [steps[i].wait() for i in (8, 7, 0, 3, 5, 1, 2, 4, 6)]
    got = [chosen.tolist(), *(late[i] for i in (2, 5, 6, 3, 7, 4, 8, 1, 0))]
    assert [list(row) for row in zip(*got, strict=True)] == generated(
        model, PROMPTS[:2], params=params, graphed=False
    )


@pytest.mark.usefixtures("device", "exact")
def test_rows_change_before_tokens_are_read(model: CausalLM) -> None:
    """And a batch of another size is captured."""
    decode = GraphedDecode(model, 3, 60, cache_dtype=F32)
    rows = Rows(decode)
    rows.start(2, PROMPTS[2], 3)
    started = [decode.step()]
    rows.start(0, PROMPTS[0], 4)
    started.append(decode.step())
    decode.leave([2])
    started += [decode.step() for _ in range(3)]
    rows.start(1, PROMPTS[1], 5)
    started.append(decode.step())
    assert [pending.rows for pending in started] == [(2,), (2, 0), *[(0,)] * 3, (0, 1)]
    for pending in started:
        rows.take(pending)
    for row, seed in ((0, 4), (1, 5), (2, 3)):
        got = rows.tokens[row]
        assert got == alone(model, PROMPTS[row], seed, len(got), F32)


@pytest.mark.usefixtures("recorded")
def test_tokens_are_read_while_another_size_is_captured(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread may; the steps of a capture are not theirs."""
    both = [Rows(GraphedDecode(model, 2, 60, capture=capture)) for capture in (False, True)]
    started = []
    for rows in both:
        rows.start(0, PROMPTS[0], 1)
        started.append([rows.decode.step() for _ in range(2)])
        rows.start(1, PROMPTS[1], 1)
    seen: list[list[list[int]]] = []
    capture = RecordingDevice.capture

    def reading(self: RecordingDevice, run: Any) -> Any:
        captured = capture(self, run)
        seen.append([pending.wait() for pending in started[1]])
        return captured

    monkeypatch.setattr(RecordingDevice, "capture", reading)
    both[1].steps(1)
    first, second = (pending.wait() for pending in started[0])
    assert seen == [[first, second]]
    assert first != second


@pytest.mark.usefixtures("device")
def test_it_goes_with_its_last_name(model: CausalLM) -> None:
    """Not when Python next looks for cycles, which may be inside of another's capture."""
    decode = GraphedDecode(model, 1, 60)
    rows = Rows(decode)
    rows.start(0, PROMPTS[0], 0)
    rows.steps(3)
    gone = weakref.ref(decode)
    del decode, rows
    assert gone() is None


@pytest.mark.usefixtures("device")
def test_inference_mode_does_not_matter(model: CausalLM) -> None:
    """Made inside, used outside, and the other way round."""
    for inside in (False, True):
        with torch.inference_mode(inside):
            decode = GraphedDecode(model, 2, 60)
            cache = decode.begin(1)
        with torch.inference_mode(not inside):
            hidden = prefill(model, PROMPTS[:1], cache)
            rows = Rows(decode)
            rows.join(1, hidden, len(PROMPTS[0]), 3)
            rows.steps(5)
        with torch.inference_mode(inside):
            rows.steps(5)
        assert rows.tokens[1] == alone(model, PROMPTS[0], 3, 11, torch.float16)


# Capture.


@pytest.mark.usefixtures("recorded")
def test_buckets(model: CausalLM) -> None:
    assert GraphedDecode(model, 1, 8).buckets == (1,)
    assert GraphedDecode(model, 6, 8).buckets == (1, 2, 4, 6)
    assert GraphedDecode(model, 8, 8).buckets == (1, 2, 4, 8)
    decode = GraphedDecode(model, 4, 60)
    rows = Rows(decode)
    for row, captures in ((2, 1), (0, 2), (3, 3), (1, 3)):
        rows.start(row, PROMPTS[row], row)
        rows.steps(2)
        assert decode.captures == captures
    decode.leave([0, 1, 2])
    rows.steps(2)
    assert decode.captures == 3


@pytest.mark.usefixtures("recorded")
def test_preparing_a_bucket_changes_nothing(model: CausalLM) -> None:
    """Warm-up, capture and the comparison leave numbers, keys and values as they were."""
    caches, tokens = [], []
    for verify in (False, True):
        decode = GraphedDecode(model, 3, 20, verify=verify)
        for tensor in (*decode.cache.k, *decode.cache.v):
            tensor.zero_()
        rows = Rows(decode)
        for row in (0, 1, 2):
            rows.start(row, PROMPTS[row], row)
        rows.steps(9)  # row 0 is full then
        caches.append([*decode.cache.k, *decode.cache.v, decode.cache.lengths])
        tokens.append(rows.tokens)
        assert (decode.captures, decode.reason) == (1, None)
    assert tokens[0] == tokens[1]
    assert all(torch.equal(a, b) for a, b in zip(*caches, strict=True))
    assert decode.cache.lengths.tolist() == [20, 10, 14]


def counting(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the model add a number that the host counts."""
    calls, hidden = [0], model.hidden

    def counted(*args: Any) -> Any:
        calls[0] += args[0].shape[1] == 1
        return hidden(*args) + 0.5 * (calls[0] % 7)

    monkeypatch.setattr(model, "hidden", counted)


def test_a_number_of_the_host_in_a_graph_is_found(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch, recorded: None
) -> None:
    counting(model, monkeypatch)
    decode = GraphedDecode(model, 1, 60)
    rows = Rows(decode)
    rows.start(0, PROMPTS[0], 1)
    with pytest.warns(RuntimeWarning, match="runs eagerly: the captured step of 1 rows differs"):
        rows.steps(1)
    assert decode.reason == "the captured step of 1 rows differs from the eager one"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows.steps(3)


@pytest.mark.usefixtures("recorded")
def test_a_graph_that_stores_nothing_is_found(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the eager steps stored must not be there when the graph is looked at."""
    replay = Recorder.replay

    def forgetful(self: Recorder) -> None:
        self.calls = [call for call in self.calls if "cache_write_" not in str(call[0])]
        replay(self)

    monkeypatch.setattr(Recorder, "replay", forgetful)
    decode = GraphedDecode(model, 1, 60)
    rows = Rows(decode)
    rows.start(0, PROMPTS[0], 1)
    with pytest.warns(RuntimeWarning, match="differs from the eager one"):
        rows.steps(1)


@pytest.mark.usefixtures("recorded")
def test_a_graph_that_sends_no_tokens_is_found(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Recorder.replay
    decode = GraphedDecode(model, 1, 60)

    def forgetful(self: Recorder) -> None:
        host = decode._reader.host
        self.calls = [call for call in self.calls if call[1][0] is not host]
        replay(self)

    monkeypatch.setattr(Recorder, "replay", forgetful)
    rows = Rows(decode)
    rows.start(0, PROMPTS[0], 1)
    with pytest.warns(RuntimeWarning, match="differs from the eager one"):
        rows.steps(1)


@pytest.mark.usefixtures("recorded")
def test_the_host_writes_only_when_rows_change(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(
        RecordingDevice, "put", lambda self, values, into: written.append(put(self, values, into))
    )
    rows = Rows(GraphedDecode(model, 2, 60))
    rows.start(0, PROMPTS[0], 1)
    rows.steps(1)
    before = len(written)
    rows.steps(20)
    assert len(written) == before
    rows.start(1, PROMPTS[1], 1)
    rows.steps(20)
    assert len(written) == before + 2


def test_what_cannot_be_captured_runs_eagerly(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch, recorded: None
) -> None:
    want = generated(model, PROMPTS[:2], graphed=False)
    hidden = model.hidden

    def reading(ids: Any, *args: Any) -> Any:
        assert int(ids.sum()) >= 0
        return hidden(ids, *args)

    monkeypatch.setattr(model, "hidden", reading)
    decode = GraphedDecode(model, 2, 128, buckets=[2])
    with pytest.warns(RuntimeWarning, match="runs eagerly") as warned:
        assert generated(model, PROMPTS[:2], graphed=decode) == want
    assert len(warned) == 1
    assert decode.reason == "capture failed: aten.item.default needs values on the host"
    assert (decode.captures, decode.pool_bytes) == (0, 0)


@pytest.mark.usefixtures("recorded")
def test_a_capture_that_fails(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second bucket: the first one's graph is not used any more, and tokens go on."""

    def failing(self: Any, run: Any) -> Any:
        run()
        raise RuntimeError("out of memory\nand more")

    captured, eager = (Rows(GraphedDecode(model, 2, 40, capture=c)) for c in (True, False))
    for rows in (captured, eager):
        rows.start(0, PROMPTS[0], 1)
        rows.steps(3)
        rows.start(1, PROMPTS[1], 2)
    monkeypatch.setattr(RecordingDevice, "capture", failing)
    replays = RecordingDevice.replays
    with pytest.warns(RuntimeWarning, match="runs eagerly: capture failed: out of memory$"):
        captured.steps(1)
    captured.steps(4)
    captured.decode.leave([1])
    captured.steps(4)
    eager.steps(5)
    eager.decode.leave([1])
    eager.steps(4)
    assert captured.tokens == eager.tokens
    assert RecordingDevice.replays == replays


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().index_put_((x > 0,), x.new_zeros(())),
    ],
)
def test_host_reads_are_refused(read: Any) -> None:
    x = torch.ones(3)
    with RefuseHostReads(), pytest.raises(RuntimeError, match="needs values on the host"):
        read(x)
    with RefuseHostReads():
        assert (x[torch.tensor([0, 2])] + x.cumsum(0)[1:]).shape == (2,)


def test_reasons(model: CausalLM) -> None:
    assert GraphedDecode(model, 1, 8).reason == "the model is on the CPU, which has no graphs"
    assert GraphedDecode(model, 1, 8, capture=False).reason == "capture=False"


# Models that change, and more than one.


@pytest.mark.usefixtures("device")
def test_two_models_in_turn(model: CausalLM, other_path: Any) -> None:
    models = [model, load_model(other_path)]
    decodes = [Rows(GraphedDecode(m, 2, 60, buckets=[1, 2])) for m in models for _ in range(2)]
    for seed, rows in enumerate(decodes):
        rows.start(0, PROMPTS[0], seed)
    for _ in range(12):
        for rows in decodes:
            rows.steps(1)
    dtype = torch.float16
    got = [rows.tokens[0] for rows in decodes]
    want = [
        alone(m, PROMPTS[0], seed, 13, dtype)
        for seed, m in enumerate([models[0], models[0], models[1], models[1]])
    ]
    assert got == want


@pytest.mark.usefixtures("device")
def test_threads_with_decodes_of_their_own(model: CausalLM) -> None:
    got: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        decode = GraphedDecode(model, 2, 60, buckets=[2])
        got[number] = generated(model, PROMPTS[:2], params=warm(number, 20), graphed=decode)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        params = warm(number, 20)
        assert got[number] == generated(model, PROMPTS[:2], params=params, graphed=False)


@pytest.mark.usefixtures("device", "exact")
def test_threads_that_share_one(model: CausalLM) -> None:
    """Each fills a row of its own and steps; whose step it is does not matter to the tokens."""
    decode = GraphedDecode(model, 3, 100, cache_dtype=F32)
    taken: list[Any] = []
    first: dict[int, int] = {}
    lock = threading.Lock()

    def work(row: int) -> None:
        rows = Rows(decode)
        rows.start(row, PROMPTS[row], row, chunk=3)
        first[row] = rows.tokens[row][0]
        for _ in range(15):
            with lock:  # tells in which order the steps were
                pending = decode.step()
                taken.append(pending)
            pending.wait()

    threads = [threading.Thread(target=work, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 45
    for row in range(3):
        got = [first[row]]
        for pending in taken:
            got += [t for r, t in zip(pending.rows, pending.wait(), strict=True) if r == row]
        assert got == alone(model, PROMPTS[row], row, len(got), F32)


# Wrong use.


def test_errors(model: CausalLM) -> None:
    with pytest.raises(ValueError, match="must be positive, got 0 and 8"):
        GraphedDecode(model, 0, 8)
    for buckets in ([], [0, 4], [1, 2], [8]):
        with pytest.raises(ValueError, match=r"the largest of them max_batch = 4"):
            GraphedDecode(model, 4, 8, buckets=buckets)
    decode = GraphedDecode(model, 2, 8)
    with pytest.raises(ValueError, match="no row decodes"):
        decode.step()
    one = Sampler(warm(1), 1).rows
    decode.join([1], [3], [0], one)
    with pytest.raises(ValueError, match="row 1 decodes; let it leave first"):
        decode.join([1], [3], [0], one)
    with pytest.raises(ValueError, match="row 1 decodes; let it leave first"):
        decode.begin(0, 2)
    with pytest.raises(ValueError, match="different numbers from 0 to 1, got \\[2\\]"):
        decode.begin(2)
    with pytest.raises(ValueError, match="different numbers from 0 to 1, got \\[0, 0\\]"):
        decode.join([0, 0], [3, 3], [0, 0], Sampler(warm(1), 2).rows)
    with pytest.raises(ValueError, match="1 rows need as many tokens"):
        decode.join([0], [3, 4], [0], one)
    with pytest.raises(ValueError, match="holds 0 to 8 tokens, got 9 for row 0"):
        decode.join([0], [3], [9], one)
    with pytest.raises(ValueError, match="holds 0 to 8 tokens, got 9 for row 0"):
        decode.begin(0, kept=9)
    with pytest.raises(ValueError, match="row 0 does not decode"):
        decode.leave([0])
    for _ in range(8):
        decode.step()
    with pytest.raises(ValueError, match="row 1 is full: it has 8 tokens"):
        decode.step()
    decode.leave([1])
    assert decode.rows == ()
