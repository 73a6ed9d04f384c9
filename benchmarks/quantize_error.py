"""What each quantizer loses: our search, plain rounding, and llama.cpp's quantizer.

    python -m benchmarks.quantize_error                             Gaussian data, also weighted
    python -m benchmarks.quantize_error --model MODEL.gguf          also the file's own tensors
    python -m benchmarks.quantize_error --ggml libggml-base.so      another build of llama.cpp's
    python -m benchmarks.quantize_error --json > result.json

Losses are RMS errors over the RMS of the values. A tensor of the file is dequantized and quantized
to the type that it had ("same") and to every other searched type. Plain rounding takes the scales
from the extremes of each sub-block and rounds everything to the nearest. llama.cpp's quantizer is
the one inside xllamacpp (extra `test`) unless --ggml names a library; without either, it is left
out.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import rocmforge_torch
from rocmforge_torch.ops.reference import WEIGHTED, weighted_quantize
from rocmforge_torch.quant_types import QUANT_TYPES, QUANT_TYPES_BY_NAME, QuantType, row_bytes

SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
# Sub-block, largest code, largest integer scale (0: none).
AFFINE = {"Q2_K": (16, 3, 15), "Q4_K": (32, 15, 63), "Q5_K": (32, 31, 63)}
SYMMETRIC = {"Q3_K": (16, 4, 32), "Q6_K": (16, 32, 128)}

ops = torch.ops.rocmforge


@dataclass(frozen=True)
class Result:
    data: str
    type: str
    ours: float
    plain: float | None
    ggml: float | None
    ours_ms: float
    ggml_ms: float | None


def half(x: Tensor) -> Tensor:
    return x.half().float()


def quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0.0, a / b)


def plain_rounding(x: Tensor, name: str) -> Tensor | None:
    """What is left of `x` in the format, all scales from extremes and all numbers rounded."""
    if name in AFFINE:
        size, qmax, scale_max = AFFINE[name]
        groups = x.reshape(-1, 256 // size, size)
        low = groups.amin(-1, keepdim=True).clamp(max=0)
        scale, minimum = (groups.amax(-1, keepdim=True) - low) / qmax, -low
        d = half(scale.amax(1, keepdim=True) / scale_max)
        dmin = half(minimum.amax(1, keepdim=True) / scale_max)
        scale = d * quotient(scale, d).round()
        minimum = dmin * quotient(minimum, dmin).round()
        q = quotient(groups + minimum, scale).round().clamp(0, qmax)
        return (scale * q - minimum).view_as(x)
    if name in SYMMETRIC:
        size, zero, scale_max = SYMMETRIC[name]
        groups = x.reshape(-1, 256 // size, size)
        scale = groups.abs().amax(-1, keepdim=True) / (zero - 1)
        d = half(scale.amax(1, keepdim=True) / (scale_max - 1))
        scale = d * quotient(scale, d).round()
        return (scale * quotient(groups, scale).round().clamp(-zero, zero - 1)).view_as(x)
    return None


class Ggml:
    """llama.cpp's quantizer, of a shared library that exports `ggml_quantize_chunk`."""

    def __init__(self, path: str) -> None:
        self.quantize_chunk = ctypes.CDLL(path).ggml_quantize_chunk
        self.quantize_chunk.restype = ctypes.c_size_t
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        types: list[Any] = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
        self.quantize_chunk.argtypes = types

    @classmethod
    def find(cls, path: str | None) -> Ggml | None:
        """The library at `path`, else the one inside xllamacpp, else None."""
        if path is None and importlib.util.find_spec("xllamacpp"):
            path = importlib.import_module("xllamacpp.xllamacpp").__file__
        return cls(path) if path else None

    def __call__(self, x: Tensor, row: QuantType, weights: Tensor | None = None) -> Tensor:
        """x float32 [rows, K], weights [K] (importance) -> blocks uint8 [rows, row_bytes]."""
        rows, k = x.shape
        x, weights = x.contiguous(), None if weights is None else weights.contiguous()
        importance = None if weights is None else weights.data_ptr()
        out = torch.empty((rows, row_bytes(row, k)), dtype=torch.uint8)
        done = self.quantize_chunk(row.id, x.data_ptr(), out.data_ptr(), 0, rows, k, importance)
        assert done == out.numel(), f"ggml_quantize_chunk wrote {done} bytes"
        return out


