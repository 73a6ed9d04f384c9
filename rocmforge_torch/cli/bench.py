"""`rocmforge bench`: tokens per second, and how near they are to what the memory allows."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .options import CacheType, Debug, Demo, Json, ModelArgument, ModelOption, model_path
from .output import console, count, print_json, progress_bar, size, table

if TYPE_CHECKING:
    from ..graphs import GraphedDecode
    from ..models import CausalLM

PromptTokens = Annotated[
    int,
    typer.Option(
        "-p", "--n-prompt", metavar="N", min=0, help="Tokens of the prompt test; 0: skip it."
    ),
]
GeneratedTokens = Annotated[
    int,
    typer.Option(
        "-n", "--n-gen", metavar="N", min=0, help="Tokens of the generation test; 0: skip it."
    ),
]
Repetitions = Annotated[
    int, typer.Option("-r", "--repetitions", metavar="N", min=1, help="Of each test.")
]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
STRIDE = 7919  # a prime: ids all over the vocabulary


def bench(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    demo: Demo = False,
    n_prompt: PromptTokens = 128,
    n_gen: GeneratedTokens = 64,
    repetitions: Repetitions = 5,
    cache_type_k: options.CacheTypeK = CacheType.f16,
    cache_type_v: options.CacheTypeV = CacheType.f16,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    gpu_layers: options.GpuLayers = None,
    dtype: options.ActivationDtype = None,
    exact: options.Exact = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure prompt and generation speed, as llama-bench does: medians, after a warm-up.

    Generation reads every weight once a token, so memory bandwidth bounds it: the last column is
    the fraction of a plain read's bandwidth, measured just before, that this comes to.
    """
    import torch

    from ..config import config
    from . import session
    from .bandwidth import read_bandwidth

    path = model_path(model, model_option, demo)
    cache_dtype = session.cache_dtype(cache_type_k, cache_type_v)
    lm = session.load(path, device, dtype, threads, exact, gpu_layers)
    tests = [(kind, n) for kind, n in (("prompt", n_prompt), ("generate", n_gen)) if n > 0]
    results = []
    decode = _captured(lm, n_gen, cache_dtype)
    with progress_bar("measuring", 1 + len(tests) * (repetitions + 1)) as bar:
        bandwidth = read_bandwidth(lm.device)
        bar.update(1)
        for kind, n in tests:
            rates = []
            for repetition in range(repetitions + 1):
                rate = n / _seconds(lm, kind, n, cache_dtype, decode)
                if repetition:  # the first warms up
                    rates.append(rate)
                bar.update(1)
            results.append(_result(kind, n, rates, _weight_bytes(lm), bandwidth))
    report = {
        "model": str(path),
        "architecture": lm.config.architecture,
        "parameters": _parameters(lm),
        "tensor_bytes": lm.file.nbytes,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "exact": config.exact,
        "weight_bytes_per_token": _weight_bytes(lm),
        "memory_bandwidth": round(bandwidth),
        "tests": results,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


def _captured(lm: CausalLM, n: int, cache_dtype: Any) -> GraphedDecode | None:
    """What generates n tokens on a GPU, so that they are captured once, in the warm-up."""
    from ..graphs import GraphedDecode

    if n == 0 or lm.device.type != "cuda":
        return None
    return GraphedDecode(lm, 1, n + 1, cache_dtype=cache_dtype)


def _seconds(
    lm: CausalLM, kind: str, n: int, cache_dtype: Any, decode: GraphedDecode | None
) -> float:
    """Time of n prompt tokens in one go, or of n tokens generated one by one."""
    from ..generate import SamplingParams, generate_tokens

    length, new = (n, 1) if kind == "prompt" else (1, n + 1)
    prompt = [(STRIDE * i + 100) % lm.vocab_size for i in range(length)]
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    start = time.perf_counter()
    graphed = decode if kind == "generate" and decode is not None else False
    context = length + new
    steps = generate_tokens(
        lm, [prompt], params, ctx_size=context, cache_dtype=cache_dtype, graphed=graphed
    )
    next(steps)
    if kind == "generate":
        start = time.perf_counter()  # the first token belongs to the prompt
    for _ in steps:
        pass
    return time.perf_counter() - start


def _result(
    kind: str, n: int, rates: list[float], weight_bytes: int, bandwidth: float
) -> dict[str, Any]:
    median = statistics.median(rates)
    result = {
        "test": kind,
        "tokens": n,
        "tokens_per_second": round(median, 2),
        "all": [round(rate, 2) for rate in rates],
    }
    if kind == "generate":
        result["bytes_per_second"] = round(median * weight_bytes)
        result["bandwidth_fraction"] = round(median * weight_bytes / bandwidth, 4)
    return result


def _weight_bytes(lm: CausalLM) -> int:
    """Bytes of weights that one token reads: all, but of the embedding only where it is the output.

    (The one row of the embedding that a token looks up is too small to count.)
    """
    tensors = lm.file.tensors
    skipped = {EMBEDDING} if OUTPUT in tensors else set()
    return sum(tensors.info(name).nbytes for name in tensors if name not in skipped)


def _parameters(lm: CausalLM) -> int:
    import math

    return sum(math.prod(lm.file.tensors.info(name).shape) for name in lm.file.tensors)


def _show(report: dict[str, Any]) -> None:
    out = console()
    out.print(
        f"{Path(report['model']).name}: {report['architecture']}, {count(report['parameters'])} "
        f"weights, {size(report['tensor_bytes'])}; {report['device']}, {report['dtype']}, "
        f"{report['threads']} threads{', exact' if report['exact'] else ''}"
    )
    rows = table("Test", ">Tokens/s", ">Lowest", ">Highest", ">Read", ">Of bandwidth")
    for test in report["tests"]:
        read = test.get("bytes_per_second")
        rows.add_row(
            f"{test['test']} {test['tokens']}",
            f"{test['tokens_per_second']:.1f}",
            f"{min(test['all']):.1f}",
            f"{max(test['all']):.1f}",
            f"{read / 1e9:.1f} GB/s" if read else "",
            f"{test['bandwidth_fraction']:.0%}" if read else "",
        )
    out.print(rows)
    out.print(
        f"A token reads {size(report['weight_bytes_per_token'])} of weights; this memory is read "
        f"at {report['memory_bandwidth'] / 1e9:.1f} GB/s."
    )
