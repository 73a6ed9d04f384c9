"""A conversation whose history stays in the KV cache: a turn computes its new tokens only."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch

from ..generate import Generation, Sampler, SamplingParams
from ..generate.loop import continued, prefill
from ..generate.stop import StopFilter
from ..gguf.chat_template import DEFAULT
from ..graphs import GraphedDecode
from ..models import CausalLM
from ..nn import KVCache
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
        filled: the cache, or the GraphedDecode that it is the only row of.
        cache: the cache, while a prompt is computed.
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
        graphed: bool | None = None,
    ) -> None:
        """graphed: whether decoding goes through a `GraphedDecode`, with the same tokens; None: on
        a GPU, unless a repeat penalty needs the tokens between any two steps."""
        self.model = model
        self.params = params
        self.sampler = Sampler(params, 1, model.device)
        if graphed is None:
            graphed = model.device.type == "cuda" and not self.sampler.needs_history
        self.filled: KVCache | GraphedDecode = (
            GraphedDecode(model, 1, ctx_size, cache_dtype=cache_dtype)
            if graphed
            else model.new_cache(1, ctx_size, cache_dtype)
        )
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
        self._keep(0)
        self.prompt_tokens = self.answer_tokens = 0
        self.finish_reason = ""

    def _keep(self, count: int) -> None:
        """Forget all tokens but the first."""
        del self.cached[count:]
        if isinstance(self.filled, GraphedDecode):
            self.cache = self.filled.begin(0, kept=count)
        else:
            self.cache = self.filled
            self.cache.truncate(count)

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
        self._keep(kept)
        self.prompt_tokens, self.answer_tokens = len(tokens) - kept, 0
        return tokens[kept:]

    def reply(self, new: list[int]) -> Generator[str, None, None]:
        """The answer to what `say` returned, one piece for each token.

        `end` adds it to the messages, also when it is broken off, for which it must be closed.
        """
        decoder = self.model.tokenizer.stream([*self.cached, *new])
        stop = StopFilter(self.stops)
        begun = self.has_template  # in a transcript a space follows "Assistant:"
        with contextlib.closing(self._tokens(new)) as tokens:
            for token in tokens:
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
    def _tokens(self, new: list[int]) -> Generator[int, None, None]:
        hidden = prefill(self.model, [new], self.cache)
        self.cached += new
        generation = Generation([*self.cached])
        limit = self.cache.max_seq_len - len(self.cached) + 1  # the last one needs no room
        if self.params.max_tokens >= 0:
            limit = min(limit, self.params.max_tokens)
        self.finish_reason = "length"
        if limit == 0:
            return
        steps = continued(
            self.model,
            self.filled,
            self.sampler,
            hidden,
            [generation],
            [limit],
            frozenset(self.model.tokenizer.eog_ids),
        )
        with contextlib.closing(steps):
            for number, _ in enumerate(steps):
                if number > 0:
                    self.cached.append(generation.tokens[number - 1])
                if generation.finish_reason == "stop":
                    self.finish_reason = "stop"
                    return
                yield generation.tokens[-1]

    def end(self, answer: str) -> None:
        """Add the model's message, as far as it came."""
        self.messages.append({"role": "assistant", "content": answer})


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
