"""Launches of a decode step, in all and per layer.

usage: python -m benchmarks.launches [MODEL] [--device cuda] [--json FILE]

On a GPU torch.profiler counts kernels. Without one the ops that compute something are counted:
calls of ops, not kernels, of which an op may launch more than one. Views and allocations are left
out. Three ways to run the same step: the model with every projection apart, the model with
projections of one input made one (`CausalLM.fuse_`), and the graph of the former after
`fx.optimize`. Per layer: the difference to a model of one layer, over the other layers.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from rocmforge_torch import load_model
from rocmforge_torch.cli.demo_model import demo_model_file
from rocmforge_torch.fx import optimize
from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import KVCache, Step

CONTEXT, POSITION = 64, 9
Run = Callable[[], object]


class OpCounter(TorchDispatchMode):
    """Counts calls of ops that compute, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if computes(func):
            self.counts[func._schema.name.partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


def computes(op: torch._ops.OpOverload) -> bool:
    """Whether an op does more than to look at memory in another way, or to allocate some."""
    infos = [r.alias_info for r in op._schema.returns if r.alias_info is not None]
    is_view = bool(infos) and not any(info.is_write for info in infos)
    return not is_view and not op._schema.name.partition("::")[2].startswith("empty")


def count_ops(run: Run) -> Counter[str]:
    with torch.no_grad(), OpCounter() as counter:
        run()
    return counter.counts


def count_kernels(run: Run) -> Counter[str]:
    """What a GPU is given to do, copies included, by name."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with torch.no_grad():
        run()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
    names = (e.name for e in profiler.events() if e.device_type == DeviceType.CUDA)
    return Counter(name.partition("(")[0] for name in names)


def decode_step(model: CausalLM, optimized: bool) -> Run:
    """One token of one sequence through all layers, to the logits."""
    cache = model.new_cache(1, CONTEXT)
    device = model.device
    place = torch.full((1, 1), POSITION, device=device)
    lengths = torch.full((1,), POSITION + 1, dtype=torch.int32, device=device)

    def step(ids: Tensor, place: Tensor, lengths: Tensor, caches: list[Tensor]) -> Tensor:
        view = KVCache.__new__(KVCache)
        view.k, view.v = caches[: len(cache.k)], caches[len(cache.k) :]
        hidden = model.hidden(ids, Step(place, lengths, place, CONTEXT), view)
        return model.logits(hidden)

    inputs = (place, place, lengths, [*cache.k, *cache.v])
    if not optimized:
        return lambda: step(*inputs)
    with torch.no_grad():
        gm = make_fx(lambda ids, place, lengths, *caches: step(ids, place, lengths, [*caches]))(
            *inputs[:3], *inputs[3]
        )
        gm = optimize(gm, [*inputs[:3], *inputs[3]])
    return lambda: gm(*inputs[:3], *inputs[3])


def per_layer(model: CausalLM, optimized: bool, count: Callable[[Run], Counter[str]]) -> Any:
    """(launches of the step, launches a layer, by name)."""
    layers = model.layers
    whole = count(decode_step(model, optimized))
    model.layers = nn.ModuleList([layers[0]])
    one = count(decode_step(model, optimized))
    model.layers = layers
    others = max(len(layers) - 1, 1)
    names = {name: (whole[name] - one[name]) / others for name in whole}
    return whole.total(), {name: n for name, n in names.items() if n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", help="by default the demo model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    path = args.model or demo_model_file()
    on_gpu = args.device != "cpu"
    count = count_kernels if on_gpu else count_ops
    found = {}
    for name, fuse, optimized in (
        ("projections apart", False, False),
        ("projections fused", True, False),
        ("optimised graph", False, True),
    ):
        model = load_model(path, args.device, fuse=fuse)
        total, names = per_layer(model, optimized, count)
        found[name] = {"step": total, "layer": sum(names.values()), "names": names}
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    report(found, "kernels" if on_gpu else "calls of ops")


def report(found: dict[str, Any], what: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("decode step", f"{what} per layer", "in all", "per layer, by name")
    for name, row in found.items():
        ordered = sorted(row["names"].items(), key=lambda item: -item[1])
        text = ", ".join(f"{op} {n:.3g}" for op, n in ordered)
        table.add_row(name, f"{row['layer']:.2f}", str(row["step"]), text)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
