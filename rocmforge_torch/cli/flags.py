"""Groups of flags that commands take as one argument each.

A command names a group as the type of a parameter; `with_flags` gives it the group's flags, in
their order, and the command gets them as an object.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from . import options
from .options import CacheType, model_path

if TYPE_CHECKING:
    from pathlib import Path

    from ..generate import SamplingParams
    from ..models import CausalLM

SEED_BITS = 32  # of a seed that nobody named: enough, and short to type


@dataclass(frozen=True)
class ModelFlags:
    """Which file."""

    model: options.ModelArgument = None
    model_option: options.ModelOption = None
    demo: options.Demo = False

    def path(self) -> Path:
        """As `model_path`."""
        return model_path(self.model, self.model_option, self.demo)


@dataclass(frozen=True)
class SamplingFlags:
    """How tokens are chosen."""

    predict: options.Predict = -1
    temp: options.Temperature = 0.8
    top_k: options.TopK = 40
    top_p: options.TopP = 0.95
    min_p: options.MinP = 0.05
    repeat_penalty: options.RepeatPenalty = 1.0
    repeat_last_n: options.RepeatLastN = 64
    seed: options.Seed = -1

    def params(self, ignore_eos: bool = False) -> SamplingParams:
        """What the sampler takes; a seed that nobody named is drawn here, so that it is known."""
        from ..generate import SamplingParams

        return SamplingParams(
            temperature=self.temp,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=self.repeat_last_n,
            seed=secrets.randbits(SEED_BITS) if self.seed < 0 else self.seed,
            max_tokens=self.predict,
            ignore_eos=ignore_eos,
        )


@dataclass(frozen=True)
class ComputeFlags:
    """Where and how a model computes."""

    threads: options.Threads = None
    device: options.Device = "cpu"
    gpu_layers: options.GpuLayers = None
    dtype: options.ActivationDtype = None
    exact: options.Exact = False

    def load(self, path: Path) -> CausalLM:
        """As `session.load`."""
        from . import session

        return session.load(
            path, self.device, self.dtype, self.threads, self.exact, self.gpu_layers
        )


@dataclass(frozen=True)
class RunFlags(ComputeFlags):
    """The same for a model that keeps a cache, and how large that is."""

    ctx_size: options.CtxSize = 0
    cache_type_k: options.CacheTypeK = CacheType.f16
    cache_type_v: options.CacheTypeV = CacheType.f16

    @property
    def cache_dtype(self) -> Any:
        """As `session.cache_dtype`."""
        from . import session

        return session.cache_dtype(self.cache_type_k, self.cache_type_v)


@dataclass(frozen=True)
class WindowFlags:
    """How a text is cut."""

    ctx_size: options.Window = 512
    chunks: options.Chunks = -1

    def __post_init__(self) -> None:
        if self.chunks == 0:
            raise typer.BadParameter("must be at least 1, or -1 for all", param_hint="--chunks")

    @property
    def limit(self) -> int | None:
        """Windows at most; None: all of the text."""
        return self.chunks if self.chunks > 0 else None


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with the flags of its groups in the place of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _flags(groups[name])
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[name]))

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run


def _flags(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]
