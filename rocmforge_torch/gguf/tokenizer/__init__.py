"""Tokenizers built from the metadata of a GGUF file, without any other file."""

from .streaming import TokenStream
from .tokenizer import Tokenizer

__all__ = ["TokenStream", "Tokenizer"]
