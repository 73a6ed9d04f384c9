"""Writing and scoring text: sampling, the generation loop, perplexity."""

from __future__ import annotations

from .loop import Generation, generate_tokens
from .perplexity import Perplexity, perplexity, token_perplexity
from .sampling import LogitProcessor, Sampler, SamplingParams
from .text import Completion, TextBatch, TextStream, complete, generate, sampling_params

__all__ = [
    "Completion",
    "Generation",
    "LogitProcessor",
    "Perplexity",
    "Sampler",
    "SamplingParams",
    "TextBatch",
    "TextStream",
    "complete",
    "generate",
    "generate_tokens",
    "perplexity",
    "sampling_params",
    "token_perplexity",
]
