"""A model as the flags of a command want it, and clocks to time it with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CommandError, UsageError
from .options import CacheType, Dtype
from .output import note

if TYPE_CHECKING:
    import torch

    from ..models import CausalLM

TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def load(
    path: Path,
    device: str,
    dtype: Dtype | None,
    threads: int | None,
    exact: bool,
    gpu_layers: int | None = None,
) -> CausalLM:
    """The model at `path`, set up as the flags say; tells where its layers are if it was asked to
    choose.

    Raises:
        CommandError: the device does not exist here.
        GGUFError, OSError: as `load_model`.
    """
    import torch

    from ..config import config
    from ..models import load_model

    if threads:
        torch.set_num_threads(threads)
    if exact:
        config.exact = True
    model = load_model(path, _device(device), torch_dtype(dtype), gpu_layers=gpu_layers)
    if gpu_layers is not None and model.offload is not None:
        note(str(model.offload))
    return model


def _device(name: str) -> torch.device:
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise CommandError(
            f"--device {name}: torch can use {count} GPU(s) here; `rocmforge doctor` says more"
        )
    return torch.device(name)


def torch_dtype(dtype: Dtype | None) -> torch.dtype | None:
    """The torch dtype of a flag's value."""
    import torch

    return None if dtype is None else getattr(torch, TORCH_NAMES[dtype.value])


def cache_dtype(keys: CacheType | None, values: CacheType | None) -> tuple[str, str] | None:
    """The types of the KV cache; None for none, f16 for one of which only the other was named."""
    if keys is None and values is None:
        return None
    return (keys or CacheType.f16).value, (values or CacheType.f16).value


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        CommandError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: not UTF-8 text (byte {error.start})") from None


class Clock:
    """When generation began, when its first token came, and what followed."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens = 0
        self.started = self.last = time.perf_counter()
        self.first: float | None = None

    def tick(self, tokens: int) -> None:
        """So many tokens have come by now."""
        if tokens > self.tokens:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.tokens = tokens

    def report(self) -> dict[str, Any]:
        """Counts, seconds and rates; a rate is None where nothing was timed."""
        first = (self.first or self.last) - self.started
        rest = self.last - (self.first or self.last)
        return {
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.tokens,
            "first_token_seconds": round(first, 4),
            "seconds": round(self.last - self.started, 4),
            "prompt_tokens_per_second": _rate(self.prompt_tokens, first),
            # The first token comes from the prompt's pass.
            "generated_tokens_per_second": _rate(self.tokens - 1, rest),
        }


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 2) if count > 0 and seconds > 0 else None


def timing_line(report: dict[str, Any]) -> str:
    """One line about a `Clock.report`."""
    parts = []
    for what in ("prompt", "generated"):
        rate = report[f"{what}_tokens_per_second"]
        speed = f" at {rate:.1f}/s" if rate else ""
        parts.append(f"{what} {report[f'{what}_tokens']} tokens{speed}")
    return f"{', '.join(parts)}, first token after {report['first_token_seconds']:.2f} s"
