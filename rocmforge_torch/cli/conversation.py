"""A conversation whose history stays in the KV cache: a turn computes its new tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch

from ..generate import Sampler, SamplingParams
from ..generate.loop import prefill
from ..generate.stop import StopFilter
from ..gguf.chat_template import DEFAULT
from ..models import CausalLM
from ..nn.kv_cache import CacheDtypes

# For models without a template, which were made to continue text: a transcript to continue.
TRANSCRIPT = (
    "{% for message in messages %}"
    "{{ {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '}[message.role] }}"
    "{{ message.content | trim }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
TRANSCRIPT_STOPS = ("\n\nUser:", "\nUser:", "\n\nAssistant:", "\nAssistant:")


class Conversation:
    """Messages, and a cache that holds their tokens.

    Attributes:
        has_template: whether the model says how a conversation looks; else it is a transcript.
        stops: texts that end an answer.
        messages: `{"role": ..., "content": ...}`, in the order of the template.
        cached: the tokens that the cache holds.
        prompt_tokens, answer_tokens: of the last turn; of the prompt, those new to the cache.
        finish_reason: of the last turn, "stop" or "length".
    """

    def __init__(
        self,
        model: CausalLM,
        params: SamplingParams,
        ctx_size: int,
        cache_dtype: CacheDtypes | None = None,
        system: str | None = None,
    ) -> None:
        self.model = model
        self.params = params
        self.cache = model.new_cache(1, ctx_size, cache_dtype)
        self.sampler = Sampler(params, 1, model.device)
        self.system = system
        self.has_template = DEFAULT in model.tokenizer.chat_templates
        self.stops = () if self.has_template else TRANSCRIPT_STOPS
        if not self.has_template:
            model.tokenizer.chat_templates = {DEFAULT: TRANSCRIPT}
        self.clear()

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []
        self.cached: list[int] = []
        self.cache.reset()
        self.prompt_tokens = self.answer_tokens = 0
        self.finish_reason = ""

    def say(self, text: str) -> list[int]:
        """Add the person's message -> the tokens that are new to the cache.

        Raises:
            ValueError: the conversation has outgrown the context; the message is not added.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        tokens = self.model.tokenizer.encode_chat(messages)
        room = self.cache.max_seq_len
        if len(tokens) > room:
            raise ValueError(
                f"the conversation has {len(tokens)} tokens, but the context holds {room}: "
                "/clear it, or start with a larger --ctx-size"
            )
        self.messages = messages
        # At least one token is computed, for what comes after it.
        kept = min(_common(self.cached, tokens), len(tokens) - 1)
        self.cache.truncate(kept)
        self.cached = tokens[:kept]
        self.prompt_tokens, self.answer_tokens = len(tokens) - kept, 0
        return tokens[kept:]

    def reply(self, new: list[int]) -> Iterator[str]:
        """The answer to what `say` returned, one piece for each token.

        `end` adds it to the messages, also when it is broken off.
        """
        decoder = self.model.tokenizer.stream([*self.cached, *new])
        stop = StopFilter(self.stops)
        begun = self.has_template  # in a transcript a space follows "Assistant:"
        for token in self._tokens(new):
            self.answer_tokens += 1
            piece = stop.push(decoder.push(token))
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            yield piece
            if stop.stopped:
                self.finish_reason = "stop"
                return
        yield stop.push(decoder.finish()) + stop.finish()

    @torch.inference_mode()
    def _tokens(self, new: list[int]) -> Iterator[int]:
        model, cache = self.model, self.cache
        hidden = prefill(model, [new], cache)
        self.cached += new
        for _ in range(self.params.max_tokens) if self.params.max_tokens >= 0 else count():
            chosen = self.sampler(model.logits(hidden), [self.cached])
            token = int(chosen)
            if token in model.tokenizer.eog_ids:
                self.finish_reason = "stop"
                return
            yield token
            if len(self.cached) == cache.max_seq_len:
                break
            hidden = model.hidden(chosen[:, None], cache.advance(1), cache)[:, -1]
            self.cached.append(token)
        self.finish_reason = "length"

    def end(self, answer: str) -> None:
        """Add the model's message, as far as it came."""
        self.messages.append({"role": "assistant", "content": answer})


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
