"""Captured decoding on the GPU against the same steps run eagerly: every token and every bit."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import load_model
from rocmforge_torch.allocator import current_allocator
from rocmforge_torch.generate import Sampler, SamplingParams, generate_tokens
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.models import CausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "graphs"))
from decoding import Rows, warm

pytestmark = pytest.mark.gpu
MODELS = {"llama-small": "Q4_0", "gemma3-small": "Q4_K"}
REPLAYS = 1000


def prompt(length: int, seed: int = 0) -> list[int]:
    return [(7919 * i + 31 * seed) % 1900 + 5 for i in range(length)]


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = f"{request.param}.gguf"
    folder = tmp_path_factory.mktemp("graphs")
    return write_model(folder / name, PRESETS[request.param], MODELS[request.param])


@pytest.fixture
def model(path: Path) -> CausalLM:
    return load_model(path, "cuda")


def generated(model: CausalLM, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    options.setdefault("params", warm(3, 64))
    *_, generations = generate_tokens(model, prompts, **options)
    return [g.tokens for g in generations]


def bits(decode: GraphedDecode) -> list[Tensor]:
    cache = decode.cache
    return [t.view(torch.uint8) for t in (*cache.k, *cache.v, cache.lengths)]


def pair(model: CausalLM, rows: int, length: int, **options: Any) -> list[Rows]:
    """A captured and an eager GraphedDecode, whose caches hold the same."""
    both = [Rows(GraphedDecode(model, rows, length, capture=c, **options)) for c in (True, False)]
    for one in both:
        for tensor in (*one.decode.cache.k, *one.decode.cache.v):
            tensor.view(torch.uint8).zero_()
    return both


def check_same(both: list[Rows]) -> None:
    captured, eager = both
    assert captured.decode.reason is None
    assert eager.decode.captures == 0
    assert captured.tokens == eager.tokens
    pairs = zip(bits(captured.decode), bits(eager.decode), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", ["f16", "q8_0", "fp8"])
def test_a_thousand_replays(model: CausalLM, dtype: str) -> None:
    """Rows come and go, so tokens, positions, slots and batch sizes all change."""
    chance = random.Random(1)
    both = pair(model, 5, 600, cache_dtype=dtype)
    decode = both[0].decode
    assert decode.buckets == (1, 2, 4, 5)
    done = 0
    while done < REPLAYS:
        free = sorted({*range(5)} - {*decode.rows})
        if free and (not decode.rows or chance.random() < 0.8):
            row, seed = chance.choice(free), chance.randrange(1000)
            tokens = prompt(chance.randint(1, 90), seed)
            for rows in both:
                rows.start(row, tokens, seed, chunk=32)
        count = chance.randint(1, 30)
        for rows in both:
            rows.steps(count)
        done += count
        leaving = [row for row in decode.rows if chance.random() < 0.15]
        leaving += [r for r in decode.rows if r not in leaving and len(both[0].tokens[r]) > 380]
        for rows in both:
            rows.decode.leave(leaving)
        assert both[0].tokens == both[1].tokens
    check_same(both)
    assert decode.captures == 4


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [None, "q8_0", "fp8"])
def test_the_loop_writes_the_same(model: CausalLM, batch: int, dtype: str | None) -> None:
    """With graphs by default, or with one that is used again."""
    prompts = [prompt(n, n) for n in (40, 1, 17)][:batch]
    want = generated(model, prompts, cache_dtype=dtype, graphed=False)
    assert generated(model, prompts, cache_dtype=dtype) == want
    decode = GraphedDecode(model, batch, 128, cache_dtype=dtype, buckets=[batch])
    # Attention is split by the room that a row has, and its last bit with it.
    assert generated(model, prompts, graphed=decode) == generated(model, prompts, graphed=decode)
    assert (decode.captures, decode.reason) == (1, None)


def test_memory_does_not_grow(model: CausalLM) -> None:
    decode = GraphedDecode(model, 4, REPLAYS + 100)
    rows = Rows(decode)
    for row in range(4):
        rows.start(row, prompt(20, row), row)
    rows.steps(5)
    first = decode.pool_bytes
    assert first > 0
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    rows.steps(REPLAYS)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before
    assert decode.pool_bytes == first
    for row in (3, 2, 1):
        decode.leave([row])
        rows.steps(2)
    assert decode.captures == 3
    assert decode.pool_bytes <= 2 * first, "the buckets do not share a pool"


def test_a_step_is_one_launch(model: CausalLM) -> None:
    """The copy of its tokens to the host is in it; beside it, an event says when that is done."""
    decode = GraphedDecode(model, 2, 256)
    rows = Rows(decode)
    rows.start(0, prompt(20), 1)
    rows.steps(5)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        rows.steps(10)
    calls = Counter(event.name for event in record.events() if event.name.startswith(("cu", "hip")))

    def called(*parts: str) -> int:
        return sum(n for name, n in calls.items() if any(part in name for part in parts))

    assert called("GraphLaunch") == 10, calls
    assert called("LaunchKernel") == 0, calls
    assert called("Memcpy") == 0, calls
    assert called("EventRecord") <= 10, calls  # profilers may leave them out


def test_no_step_waits_for_the_gpu(model: CausalLM) -> None:
    """Nor does joining and leaving; the tokens of steps that were not waited for are right."""
    both = pair(model, 2, 256)
    sampling = Sampler(warm(2), 1, model.device).rows
    for rows in both:
        rows.start(0, prompt(20), 1)
        rows.steps(3)  # captured and compared, which does wait
        rows.tokens[1] = []
        torch.cuda.set_sync_debug_mode("error")
        try:
            started = [rows.decode.step() for _ in range(3)]
            rows.decode.leave([0])
            rows.decode.join([1], [3], [0], sampling)
            started += [rows.decode.step() for _ in range(3)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for pending in started:
            rows.take(pending)
    check_same(both)
    assert [len(tokens) for tokens in both[0].tokens.values()] == [7, 3]


def test_memory_outlives_the_steps_that_use_it(model: CausalLM) -> None:
    """A decode that goes while a step is under way, on a stream that did not allocate."""
    decode = GraphedDecode(model, 4, 256)
    rows = Rows(decode)
    rows.start(0, prompt(20), 1)
    rows.steps(3)
    address, shape = decode._reader.host.data_ptr(), decode._reader.host.shape
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # some 50 ms of the GPU's
        decode.step()
    del decode, rows
    pinned = [torch.full(shape, 7, pin_memory=True) for _ in range(100)]
    others = [torch.full(shape, 7, device=model.device) for _ in range(100)]
    assert address in [tensor.data_ptr() for tensor in pinned]
    torch.cuda.synchronize()
    assert all((tensor == 7).all() for tensor in (*pinned, *others))


def test_steps_on_several_streams(model: CausalLM) -> None:
    both = pair(model, 2, 256)
    for rows in both:
        rows.start(0, prompt(20), 1)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for number in range(60):
        with torch.cuda.stream(streams[number % 3]):
            if number == 20:
                both[0].start(1, prompt(30, 5), 2, chunk=7)
            both[0].steps(1)
        if number == 20:
            both[1].start(1, prompt(30, 5), 2, chunk=7)
        both[1].steps(1)
    torch.cuda.synchronize()
    check_same(both)


def test_prefill_between_steps(model: CausalLM) -> None:
    both = pair(model, 2, 256)
    tokens = prompt(50, 3)
    for rows in both:
        rows.start(1, prompt(20), 1)
        rows.steps(4)
        cache = rows.decode.begin(0)
        with torch.inference_mode():
            for start in range(0, 50, 10):
                piece = torch.tensor([tokens[start : start + 10]], device=model.device)
                hidden = model.hidden(piece, cache.advance(10), cache)[:, -1]
                rows.steps(2)
        rows.join(0, hidden, 50, 7)
        rows.steps(20)
    check_same(both)


def in_place(model: CausalLM, other: CausalLM) -> None:
    model.load_state_dict(other.state_dict())


def replaced(model: CausalLM, other: CausalLM) -> None:
    for index, layer in enumerate(other.layers):
        model.layers[index] = layer


def moved_and_back(model: CausalLM, other: CausalLM) -> None:
    model.to("cpu")
    torch.cuda.empty_cache()
    model.to("cuda")


@pytest.mark.parametrize("change", [in_place, replaced, moved_and_back])
def test_weights_that_change(
    model: CausalLM, tmp_path: Path, path: Path, change: Callable[[CausalLM, CausalLM], None]
) -> None:
    name = path.stem
    file = write_model(tmp_path / "other.gguf", PRESETS[name], MODELS[name], seed=1)
    other = load_model(file, "cuda")
    both = pair(model, 2, 256)
    for rows in both:
        rows.start(0, prompt(20), 1)
        rows.steps(5)
    change(model, other)
    for rows in both:
        rows.steps(40)
    check_same(both)
    assert both[0].decode.captures == (1 if change is in_place else 2)


def test_a_model_that_moved(model: CausalLM) -> None:
    rows = Rows(GraphedDecode(model, 1, 64))
    rows.start(0, prompt(20), 1)
    rows.steps(2)
    model.to("cpu")
    with pytest.raises(RuntimeError, match=r"moved from cuda:\d to cpu"):
        rows.steps(1)


def test_two_models_in_turn(model: CausalLM, path: Path) -> None:
    pairs = [pair(m, 2, 256) for m in (model, load_model(path, "cuda", torch.float16))]
    for both in pairs:
        for rows in both:
            rows.start(1, prompt(20), 1)
    for _ in range(50):
        for both in pairs:
            for rows in both:
                rows.steps(1)
    for both in pairs:
        check_same(both)


def test_threads(model: CausalLM) -> None:
    """Each with a GraphedDecode and a stream of its own; captures meet steps of the others."""
    prompts = [prompt(20, n) for n in range(2)]
    want = [generated(model, prompts, params=warm(n, 60), graphed=False) for n in range(4)]
    got: dict[int, list[list[list[int]]]] = {n: [] for n in range(4)}

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                got[number].append(generated(model, prompts, params=warm(number, 60), graphed=True))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {n: [want[n]] * 3 for n in range(4)}


def test_what_cannot_be_captured(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding goes on eagerly, and the next capture works."""
    want = generated(model, [prompt(20)], graphed=False)
    hidden = model.hidden

    def reading(ids: Tensor, *args: Any) -> Tensor:
        assert int(ids.sum()) >= 0
        return hidden(ids, *args)

    monkeypatch.setattr(model, "hidden", reading)
    decode = GraphedDecode(model, 1, 84, buckets=[1])
    with pytest.warns(RuntimeWarning, match="runs eagerly: capture failed: aten.item.default"):
        got = generated(model, [prompt(20)], graphed=decode)
    assert (len(got[0]), decode.captures) == (64, 0)
    assert decode.reason is not None
    monkeypatch.undo()
    assert generated(model, [prompt(20)], graphed=True) == want
    assert torch.randn(4, device="cuda").isfinite().all()


