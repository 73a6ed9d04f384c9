"""`load_model`: a GGUF file as a model that computes and writes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from .. import extension
from ..gguf import GGUFError, GGUFModelFile, load_gguf
from ..gguf.tokenizer import Tokenizer
from ..nn import Attention, GatedMLP, KVCache
from ..nn.kv_cache import CacheDtypes, cache_bytes
from ..offload import OffloadPlan
from .config import DecoderConfig
from .decoder import Decoder
from .offload import layer_of, placed_tensors, plan_for, stream_planned
from .weights import Weights

if TYPE_CHECKING:
    from ..generate import SamplingParams, TextStream

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class CausalLM(Decoder):
    """A decoder with its tokenizer.

    Attributes:
        file: the loaded GGUF file, with `file.metadata` and `file.tensors`.
        dtype: the dtype of activations and logits.
        offload: which layers are streamed to the GPU; None if none is.
    """

    def __init__(
        self,
        file: GGUFModelFile,
        dtype: torch.dtype,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """tensors: those to take in the place of the file's, where they are elsewhere."""
        source = str(file.path)
        config = DecoderConfig.from_metadata(file.metadata, source)
        super().__init__(config, Weights(tensors or file.tensors, source), dtype)
        self.file = file
        self.dtype = dtype
        self.offload: OffloadPlan | None = None

    @property
    def device(self) -> torch.device:
        return self.token_embd.qweight.device

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the file describes, built when first asked for.

        Raises:
            GGUFError: the file describes none, or one with more tokens than the model has.
        """
        tokenizer = Tokenizer.from_metadata(self.file.metadata)
        if len(tokenizer) > self.vocab_size:
            raise GGUFError(
                f"has {len(tokenizer)} tokens, but the model only {self.vocab_size}",
                source=str(self.file.path),
                subject="key 'tokenizer.ggml.tokens'",
            )
        return tokenizer

    def new_cache(
        self, batch_size: int = 1, max_seq_len: int | None = None, dtype: CacheDtypes | None = None
    ) -> KVCache:
        """An empty cache.

        Args:
            batch_size: B, sequences.
            max_seq_len: S, tokens of each; by default the model's context length.
            dtype: of keys and values, a `torch.dtype` or a name such as "q8_0", or a pair of them,
                of keys and of values; by default bfloat16 in a bfloat16 model, else float16.

        Raises:
            ValueError: batch_size or max_seq_len is not positive, or no cache has this dtype.
            MemoryError: there is no room for it.
        """
        max_seq_len = self.config.context_length if max_seq_len is None else max_seq_len
        if batch_size < 1 or max_seq_len < 1:
            raise ValueError(
                f"batch_size and max_seq_len must be positive, got {batch_size} and {max_seq_len}"
            )
        if dtype is None:
            dtype = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float16
        c = self.config
        shape = (c.num_layers, batch_size, max_seq_len, c.num_kv_heads, c.head_dim)
        try:
            return KVCache(*shape, dtype, self.device)
        except RuntimeError:  # torch's word for "no memory"
            size = cache_bytes(*shape, dtype) / 2**30
            raise MemoryError(
                f"a KV cache of {batch_size} x {max_seq_len} tokens takes {size:.1f} GiB, more "
                f"than {self.device} has; choose a smaller context size"
            ) from None

    def fuse_(self) -> CausalLM:
        """Make projections of one input one matrix each, where their types agree; returns itself.

        Gate and up become one, with an op that multiplies and gates; query, key and value, or two
        of them, another. Takes a copy of these weights, one layer after the other: on a GPU the old
        ones are freed on the way, on the CPU they stay in the file.
        """
        for module in self.modules():
            if isinstance(module, (Attention, GatedMLP)):
                module.fuse_()
        return self

    # Generation builds on models; these two methods only hand over to it, when they are called.

    @overload
    def generate(
        self, prompt: str, params: SamplingParams | None = None, **options: Any
    ) -> str: ...
    @overload
    def generate(
        self, prompt: list[str], params: SamplingParams | None = None, **options: Any
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompt: Any, params: SamplingParams | None = None, **options: Any
    ) -> Any: ...
    def generate(self, prompt: Any, params: SamplingParams | None = None, **options: Any) -> Any:
        """What follows a prompt: text for a text (or its tokens), a list of texts for a list.

        See `rocmforge_torch.generate.generate` and `SamplingParams` for the options.
        """
        from ..generate import generate

        return generate(self, prompt, params, **options)

    def stream(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        ctx_size: int | None = None,
        cache_dtype: CacheDtypes | None = None,
        **options: Any,
    ) -> TextStream:
        """What follows a prompt, as an iterator of pieces of text."""
        from ..generate import TextStream, sampling_params

        params = sampling_params(params, options)
        return TextStream(self, prompt, params, ctx_size=ctx_size, cache_dtype=cache_dtype)


def load_model(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    fuse: bool | None = None,
    progress: bool | None = None,
    gpu_layers: int | None = None,
) -> CausalLM:
    """Load a GGUF file as a model whose weights stay quantized.

    Args:
        path: the file, or a model on the Hugging Face hub, as in `load_gguf`.
        device: where the model computes. On "cpu" the weights stay in the mapped file; on a GPU
            they are loaded, and all but the embedding table get the layout that products are
            fastest in. (An embedding table that is the output layer too exists once, in the file's
            layout.)
        dtype: the dtype of activations and logits; by default float32 on the CPU, else bfloat16.
        fuse: whether projections of one input are made one matrix (`CausalLM.fuse_`), which
            computes faster and takes a copy of about half of the weights; by default on a GPU, and
            on the CPU for files up to half of the machine's memory.
        progress: whether to show a bar of bytes and rate; by default on a terminal only.
        gpu_layers: how many layers stay on the GPU; the weights of the others are in pinned memory
            of the host and copied there ahead of their use, in every pass (`CausalLM.offload` says
            which). By default all that fit, with a warning if those are not all.

    Raises:
        GGUFError: the file is no valid GGUF, its architecture is not supported, or a key or tensor
            that the model needs is missing or wrong.
        OSError: the file cannot be opened.
        MemoryError: the GPU has no room even for what cannot be streamed.
        RuntimeError: the GPU has no room (torch.OutOfMemoryError), or the library no code for it.
        ValueError: the dtype is none of float32, float16 and bfloat16; or gpu_layers is negative,
            or given for the CPU.
    """
    device = extension.check_device(torch.device(device))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {FLOATS}, got {dtype}")
    if device.type == "cuda":
        host = load_gguf(path)
        plan = plan_for(host, device, dtype, gpu_layers)
        if plan.streamed:
            if gpu_layers is None:
                warnings.warn(f"{path}: {plan}", RuntimeWarning, stacklevel=2)
            return _offloaded(host, plan, device, dtype, fuse is not False, progress)
    elif gpu_layers is not None:
        raise ValueError(f"gpu_layers is for a GPU, the device is {device}")
    file = load_gguf(path, device, packed=True, progress=progress)
    model = CausalLM(file, dtype).eval()
    file.tensors.release()  # the modules hold what they need
    if fuse is None:
        fuse = device.type != "cpu" or file.nbytes <= _memory() // 2
    return model.fuse_() if fuse else model


def _offloaded(
    host: GGUFModelFile,
    plan: OffloadPlan,
    device: torch.device,
    dtype: torch.dtype,
    fuse: bool,
    progress: bool | None,
) -> CausalLM:
    """A model of which the GPU holds some layers, and the host the others."""
    streamed = set(plan.streamed)
    file = load_gguf(
        host.path,
        device,
        packed=True,
        progress=progress,
        only=lambda n: layer_of(n) not in streamed,
    )
    model = CausalLM(file, dtype, placed_tensors(host, file, plan)).eval()
    file.tensors.release()
    stream_planned(model.layers, plan, device, fuse)
    model.offload = plan
    return model.fuse_() if fuse else model


def _memory() -> int:
    """Bytes of memory of this machine; 0 where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
