"""Functions between logits and the choice of a token, those of transformers among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from rocmforge_torch.generate import SamplingParams, generate_tokens
from rocmforge_torch.models import CausalLM

PROMPTS = [[5, 9, 33, 2, 71, 8, 8, 40, 12, 3, 60], [7], [90, 14, 3, 3, 21]]
pytestmark = pytest.mark.usefixtures("exact")


def run(model: CausalLM, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=12, **options)
    *_, last = generate_tokens(model, prompts, params, cache_dtype=torch.float32)
    return [generation.tokens for generation in last]


def test_processors_of_transformers_give_its_tokens(twins: tuple[Any, CausalLM]) -> None:
    theirs, ours = twins
    processors = [
        transformers.NoRepeatNGramLogitsProcessor(2),
        transformers.RepetitionPenaltyLogitsProcessor(1.7),
        transformers.SuppressTokensLogitsProcessor([3, 40], device="cpu"),
    ]
    together = run(ours, PROMPTS, logit_processors=processors)
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        want = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            do_sample=False,
            logits_processor=transformers.LogitsProcessorList(processors),
        )
        assert tokens == want[0, len(prompt) :].tolist()
        assert not {3, 40} & set(tokens)


def test_what_a_processor_is_given(model: CausalLM) -> None:
    seen: list[tuple[list[int], tuple[int, ...]]] = []

    def look(ids: Tensor, logits: Tensor) -> Tensor:
        seen.append((ids[0].tolist(), tuple(logits.shape)))
        return logits

    tokens = run(model, PROMPTS, logit_processors=[look])
    assert tokens == run(model, PROMPTS)
    rows = [(p + t[:n], (1, 96)) for n in range(12) for p, t in zip(PROMPTS, tokens, strict=True)]
    assert seen == rows


def test_the_next_one_sees_what_the_last_one_did(model: CausalLM) -> None:
    def only(token: int) -> Any:
        def processor(ids: Tensor, logits: Tensor) -> Tensor:
            return torch.full_like(logits, float("-inf")).index_fill(1, torch.tensor([token]), 0.0)

        return processor

    def shifted(ids: Tensor, logits: Tensor) -> Tensor:
        return logits.roll(1, -1)

    assert run(model, [[7]], logit_processors=[only(20), shifted]) == [[21] * 12]


def test_an_option_of_generate(twins: tuple[Any, CausalLM]) -> None:
    params = SamplingParams(logit_processors=[lambda ids, logits: logits])  # type: ignore[arg-type]
    assert len(params.logit_processors) == 1


@pytest.mark.parametrize("returned", [None, torch.zeros(96)])
def test_a_processor_that_returns_something_else(model: CausalLM, returned: Any) -> None:
    with pytest.raises(ValueError, match=r"must return logits \[1, 96\], got (None|\[96\])"):
        run(model, [[7]], logit_processors=[lambda ids, logits: returned])


def test_no_function() -> None:
    with pytest.raises(ValueError, match="logit_processors must be functions"):
        SamplingParams(logit_processors=[3])  # type: ignore[arg-type]


def test_asked_to_be_captured(model: CausalLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logit_processors=(lambda i, x: x,))
    with pytest.warns(RuntimeWarning, match="so do logit processors"):
        list(generate_tokens(model, [[7]], params, graphed=True))
