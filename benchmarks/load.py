"""How fast a model gets to the GPU, beside what disk and link allow, and in how much memory.

usage: python -m benchmarks.load [FILE] [--gib 4.5] [--type Q4_0] [--device cuda] [--repeats 5]
                                [--json OUT]

Without FILE a synthetic model is written to a temporary folder. Measured on the same file in the
same run: reading it (by as many threads as the loader has, into ordinary memory), copying pinned
memory to the device, and `load_gguf(packed=True)` until the device is done. Twice: with the file in
the page cache, and with it dropped from there, if it goes; the report says what was left of it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import rocmforge_torch
from benchmarks.synthetic import PRESETS, fill, write_model
from rocmforge_torch.gguf.async_loader import RingSize
from rocmforge_torch.gguf.chunk_reader import read_fully

PAGE = mmap.PAGESIZE
LINK_BYTES = 256 << 20
LOADS = 5
SAMPLES_A_SECOND = 500


def drop_from_cache(path: Path) -> float:
    """Ask the system to forget the file's pages; returns the fraction that stays in memory."""
    fileno = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fileno)
        os.posix_fadvise(fileno, 0, 0, os.POSIX_FADV_DONTNEED)
        return cached_fraction(fileno)
    finally:
        os.close(fileno)


def cached_fraction(fileno: int) -> float:
    """How much of a file is in the page cache, by mincore(2)."""
    size = os.fstat(fileno).st_size
    with mmap.mmap(fileno, size, flags=mmap.MAP_PRIVATE) as pages:
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        found = ctypes.create_string_buffer(-(-size // PAGE))
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (ctypes.c_void_p(address), ctypes.c_size_t(size), found)
        if libc.mincore(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(byte & 1 for byte in found.raw) / len(found.raw)


def read_rate(path: Path, size: RingSize) -> float:
    """Bytes per second of reading the file once, by the loader's threads and pieces."""
    fileno = os.open(path, os.O_RDONLY)
    total = os.fstat(fileno).st_size
    buffers = threading.local()

    def read(offset: int) -> None:
        if not hasattr(buffers, "view"):
            buffers.view = memoryview(bytearray(size.buffer_bytes))
        read_fully(fileno, offset, buffers.view[: min(size.buffer_bytes, total - offset)])

    try:
        with ThreadPoolExecutor(size.threads) as pool:
            start = time.perf_counter()
            list(pool.map(read, range(0, total, size.buffer_bytes)))
            return total / (time.perf_counter() - start)
    finally:
        os.close(fileno)


def link_rate(device: torch.device) -> float:
    """Bytes per second of one large copy from pinned memory; the best of a few."""
    source = torch.zeros(LINK_BYTES, dtype=torch.uint8).pin_memory()
    target = torch.empty(LINK_BYTES, dtype=torch.uint8, device=device)
    best = 0.0
    for _ in range(LOADS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        best = max(best, LINK_BYTES / (time.perf_counter() - start))
    return best


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE


@contextmanager
def peak_of(measure: Callable[[], int]) -> Iterator[list[int]]:
    """Collects the highest value of `measure` over a while, above that at its beginning."""
    before, done, peak = measure(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(1 / SAMPLES_A_SECOND):
            peak[0] = max(peak[0], measure() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def load_seconds(path: Path, device: torch.device) -> float:
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    file = rocmforge_torch.load_gguf(path, device, packed=True, progress=False)
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del file
    torch.cuda.empty_cache()  # the next load pays for its memory too
    return seconds


def requested_bytes(device: torch.device, when: str) -> int:
    """Bytes of the device that tensors ask for, "current" or "peak", without rounding to blocks."""
    return int(torch.cuda.memory_stats(device)[f"requested_bytes.all.{when}"])


def memory_of_a_load(path: Path, device: torch.device) -> dict[str, int]:
    """Peaks over the baseline, of the process's resident memory and of the device's."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = requested_bytes(device, "current")
    with peak_of(resident_bytes) as peak:
        file = rocmforge_torch.load_gguf(path, device, packed=True, progress=False)
        torch.cuda.synchronize(device)
    found = {
        "peak_host_bytes": peak[0],
        "peak_device_bytes": requested_bytes(device, "peak") - before,
        "device_bytes": requested_bytes(device, "current") - before,
        "tensor_bytes": file.nbytes,
    }
    del file
    torch.cuda.empty_cache()
    return found


def rates(path: Path, device: torch.device, link: float, repeats: int, cold: bool) -> Any:
    """Of reading and of loading, medians, with the file in the page cache or dropped from it."""
    size, total = RingSize(), path.stat().st_size
    reads, loads, left = [], [], [0.0 if cold else 1.0]
    for _ in range(repeats):
        if cold:
            left.append(drop_from_cache(path))
        reads.append(read_rate(path, size))
        if cold:
            left.append(drop_from_cache(path))
        loads.append(total / load_seconds(path, device))
    disk, load = statistics.median(reads), statistics.median(loads)
    return {
        "disk": disk,
        "load": load,
        "disks": reads,
        "loads": loads,
        "of_the_slower": load / min(disk, link),
        "left_in_cache": max(left),
    }


def measure(path: Path, device: torch.device, repeats: int = LOADS) -> Iterator[tuple[str, Any]]:
    """The parts of the report, each as soon as it is measured."""
    torch.empty(1, device=device)  # a context, before anything is timed
    torch.ops.rocmforge.pack_weight(torch.zeros(1, 18, dtype=torch.uint8, device=device), 2)
    yield "device", torch.cuda.get_device_name(device)
    yield "file_bytes", path.stat().st_size
    yield "memory", memory_of_a_load(path, device)  # first: nothing is cached yet
    link = link_rate(device)
    yield "link", link
    for name in ("warm", "cold"):
        yield name, rates(path, device, link, repeats, name == "cold")


def line_of(name: str, part: Any) -> str:
    """A part of the report for people."""
    if name == "memory":
        over = part["peak_device_bytes"] - part["tensor_bytes"]
        return (
            f"peak over baseline: host {part['peak_host_bytes'] / 2**20:.0f} MiB, device "
            f"{over / 2**20:.0f} MiB more than the tensors"
        )
    if name in ("warm", "cold"):
        return (
            f"{name} ({part['left_in_cache']:.0%} in the page cache): disk "
            f"{part['disk'] / 1e9:.2f} GB/s, load {part['load'] / 1e9:.2f} GB/s, "
            f"{part['of_the_slower']:.0%} of the slower of disk and link"
        )
    if name == "link":
        return f"link: {part / 1e9:.1f} GB/s"
    return f"{name}: {part}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--gib", type=float, default=4.5)
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=LOADS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        path = args.file
        if path is None:
            shape = fill(PRESETS["llama-8b"], args.type, args.gib * 2**30)
            path = write_model(Path(folder) / "synthetic.gguf", shape, args.type)
        report = {}
        for name, part in measure(path, device, args.repeats):
            report[name] = part
            print(line_of(name, part), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
