"""`tokenizer_from_gguf`: a transformers tokenizer that encodes as llama.cpp does."""

from __future__ import annotations

import os
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, processors
from transformers import PreTrainedTokenizerFast

from ...gguf import load_gguf
from ...gguf.tokenizer import Tokenizer
