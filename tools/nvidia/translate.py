"""The kernels' sources as C++ of the host: what they are for nvcc, over host_cuda.h.

Launches, shared memory and PTX are written anew; everything else stays as it is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

# PTX by something that stands in it -> what does the same.
ASSEMBLY = {
    "compat.h": {
        "ex2.approx": "y = exp2f(x);",
        "rcp.approx": "y = 1.0f / x;",
        "prmt.b32": "bytes = host_cuda::permute_bytes(low, high, selector);",
        "lop3.b32 %0, %1, %2, %3, 0xea": "bits = (word & mask) | k2To23;",
        "cvt.rn.f16x2.e4m3x2 %0, high": "(void)bytes;",
        "cvt.rn.f16x2.e4m3x2 %0, %1": "(void)bytes;",
        "[%1], 16;": "host_cuda::copy_async(from, to, 16, 16);",
        "[%1], %2;": "host_cuda::copy_async(from, to, Bytes, Bytes);",
        "[%1], 16, %2;": "host_cuda::copy_async(from, to, 16, bytes);",
        "[%1], %2, %3;": "host_cuda::copy_async(from, to, Bytes, bytes);",
        "cp.async.commit_group": "host_cuda::close_group();",
        "cp.async.wait_group": "host_cuda::await_groups(Groups);",
        "cp.async.wait_all": "host_cuda::await_all();",
    },
    "mma.h": {
        "f32.f16.f16.f32": "host_cuda::multiply_16_bits(c, a.words, b.words, host_cuda::half_at);",
        "f32.bf16.bf16.f32": (
            "host_cuda::multiply_16_bits(c, a.words, b.words, host_cuda::bfloat16_at);"
        ),
        "s32.s8.s8.s32": (
            "host_cuda::multiply_bytes<2>(c, {a.words[0], a.words[1], a.words[2], a.words[3]},"
            " {b.words[0], b.words[1]}, zero);"
        ),
        "movmatrix.sync": "result = host_cuda::transposed(pair);",
        "ldmatrix.sync": (
            "uint32_t words[4]; host_cuda::load_transposed(words, row);"
            "for (int i = 0; i < 4; ++i) rows[i / 2].words[i % 2] = words[i];"
        ),
    },
    "mma_int8.h": {
        "m16n8k16": ("host_cuda::multiply_bytes<1>(c, {a[0][0], a[1][0]}, {b[j][0]}, kDotZero);"),
    },
}
# Functions of compat.h whose bodies ask the runtime or the hardware.
BODIES = {
    "stream_is_captured": "return false;",
    "device_compute_units": "return host_cuda::kComputeUnits;",
    "device_lds_bytes": "return host_cuda::kLdsBytes;",
    "void allow_lds": "",
    "lds_address": "return pointer;",
    "kept_address": "return pointer;",
    "wave_shuffle_xor": "return host_cuda::shuffle_xor(value, mask);",
    "wave_barrier": "host_cuda::meet_warp();",
    "bool is_for_hopper": "return false;",
    "void launch_early_clusters": "host_cuda::launch(kernel, grid, block, lds, args...);",
    "let_next_begin": "",
    "follow_previous": "host_cuda::follow_previous();",
}
# The addresses that PTX takes.
UNUSED = re.compile(r"\s*const auto address = static_cast<uint32_t>\(__cvta[^;]+;")
_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];")
_LAUNCH = re.compile(r"([\w:]+(?:<[^;{}()]*?>)?)\s*<<<(.*?)>>>\(", re.DOTALL)


def translate(source: Path, target: Path) -> None:
    """Copies a tree of sources, translated."""
    shutil.copytree(source, target)
    for path in [*target.rglob("*.h"), *target.rglob("*.hip")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(translated(path.name, text), encoding="utf-8")


def translated(name: str, text: str) -> str:
    """One file."""
    if name == "compat.h":
        _, _, text = text.partition("#else  // nvcc")
        text = "#pragma once\n#include <cstdint>\n" + text[: text.rindex("#endif")]
        text = UNUSED.sub("", text)
        for function, body in BODIES.items():
            text = _with_body(text, function, body)
        text = text.replace("#define gpuGetLastError cudaGetLastError", _NO_ERROR)
        text = text.replace("#define gpuGetErrorString cudaGetErrorString", "")
    for key, replacement in ASSEMBLY.get(name, {}).items():
        text = _without_assembly(text, key, replacement)
    text = _DYNAMIC.sub(r"auto* const \2 = static_cast<\1*>(host_cuda::dynamic_lds());", text)
    text = text.replace("__shared__ __align__(16)", "alignas(16) static")
    text = text.replace("__shared__ ", "static ")  # blocks run one after the other
    return _LAUNCH.sub(r"host_cuda::launcher(\1, \2)(", text)


_NO_ERROR = """inline cudaError_t gpuGetLastError() { return cudaSuccess; }
inline const char* gpuGetErrorString(cudaError_t) { return ""; }"""


def _with_body(text: str, function: str, body: str) -> str:
    name = re.search(rf"{function}\(", text)
    if name is None:
        raise ValueError(f"compat.h has no {function}")
    start = text.index("{", _closing(text, text.index("(", name.start())))
    return f"{text[:start]}{{ {body} }}{text[_closing(text, start) + 1 :]}"


def _without_assembly(text: str, key: str, replacement: str) -> str:
    start = text.rindex("asm", 0, text.index(key))
    end = text.index(";", _closing(text, text.index("(", start)))
    return f"{text[:start]}{replacement}{text[end + 1 :]}"


def _closing(text: str, opening: int) -> int:
    """Where a parenthesis or brace is closed; those in strings do not count."""
    depth, is_string = 0, False
    for i in range(opening, len(text)):
        if text[i] == '"':
            is_string = not is_string
        elif not is_string:
            depth += (text[i] in "({") - (text[i] in ")}")
            if depth == 0:
                return i
    raise ValueError("a parenthesis is not closed")
