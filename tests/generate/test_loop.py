"""The generation loop against transformers, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rocmforge_torch.generate import Generation, SamplingParams, generate_tokens
from rocmforge_torch.generate.loop import prefill
from rocmforge_torch.models import CausalLM

GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPTS = [[5, 9, 33, 2, 71, 8, 8, 40, 12, 3, 60], [7], [90, 14, 3, 3, 21]]
pytestmark = pytest.mark.usefixtures("exact")


def run(model: CausalLM, prompts: list[list[int]], **options: Any) -> list[Generation]:
    params = options.pop("params", GREEDY)
    options.setdefault("cache_dtype", torch.float32)
    *_, last = generate_tokens(model, prompts, params, **options)
    return last


def test_greedy_equals_transformers(twins: tuple[Any, CausalLM]) -> None:
    theirs, ours = twins
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        want = theirs.generate(ids, max_new_tokens=12, do_sample=False)
        (generation,) = run(ours, [prompt])
        assert generation.tokens == want[0, len(prompt) :].tolist()
        assert generation.finish_reason == "length"


def test_ragged_batch_equals_single_prompts(model: CausalLM) -> None:
    alone = [run(model, [prompt])[0].tokens for prompt in PROMPTS]
    assert [g.tokens for g in run(model, PROMPTS)] == alone


@pytest.mark.parametrize("chunk", [1, 3, 4, 11])
def test_prefill_in_chunks(model: CausalLM, chunk: int) -> None:
    with torch.inference_mode():
        want = prefill(model, PROMPTS, model.new_cache(3, 16, torch.float32))
        cache = model.new_cache(3, 16, torch.float32)
        for tensor in (*cache.k, *cache.v):
            tensor.fill_(float("nan"))
        got = prefill(model, PROMPTS, cache, chunk)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [11, 1, 5]


def test_a_row_that_ends_does_not_disturb_the_others(model: CausalLM) -> None:
    free = [g.tokens for g in run(model, PROMPTS)]
    end = free[0][3]
    ended = run(model, PROMPTS, eog_ids={end})
    for tokens, generation in zip(free, ended, strict=True):
        if end in tokens:
            assert generation.tokens == tokens[: tokens.index(end)]
            assert generation.finish_reason == "stop"
        else:
            assert generation.tokens == tokens
            assert generation.finish_reason == "length"


def test_ignore_eos(model: CausalLM) -> None:
    free = run(model, PROMPTS)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    again = run(model, PROMPTS, params=params, eog_ids=range(96))
    assert [g.tokens for g in again] == [g.tokens for g in free]


def test_until_the_context_is_full(model: CausalLM) -> None:
    """A context of S takes S - n + 1 tokens after n: the last one is never computed with."""
    generations = run(model, PROMPTS, params=SamplingParams(temperature=0), ctx_size=14)
    assert [len(g.tokens) for g in generations] == [4, 14, 10]
    assert {g.finish_reason for g in generations} == {"length"}
    (full,) = run(model, [PROMPTS[0]], params=SamplingParams(temperature=0), ctx_size=11)
    assert len(full.tokens) == 1


def test_whoever_reads_may_end_it(model: CausalLM) -> None:
    for step, generations in enumerate(generate_tokens(model, PROMPTS, GREEDY)):
        if step == 2:
            generations[1].finish_reason = "stop"
    assert [len(g.tokens) for g in generations] == [12, 3, 12]


def test_nothing_to_do(model: CausalLM) -> None:
    (generation,) = run(model, [[1]], params=SamplingParams(max_tokens=0))
    assert (generation.tokens, generation.finish_reason) == ([], "length")


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ([], "at least one prompt"),
        ([[1], []], "a prompt has no tokens"),
        ([[1], [1] * 129], "the prompt has 129 tokens, but the context holds 128"),
    ],
)
def test_bad_prompts(model: CausalLM, prompts: list[list[int]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        next(generate_tokens(model, prompts, GREEDY))


def test_the_same_seed_gives_the_same_tokens(model: CausalLM) -> None:
    def sampled(seed: int | None) -> list[int]:
        params = SamplingParams(temperature=1.5, seed=seed, max_tokens=20)
        return run(model, [PROMPTS[0]], params=params)[0].tokens

    assert sampled(3) == sampled(3)
    assert sampled(3) != sampled(4)
    assert sampled(None) != sampled(None)


def test_rows_of_one_prompt_differ(model: CausalLM) -> None:
    params = SamplingParams(temperature=1.5, seed=3, max_tokens=20)
    batch = run(model, [PROMPTS[0]] * 3, params=params)
    assert batch[0].tokens == run(model, [PROMPTS[0]], params=params)[0].tokens
    assert len({tuple(g.tokens) for g in batch}) == 3


def test_repeat_penalty_forbids_what_was_said(model: CausalLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, repeat_penalty=1e6, repeat_last_n=64)
    (generation,) = run(model, [PROMPTS[0]], params=params)
    said = PROMPTS[0] + generation.tokens
    assert len(set(said)) == len(set(PROMPTS[0])) + 20
