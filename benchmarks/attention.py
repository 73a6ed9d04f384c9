"""Attention on a GPU: decode against the bandwidth of a copy, prefill against torch's flash kernel.

usage: python -m benchmarks.attention [--formats f16,e4m3,q8_0] [--heads 32] [--kv-heads 8]
           [--head-dim 128] [--block-size 0] [--json FILE]

Decode reads the whole cache: its rate is the cache's bytes over the time, as a part of what a copy
of a large tensor moves (read and written) in the same run. Caches are used in turn so that none is
still in the device's own cache. Prefill is causal, T new tokens over a cache of T. With a block
size, caches are pages in random order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import rocmforge_torch  # noqa: F401  (registers the operators)

DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18}
FORMATS = (*DTYPES, *BLOCK_BYTES)
ROTATED_BYTES = 256 << 20
attention = torch.ops.rocmforge.attention.default


def cache(name: str, *shape: int) -> Tensor:
    """Random numbers [..., D] in a cache's format; blocks have scales near 1/64."""
    if name in DTYPES:
        return torch.randn(shape, device="cuda", dtype=torch.float16).to(DTYPES[name])
    blocks, size = shape[-1] // 32, BLOCK_BYTES[name]
    rows = torch.randint(0, 256, (*shape[:-1], blocks, size), dtype=torch.uint8, device="cuda")
    rows[..., 0], rows[..., 1] = 0, 0x24
    return rows.flatten(-2)


def placed(args: argparse.Namespace, name: str, batch: int, keys: int) -> list[Tensor | None]:
    """Keys, values, lengths and, for pages, their table."""
    pages = -(-keys // args.block_size) if args.block_size else 1
    shape = (batch * pages, args.block_size or keys, args.kv_heads, args.head_dim)
    seq_lens = torch.full((batch,), keys, dtype=torch.int32, device="cuda")
    table = torch.randperm(batch * pages, device="cuda").int().view(batch, pages)
    return [cache(name, *shape), cache(name, *shape), seq_lens, table if args.block_size else None]


def microseconds(calls: Sequence[Callable[[], Any]], repeats: int = 20) -> float:
    """The median time of a call, taking turns, captured so that launches cost little."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    count = max(1, -(-8 // len(calls))) * len(calls)
    with torch.cuda.graph(graph):
        for i in range(count):
            calls[i % len(calls)]()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / count)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copies of 512 MB."""
    source = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (microseconds([lambda: target.copy_(source)]) * 1e-6)


def decode(
    args: argparse.Namespace, name: str, batch: int, keys: int, bandwidth: float
) -> dict[str, Any]:
    q = torch.randn(batch, 1, args.heads, args.head_dim, device="cuda", dtype=torch.float16)
    calls = [placed(args, name, batch, keys)]
    size = sum(c.nbytes for c in calls[0][:2] if c is not None)
    calls += [placed(args, name, batch, keys) for _ in range(ROTATED_BYTES // size)]
    time = microseconds([partial(attention, q, *call) for call in calls])
    return {
        "kind": "decode",
        "format": name,
        "batch": batch,
        "keys": keys,
        "us": round(time, 2),
        "of_copy": round(size / (time * 1e-6) / bandwidth, 3),
    }


def prefill(args: argparse.Namespace, name: str, tokens: int) -> dict[str, Any]:
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    q = torch.randn(1, tokens, args.heads, args.head_dim, device="cuda", dtype=dtype)
    call = placed(args, name, 1, tokens)
    heads = (1, args.kv_heads, tokens, args.head_dim)
    query, keys = q.transpose(1, 2), torch.randn(heads, device="cuda", dtype=dtype)
    values = torch.randn_like(keys)
    time = microseconds([partial(attention, q, *call)])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        flash = microseconds(
            [
                lambda: F.scaled_dot_product_attention(
                    query, keys, values, is_causal=True, enable_gqa=True
                )
            ]
        )
    flops = 2 * tokens * tokens * args.heads * args.head_dim
    return {
        "kind": "prefill",
        "format": name,
        "tokens": tokens,
        "us": round(time, 1),
        "tflops": round(flops / time * 1e-6, 1),
        "flash_us": round(flash, 1),
        "of_flash": round(flash / time, 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--formats", default="f16,bf16,e4m3,q8_0,q4_0")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=0, help="of pages; 0: none")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--keys", default="4096,16384")
    parser.add_argument("--tokens", default="512,2048,8192")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    names = args.formats.split(",")
    if unknown := set(names) - set(FORMATS):
        sys.exit(f"no cache format {', '.join(sorted(unknown))}; there are {', '.join(FORMATS)}")
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e9:.0f} GB/s", flush=True)
    rows = []
    for name in names:
        for batch in map(int, args.batches.split(",")):
            for keys in map(int, args.keys.split(",")):
                rows.append(decode(args, name, batch, keys, bandwidth))
                print(rows[-1], flush=True)
        for tokens in map(int, args.tokens.split(",")):
            rows.append(prefill(args, name, tokens))
            print(rows[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps({"copy_bytes_per_s": bandwidth, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
