"""The flags that commands share: llama.cpp's names and defaults where they mean the same.

Every flag with a `ROCMFORGE_...` variable beside it takes its default from there.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError

SAMPLING = "Sampling"
RUNNING = "Model and device"

debug_enabled = False  # set by --debug, read by main


class CacheType(str, Enum):
    """Types of the KV cache: fp8 is e4m3."""

    f16 = "f16"
    bf16 = "bf16"
    f32 = "f32"
    fp8 = "fp8"
    fp8_e5m2 = "fp8_e5m2"
    q8_0 = "q8_0"
    q4_0 = "q4_0"


class Dtype(str, Enum):
    """dtypes of the activations."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"


def _enable_debug(value: bool) -> None:
    global debug_enabled
    debug_enabled = debug_enabled or value


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the traceback of an error.", callback=_enable_debug, is_eager=True
    ),
]
ModelArgument = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL", help="GGUF file, or user/repo:QUANT.", show_default=False),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "-m",
        "--model",
        metavar="FILE",
        envvar="ROCMFORGE_MODEL",
        help="GGUF file, or user/repo:QUANT on the Hugging Face hub, if not given as MODEL.",
        show_default=False,
    ),
]
Demo = Annotated[
    bool, typer.Option("--demo", help="The demo model, from the packages of the extra `demo`.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        envvar="ROCMFORGE_THREADS",
        help="CPU threads (default: torch's).",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        envvar="ROCMFORGE_DEVICE",
        help="cpu, or cuda for a GPU (AMD's too).",
        rich_help_panel=RUNNING,
    ),
]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        "-ngl",
        "--gpu-layers",
        "--n-gpu-layers",
        metavar="N",
        min=0,
        envvar="ROCMFORGE_GPU_LAYERS",
        help="Layers that stay on the GPU; others are streamed to it (default: all that fit stay).",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
ActivationDtype = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        envvar="ROCMFORGE_DTYPE",
        help="Of the activations (default: f32 on the CPU, bf16 on a GPU).",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Compute quantized products in float, not with 8-bit activations "
        "[dim]\\[env var: ROCMFORGE_EXACT][/dim].",
        rich_help_panel=RUNNING,
    ),
]
Window = Annotated[
    int, typer.Option("-c", "--ctx-size", "--ctx", metavar="N", min=4, help="Tokens of a window.")
]
Chunks = Annotated[
    int,
    typer.Option("--chunks", metavar="N", min=-1, help="Windows at most; -1: all of the text."),
]
CtxSize = Annotated[
    int,
    typer.Option(
        "-c",
        "--ctx-size",
        metavar="N",
        min=0,
        envvar="ROCMFORGE_CTX_SIZE",
        help="Tokens of context, prompt and answer together; 0: what the model was trained with.",
        rich_help_panel=RUNNING,
    ),
]
CacheTypeK = Annotated[
    CacheType,
    typer.Option(
        "-ctk",
        "--cache-type-k",
        envvar="ROCMFORGE_CACHE_TYPE_K",
        help="Type of the cached keys.",
        rich_help_panel=RUNNING,
    ),
]
CacheTypeV = Annotated[
    CacheType,
    typer.Option(
        "-ctv",
        "--cache-type-v",
        envvar="ROCMFORGE_CACHE_TYPE_V",
        help="Type of the cached values.",
        rich_help_panel=RUNNING,
    ),
]
MaybeCacheTypeK = Annotated[
    CacheType | None,
    typer.Option(
        "-ctk",
        "--cache-type-k",
        help="Type of the cached keys (default: no cache).",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
MaybeCacheTypeV = Annotated[
    CacheType | None,
    typer.Option(
        "-ctv",
        "--cache-type-v",
        help="Type of the cached values (default: no cache).",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Predict = Annotated[
    int,
    typer.Option(
        "-n",
        "--predict",
        "--n-predict",
        metavar="N",
        min=-1,
        envvar="ROCMFORGE_N_PREDICT",
        help="Tokens to generate at most; -1: until the model ends or the context is full.",
        rich_help_panel=SAMPLING,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temp",
        metavar="T",
        min=0.0,
        envvar="ROCMFORGE_TEMP",
        help="Temperature; 0: always the likeliest token.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        metavar="K",
        envvar="ROCMFORGE_TOP_K",
        help="Choose among the K likeliest tokens; 0: all.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="P",
        min=0.0,
        max=1.0,
        envvar="ROCMFORGE_TOP_P",
        help="Choose among the likeliest tokens that hold P of the probability; 1: all.",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p",
        metavar="P",
        min=0.0,
        max=1.0,
        envvar="ROCMFORGE_MIN_P",
        help="Drop tokens less likely than P times the likeliest; 0: none.",
        rich_help_panel=SAMPLING,
    ),
]
RepeatPenalty = Annotated[
    float,
    typer.Option(
        "--repeat-penalty",
        metavar="X",
        min=1e-6,
        help="Divide the scores of recent tokens by this; 1: do not.",
        rich_help_panel=SAMPLING,
    ),
]
RepeatLastN = Annotated[
    int,
    typer.Option(
        "--repeat-last-n",
        metavar="N",
        min=0,
        help="How many tokens are recent.",
        rich_help_panel=SAMPLING,
    ),
]
IgnoreEos = Annotated[
    bool,
    typer.Option("--ignore-eos", help="Go on when the model would end.", rich_help_panel=SAMPLING),
]
Seed = Annotated[
    int,
    typer.Option(
        "-s",
        "--seed",
        metavar="N",
        min=-1,
        envvar="ROCMFORGE_SEED",
        help="Same seed, same text; -1: another one every time.",
        rich_help_panel=SAMPLING,
    ),
]


def model_path(argument: Path | None, option: Path | None, demo: bool) -> Path:
    """The model a command was given, as MODEL, as -m, as --demo or as ROCMFORGE_MODEL.

    Raises:
        UsageError: none was.
        DemoModelError: the demo model is not installed.
    """
    if demo:
        from .demo_model import demo_model_file

        return demo_model_file()
    path = argument or option
    if path is None:
        raise UsageError(
            "no model: give a GGUF file as MODEL or with -m, set ROCMFORGE_MODEL, or use --demo"
        )
    return path
