"""The architectures: one row each. What a row does not say is read from the file's metadata.

The facts are those of llama.cpp's converter and graphs (`conversion/`, `src/models/`), which define
what a GGUF file of each architecture means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..nn.rope import RopeConfig


@dataclass(frozen=True)
class Architecture:
    """How a decoder differs from the plainest one (pre-norm, RMS norms, gated SiLU).

    Attributes:
        norm: "rms", or "layer" for a LayerNorm with bias.
        pre_norm: attention and feed-forward read normed inputs.
        post_norm: their outputs are normed before they are added.
        qk_norm: norm of query and key: None, "head" (one weight for all heads), "flat" (over all
            heads together), or "each head" (LayerNorm, a weight per head; only if the file has it).
        parallel: attention and feed-forward read the same normed input where the file has no norm
            for the latter.
        activation: "silu" or "gelu" (its tanh form).
        gated: the feed-forward network has a gate.
        rope_interleaved: rotated pairs are neighbours, as converters permute Llama's heads.
        local_rope: makes the rotation of sliding-window layers from that of the others.
        global_every: every n-th layer sees the whole context, the others a window; 0: all have the
            window; None: the file's window is ignored, as llama.cpp does.
        window: the window where the file does not say.
        scale_embedding: embeddings are multiplied by sqrt(hidden size).
        attention_softcap, final_softcap: where the file does not say.
        wide_query: the number of layers at which attention scales by hidden size over heads instead
            of the head size (the 27B Gemmas, whose files do not say it).
    """

    norm: Literal["rms", "layer"] = "rms"
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: Literal["head", "flat", "each head"] | None = None
    parallel: bool = False
    activation: Literal["silu", "gelu"] = "silu"
    gated: bool = True
    rope_interleaved: bool = False
    local_rope: Callable[[RopeConfig], RopeConfig] | None = None
    global_every: int | None = None
    window: int = 0
    scale_embedding: bool = False
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    wide_query: int | None = None


def _base_10000(rope: RopeConfig) -> RopeConfig:
    return rope.unscaled(10000.0)


def _same_base(rope: RopeConfig) -> RopeConfig:
    return rope.unscaled(rope.base)


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(rope_interleaved=True),  # Llama, Mistral, SmolLM, Yi, ...
        "qwen2": Architecture(),
        "qwen3": Architecture(qk_norm="head"),
        "gemma2": Architecture(
            post_norm=True,
            activation="gelu",
            global_every=2,
            window=4096,
            scale_embedding=True,
            attention_softcap=50.0,
            final_softcap=30.0,
            wide_query=46,
        ),
        "gemma3": Architecture(
            post_norm=True,
            qk_norm="head",
            activation="gelu",
            local_rope=_base_10000,
            global_every=6,
            scale_embedding=True,
            wide_query=62,
        ),
        "phi3": Architecture(global_every=0),
        "granite": Architecture(rope_interleaved=True),
        "olmo2": Architecture(
            pre_norm=False, post_norm=True, qk_norm="flat", local_rope=_same_base, global_every=4
        ),
        "stablelm": Architecture(norm="layer", qk_norm="each head", parallel=True),
        "starcoder2": Architecture(norm="layer", activation="gelu", gated=False),
    }
)
