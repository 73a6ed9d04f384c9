"""`explain`: which op, kernel and arithmetic each part of a model uses, on which device, and why.

Nothing here knows the answers. A profiler sees which ops the modules call, torch's dispatcher says
what serves an op, the compiled library which kernel a product takes, and probes find the arithmetic
(`arithmetic`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import config
from ..extension import product_kernel
from ..models import CausalLM
from ..nn import BlindHook, QuantEmbedding, QuantLinear
from ..ops.kernels import kernel_of
from ..quant_types import quant_type
from ..ranges import ranges
from .arithmetic import arithmetic

ROWS = (1, 8, 64)  # a token, a few, a prompt
MODULE = "module:"
OWN = re.compile(r"rocmforge(_fallback)?::(\w+)")
LAYER = re.compile(r"layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class Use:
    """An op that a module calls.

    Attributes:
        module: its path in the model; "" for what the decoder itself calls.
        op: the op, of the namespace rocmforge.
        device, dtype: where it computes, and in which activations.
        weight: the GGML type of its weight, "" without one; shape: the weight's.
        layout: "file" or "packed", "" without a quantized weight.
        kernel: "native" with the instruction set on a CPU, or "reference"; why: the reason.
        products: for each number of rows the kernel that the library takes for a product
            (`extension.product_kernel`); empty for other ops and for references.
        arithmetic: for each number of rows how a product is computed (`arithmetic`); empty for
            other ops.
        launches: for each number of rows the GPU kernels that the op starts; empty on a CPU.
    """

    module: str
    op: str
    device: str
    dtype: str
    weight: str
    shape: tuple[int, ...]
    layout: str
    kernel: str
    why: str
    products: dict[int, str]
    arithmetic: dict[int, str]
    launches: dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class Explanation:
    """All uses, in the order in which the model comes to them; print it to see a table."""

    uses: tuple[Use, ...]

    def as_dicts(self) -> list[dict[str, Any]]:
        """As plain data, for JSON."""
        return [asdict(use) for use in self.uses]

    def __str__(self) -> str:
        groups: dict[Any, list[Use]] = {}
        for use in self.uses:
            same = asdict(replace(use, module=LAYER.sub(r"layers.*.\2", use.module)))
            groups.setdefault(repr(same), []).append(use)
        lines = [_cells(members) for members in groups.values()]
        heads = ("Module", "Op", "Weight", "Kernel", "Why", "Products by rows")
        widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (heads, *lines)
        )


def explain(model: CausalLM, rows: Sequence[int] = ROWS) -> Explanation:
    """Look at a model while it computes.

    Runs it on `rows` tokens each through a cache, then every kind of linear layer on numbers of its
    own. Weights stay; hooks of the model are called.

    Args:
        model: the model, on the device and with the settings (`config.exact`) that matter.
        rows: the numbers of tokens.

    Raises:
        ValueError: a number of rows is not positive or more than the model's context.
    """
    for count in rows:
        if not 1 <= count <= model.config.context_length:
            raise ValueError(
                f"rows must be from 1 to the context of {model.config.context_length}, got {count}"
            )
    calls: dict[tuple[str, str], dict[int, tuple[str, ...]]] = {}
    reference: set[str] = set()  # ops of which the reference ran in spite of a kernel
    for count in rows:
        for module, op, is_fallback, launches in _observed(model, count):
            calls.setdefault((module, op), {})[count] = launches
            if is_fallback:
                reference.add(op)
    modules = dict(model.named_modules())
    probed: dict[Any, dict[int, str]] = {}
    uses = []
    for (name, op), started in calls.items():
        found = _use(model, name, modules[name], op, rows, probed)
        if op in reference:
            found = replace(found, kernel="reference", why="not for these arguments", products={})
        uses.append(
            replace(found, launches={n: kernels for n, kernels in started.items() if kernels})
        )
    return Explanation(tuple(uses))


@torch.inference_mode()
def _observed(model: CausalLM, count: int) -> Iterator[tuple[str, str, bool, tuple[str, ...]]]:
    """(module, op, whether it is a kernel's call for help, GPU kernels) of a run of `count` tokens,
    in order."""
    ids = torch.arange(count, device=model.device)[None] % model.vocab_size
    cache = model.new_cache(1, count)
    activities = [ProfilerActivity.CPU]
    if model.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _named(model), profile(activities=activities) as profiler:
        model(ids, cache)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
    for event in profiler.events():
        own = OWN.fullmatch(event.name)
        if own:
            launches = tuple(dict.fromkeys(kernel.name for kernel in event.kernels))
            yield _module_of(event), own[2], bool(own[1]), launches


@contextmanager
def _named(model: nn.Module) -> Generator[None, None, None]:
    """Writes the names of modules into the profile."""
    ranges: list[Any] = []

    def begin(module: nn.Module) -> None:
        ranges.append(record_function(f"{MODULE}{names[module]}"))
        ranges[-1].__enter__()

    def end(module: nn.Module) -> None:
        ranges.pop().__exit__(None, None, None)

    names = {module: name for name, module in model.named_modules()}
    with ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(BlindHook(begin)).remove)
            stack.callback(module.register_forward_hook(BlindHook(end)).remove)
        yield


def _module_of(event: Any) -> str:
    while event is not None and not event.name.startswith(MODULE):
        event = event.cpu_parent
    return "" if event is None else str(event.name).removeprefix(MODULE)


def _use(
    model: CausalLM,
    name: str,
    module: nn.Module,
    op: str,
    rows: Sequence[int],
    probed: dict[Any, dict[int, str]],
) -> Use:
    kernel, why = kernel_of(op, model.device.type)
    use = Use(
        name, op, str(model.device), str(model.dtype).removeprefix("torch."),
        "", (), "", kernel, why, {}, {}, {},
    )  # fmt: skip
    if not isinstance(module, QuantLinear | QuantEmbedding):
        # The table of a tied model is the output layer, too, which no call of a module is.
        if op != "quant_matmul" or model.output is not None:
            return use
        name, module = "token_embd", model.token_embd
        use = replace(use, module=name)
    layout = module.layout if isinstance(module, QuantLinear) else 0
    weight = quant_type(module.qtype)
    use = replace(
        use,
        device=str(module.qweight.device),
        weight=weight.name,
        shape=(module.qweight.shape[0], module.weight.shape[1]),
        layout="packed" if layout else "file",
    )
    if op == "quant_embedding":
        return use
    if isinstance(module, QuantEmbedding):
        module = QuantLinear(module.qweight, module.qtype)
    key = (type(module), weight.name, use.shape, layout, use.device)
    if key not in probed:
        probed[key] = {count: arithmetic(module, count, model.dtype) for count in rows}
    if kernel != "reference":
        chosen = {n: product_kernel(use.device, module.qtype, n, *use.shape) for n in rows}
        use = replace(use, products=chosen)
    reason = "config.exact" if config.exact else "plain numbers" if not weight.is_quantized else ""
    return replace(use, arithmetic=probed[key], why=f"{why}; {reason}" if reason else why)


def _cells(uses: Iterable[Use]) -> tuple[str, ...]:
    """A line of the table for uses that differ in the layer only."""
    uses = list(uses)
    use = uses[0]
    name = use.module or "(decoder)"
    found = [LAYER.fullmatch(u.module) for u in uses]
    if found[0]:
        numbers = [int(match[1]) for match in found if match]
        name = f"layers.{ranges(numbers)}.{found[0][2]}"
    weight = f"{use.weight} {'x'.join(map(str, use.shape))}" if use.weight else use.dtype
    if use.layout == "packed":
        weight += " packed"
    ways = [(n, _way(use.products.get(n), kind)) for n, kind in use.arithmetic.items()]
    by_rows = [
        f"{ranges([n for n, _ in same])}: {way}"
        for way, same in itertools.groupby(ways, key=lambda item: item[1])
    ]
    started = sorted({kernel for kernels in use.launches.values() for kernel in kernels})
    kernel = f"{use.device} {use.kernel}" + "".join(f", {name}" for name in started)
    return name, use.op, weight, kernel, use.why, "; ".join(by_rows)


def _way(product: str | None, arithmetic: str) -> str:
    return f"{product} ({arithmetic})" if product else arithmetic