def loss(x: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
    root = 1.0 if weights is None else weights.double().sqrt()
    return float(((x - y).double() * root).norm() / (x.double() * root).norm())


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    return run(), 1e3 * (time.perf_counter() - start)


def measure(
    data: str, x: Tensor, row: QuantType, ggml: Ggml | None, weights: Tensor | None = None
) -> Result:
    if weights is None:
        blocks, ours_ms = timed(lambda: ops.quantize(x, row.id))
    else:
        blocks, ours_ms = timed(lambda: weighted_quantize(x, row.id, weights))
    ours = loss(x, ops.dequantize(blocks, row.id, torch.float32), weights)
    rounded = plain_rounding(x, row.name)
    theirs = ggml_ms = None
    if ggml is not None:
        blocks, ggml_ms = timed(lambda: ggml(x, row, weights))
        theirs = loss(x, ops.dequantize(blocks, row.id, torch.float32), weights)
    plain = None if rounded is None else loss(x, rounded, weights)
    return Result(data, row.name, ours, plain, theirs, ours_ms, ggml_ms)


def gaussian() -> Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.standard_normal((640, 2048)).astype(np.float32))


def model_results(path: str, ggml: Ggml | None) -> Iterator[Result]:
    """Per type of the file's matrices: itself and every searched type, over all such tensors."""
    by_type: dict[str, list[Tensor]] = {}
    for name, tensor in rocmforge_torch.load_gguf(path).tensors.items():
        if isinstance(tensor, rocmforge_torch.GGUFTensor) and name != "token_embd.weight":
            values = tensor.dequantize()
            type_name = next(r.name for r in QUANT_TYPES_BY_NAME.values() if r.id == tensor.qtype)
            if values.shape[-1] % 256 == 0:
                by_type.setdefault(type_name, []).append(values.reshape(-1, 256))
    for type_name, tensors in by_type.items():
        x = torch.cat(tensors)
        for target in track(SEARCHED, description=type_name, transient=True, console=ERRORS):
            label = "same" if target == type_name else type_name
            yield measure(f"{path.rpartition('/')[2]} {label}", x, named(target), ggml)


ERRORS = Console(stderr=True)


def named(name: str) -> QuantType:
    return QUANT_TYPES_BY_NAME[name]


def show(results: list[Result]) -> None:
    table = Table(title="RMS error / RMS of the values")
    for column in ("data", "type", "ours", "plain rounding", "llama.cpp", "ours / llama.cpp"):
        table.add_column(column, justify="left" if column in ("data", "type") else "right")
    table.add_column("ours ms", justify="right")
    table.add_column("llama.cpp ms", justify="right")
    for r in results:
        ratio = f"{r.ours / r.ggml:.3f}" if r.ggml else "-"
        numbers = ["-" if v is None else f"{v:.5f}" for v in (r.ours, r.plain, r.ggml)]
        times = ["-" if v is None else f"{v:.0f}" for v in (r.ours_ms, r.ggml_ms)]
        table.add_row(r.data, r.type, *numbers, ratio, *times)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a GGUF file")
    parser.add_argument("--ggml", help="libggml-base.so of llama.cpp; default: xllamacpp's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    ggml = Ggml.find(arguments.ggml)
    x = gaussian()
    results = [measure("Gaussian", x, named(name), ggml) for name in SEARCHED]
    weights = torch.rand(x.shape[1], generator=torch.Generator().manual_seed(0)) ** 4
    weighted = [QUANT_TYPES[qtype].name for qtype in sorted(WEIGHTED)]
    results += [measure("weighted", x, named(name), ggml, weights) for name in weighted]
    if arguments.model:
        results += model_results(arguments.model, ggml)
    if arguments.json:
        print(json.dumps([asdict(r) for r in results], indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