FAILING = """
import sys, warnings
import torch
from rocmforge_torch import load_model
from rocmforge_torch.generate import SamplingParams, generate_tokens
model = load_model(sys.argv[1], "cuda")
hidden, params = model.hidden, SamplingParams(seed=1, max_tokens=40)
def tokens(graphed):
    *_, (generation,) = generate_tokens(model, [[5, 6, 7]], params, graphed=graphed)
    return generation.tokens
want = tokens(False)
def waiting(*args):
    torch.cuda.current_stream().synchronize()
    return hidden(*args)
model.hidden = waiting
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    assert tokens(True) == want
assert "runs eagerly: capture failed" in str(warned[0].message), warned
torch.cuda.empty_cache()
model.hidden = hidden
with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert tokens(True) == want
torch.cuda.empty_cache()
"""


def test_a_capture_that_fails(path: Path) -> None:
    """In a process of its own, which goes on to decode, to free memory and to capture."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_blocks_of_the_allocator_are_the_graphs_own(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = model.hidden

    def planned(*args: Any) -> Tensor:
        result = hidden(*args)
        block = current_allocator().empty(result.shape, result.dtype, result.device)
        return block.copy_(result)

    monkeypatch.setattr(model, "hidden", planned)
    both = pair(model, 1, 256)
    mine = []
    for rows in both:
        rows.start(0, prompt(20), 1)
        rows.steps(3)
        # As large as what a step takes: it would get the same block.
        shape = (1, 1, model.config.hidden_size)
        mine.append(current_allocator().empty(shape, torch.bfloat16, "cuda").fill_(7))
    for rows in both:
        rows.steps(50)
    check_same(both)
    assert all((block == 7).all() for block in mine)


def test_long_contexts_of_the_loop(model: CausalLM) -> None:
    """Until the room of the longest row is used up, with rows that end before."""
    params = SamplingParams(temperature=0.7, seed=1)
    prompts = [prompt(60, 1), prompt(3, 2)]
    want = generated(model, prompts, params=params, ctx_size=160, graphed=False)
    assert generated(model, prompts, params=params, ctx_size=160, graphed=True) == want
    assert [len(tokens) for tokens in want] == [101, 158]
