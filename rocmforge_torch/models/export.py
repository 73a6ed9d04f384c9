"""`export_model`: a decoder as a file that needs none of its Python modules to run."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..exported import INFO, LEAST_ROOM, TOKENIZER, DecoderInfo
from ..nn import KVCache, Step
from ..nn.kv_cache import CacheDtypes
from .causal_lm import CausalLM

# What the program is traced with; all three are free afterwards. They differ from each other, and
# are odd as no size of a model is: torch.export takes equal numbers for one.
BATCH, TOKENS, ROOM = 3, 7, 19

LEAST_CONTEXT = 32  # tokens; more than the program is traced with

# One wrapper is compiled, for which a compiled header does not pay; its code only calls ops.
COMPILING = {
    "aot_inductor.package": True,
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


class Layers(NamedTuple):
    """What a decoder reads of a cache: a tensor [B, S, Hkv, D] a layer."""

    k: list[Tensor]
    v: list[Tensor]


class DecoderProgram(nn.Module):
    """One call of a decoder, for a prompt or a token, with all that it changes among its inputs."""

    def __init__(self, model: CausalLM, ctx_size: int) -> None:
        super().__init__()
        self.model = model
        self.ctx_size = ctx_size

    def forward(
        self, input_ids: Tensor, lengths: Tensor, k: list[Tensor], v: list[Tensor]
    ) -> Tensor:
        """input_ids int64 [B, T] -> the logits after the last of them [B, V].

        Args:
            input_ids: what follows the tokens that are in the cache.
            lengths: int64 [B], tokens of each sequence so far; grows by T.
            k, v: the cache, a tensor [B, S, Hkv, D] a layer; written to.
        """
        (batch, tokens), room, device = input_ids.shape, k[0].shape[1], input_ids.device
        positions = lengths[:, None] + torch.arange(tokens, device=device)
        slots = torch.arange(batch, device=device)[:, None] * room + positions
        lengths.add_(tokens)
        # The context is a number of the program, since longrope chooses its frequencies by it.
        step = Step(positions, lengths.to(torch.int32), slots, self.ctx_size)
        return self.model.logits(self.model.hidden(input_ids, step, Layers(k, v))[:, -1])


def export_model(
    model: CausalLM,
    path: str | os.PathLike[str],
    *,
    ctx_size: int | None = None,
    cache_dtype: CacheDtypes | None = None,
    aot: bool = False,
) -> None:
    """Write a model as a `.pt2` archive that `rocmforge_torch.exported.ExportedDecoder` runs.

    The archive holds a `DecoderProgram` for any batch, any number of tokens and any room up to
    `ctx_size`, the weights in their GGUF blocks, and the tokenizer's keys.

    Args:
        model: on the CPU, where weights are in the layout that files have.
        path: the file to write, whose name ends in ".pt2"; it appears when it is complete.
        ctx_size: the most tokens of a sequence; by default what the model was made for.
        cache_dtype: as in `CausalLM.new_cache`.
        aot: compile the program with AOTInductor, which needs a C++ compiler. The archive then
            holds machine code for this kind of processor and this version of PyTorch.

    Raises:
        ValueError: the model is elsewhere, the path has another ending, ctx_size is below 32, or no
            cache has this type.
        OSError: the file cannot be written.
    """
    # PyTorch's own way to write archives of both kinds, which has no public name yet.
    from torch.export.pt2_archive._package import package_pt2

    target = Path(path)
    ctx_size = model.config.context_length if ctx_size is None else ctx_size
    if target.suffix != ".pt2":
        raise ValueError(f"the name of an archive must end in .pt2, got {target.name!r}")
    if model.device.type != "cpu":
        raise ValueError(
            f"a model must be on the CPU to be exported, this one is on {model.device}"
        )
    if ctx_size < LEAST_CONTEXT:
        raise ValueError(f"ctx_size must be {LEAST_CONTEXT} or more, got {ctx_size}")
    cache = model.new_cache(BATCH, ROOM, cache_dtype)
    program = _program(model, ctx_size, cache)
    contents = {"aoti_files": _compiled(program)} if aot else {"exported_programs": program}
    extra = {
        INFO: json.dumps(asdict(_info(model, ctx_size, cache))),
        TOKENIZER: json.dumps(_tokenizer_keys(model), ensure_ascii=False),
    }
    partial = target.with_name(f"{target.stem}.{os.getpid()}.partial.pt2")
    try:
        package_pt2(str(partial), extra_files=extra, **contents)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _program(model: CausalLM, ctx_size: int, cache: KVCache) -> ExportedProgram:
    """The program, whose weights are the model's own tensors."""
    batch, tokens = Dim("batch", min=1), Dim("tokens", min=1, max=ctx_size)
    layers = [{0: batch, 1: Dim("room", min=LEAST_ROOM, max=ctx_size)}] * len(cache.k)
    ids = torch.zeros(BATCH, TOKENS, dtype=torch.int64)
    with torch.no_grad():
        return torch.export.export(
            DecoderProgram(model, ctx_size).eval(),
            (ids, cache.lengths, cache.k, cache.v),
            dynamic_shapes=({0: batch, 1: tokens}, {0: batch}, layers, layers),
        )


def _compiled(program: ExportedProgram) -> Any:
    """The files that AOTInductor makes of a program."""
    import torch._inductor

    arguments, _ = program.example_inputs
    graph = program.module(check_guards=False)
    with warnings.catch_warnings():  # some releases of torch warn of what they do themselves
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        return torch._inductor.aot_compile(graph, arguments, options=COMPILING)


def _info(model: CausalLM, ctx_size: int, cache: KVCache) -> DecoderInfo:
    k, v = cache.k[0], cache.v[0]
    return DecoderInfo(
        architecture=model.config.architecture,
        num_layers=model.config.num_layers,
        vocab_size=model.vocab_size,
        ctx_size=ctx_size,
        key_row=(k.shape[2], k.shape[3]),
        value_row=(v.shape[2], v.shape[3]),
        key_dtype=str(k.dtype).removeprefix("torch."),
        value_dtype=str(v.dtype).removeprefix("torch."),
    )


def _tokenizer_keys(model: CausalLM) -> dict[str, Any]:
    """The keys that `Tokenizer.from_metadata` reads, as JSON has them."""
    return {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in model.file.metadata.items()
        if key.startswith("tokenizer.") or key == "general.name"
    }
