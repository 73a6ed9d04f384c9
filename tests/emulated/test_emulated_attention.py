"""The compiled attention kernels, launched by their own launcher, at small shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import FORMATS, Call, Case, arithmetic, assert_right, make
from emulated_tensors import DTYPE_CODES, bits, from_bits, take
from torch import Tensor

from tools.amd.emulator import Emulator, Input, Output, Run
from tools.amd.emulator.messages import Buffer, Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
HIP = CSRC / "hip"
SOURCES = sorted(HIP.glob("attention*.hip"), key=lambda path: path.stem != "attention")
CACHE_CODES = {name: code for code, name in enumerate(FORMATS)}
WORKSPACE_BYTES = 1 << 18


def kernels(case: Case, exact: bool) -> list[Path]:
    """The files of the kernels that a case can need."""
    names = ["attention", "attention_exact"]
    if arithmetic(case, exact) != torch.float32:
        kind = "bf16" if "bf16" in case.formats else "f16"
        names += ["attention_unpack", f"attention_tile_{kind}"]
        names += [f"attention_decode_{case.k_format}"] if len(set(case.formats)) == 1 else []
    return [HIP / f"{name}.hip" for name in names]


def give(tensor: Tensor | None) -> Buffer | None:
    if tensor is None:
        return None
    plain = tensor.is_floating_point() and tensor.element_size() > 1
    return Input(bits(tensor if plain or tensor.dtype == torch.int32 else tensor.view(torch.uint8)))


def cache_view(cache: Tensor, name: str) -> Struct:
    size = cache.element_size()
    strides = [("c_int64", cache.stride(i) * size) for i in range(3)]
    return Struct([("c_int", CACHE_CODES[name]), ("c_void_p", give(cache)), *strides])


def run(
    emulator: Emulator, arch: str, case: Case, call: Call, exact: bool, at_rest: bool = False
) -> tuple[Tensor, Run]:
    q, k, v, table = call.q, call.k, call.v, call.table
    shape = (*q.shape[:3], call.wanted.shape[3])
    options = call.options
    int64s = [("c_int64", n) for n in (*q.shape[:3], k.shape[2], q.shape[3], shape[3])]
    places = [1 if table is None else table.shape[1], k.shape[1], k.shape[0]]
    out = take(shape, case.q_dtype)
    scale = options.get("scale", case.head_dim**-0.5)
    struct = Struct(
        [
            ("c_int", DTYPE_CODES[case.q_dtype]),
            ("c_void_p", give(q)),
            *(("c_int64", q.stride(i)) for i in range(3)),
            ("struct", cache_view(k, case.formats[0])),
            ("struct", cache_view(v, case.formats[1])),
            *(int64s[i] for i in (0, 1, 2, 3, 4, 5)),
            ("c_void_p", give(call.seq_lens)),
            ("c_void_p", give(table)),
            ("c_int64", places[0]),
            *(("c_int64", n) for n in places),
            ("c_void_p", give(options.get("sinks"))),
            ("c_void_p", give(options.get("alibi_slopes"))),
            ("c_void_p", out),
            ("c_int64", options.get("window", 0)),
            ("c_float", scale),
            ("c_float", options.get("softcap", 0.0)),
            ("c_bool", options.get("causal", True)),
            ("c_bool", exact),
            ("c_bool", at_rest),
        ]
    )
    workspace = Output(np.full(WORKSPACE_BYTES, 0xFF, np.uint8))
    done = emulator.launch(
        SOURCES, arch, "attention", [struct, workspace, None], kernels=kernels(case, exact)
    )
    array = next(a for a in done.outputs if a.shape == shape)
    return from_bits(array, case.q_dtype), done


def check(emulator: Emulator, arch: str, case: Case, exact: bool = False) -> Run:
    call = make(case)
    got, done = run(emulator, arch, case, call, exact)
    assert_right(got, case, call, exact)
    return done


OPTIONS = [
    {"causal": False, "window": 9},
    {"window": 5, "softcap": 2.0, "scale": 0.3, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    {"alibi_slopes": torch.tensor([0.5, 0.25, 0.0, 0.125])},
]


@pytest.mark.parametrize("name", FORMATS)
def test_exact(emulator: Emulator, name: str) -> None:
    check(emulator, "gfx1100", Case((40, 3), q_dtype=torch.float32, k_format=name, queries=3))


@pytest.mark.parametrize("arch", ["gfx1201", "gfx942"])
def test_exact_elsewhere(emulator: Emulator, arch: str) -> None:
    case = Case((300, 0), q_dtype=torch.bfloat16, k_format="q8_0", v_format="e5m2", heads=2)
    done = check(emulator, arch, case, exact=True)
    assert len(done.launches) == 2  # split and merged


@pytest.mark.parametrize("options", OPTIONS, ids="+".join)
def test_exact_options(emulator: Emulator, options: dict[str, object]) -> None:
    case = Case((21, 4), 6, head_dim=33, value_dim=17, k_format="f32", options=options)
    check(emulator, "gfx1100", case)
    check(emulator, "gfx1100", Case((21, 0), 2, block_size=4, options=options), exact=True)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_decode(emulator: Emulator, name: str) -> None:
    done = check(emulator, "gfx1100", Case((300, 19), k_format=name, heads=8))
    assert any("decode" in launch.kernel for launch in done.launches)


@pytest.mark.parametrize("arch", ["gfx1201", "gfx942"])
@pytest.mark.parametrize("name", ["f16", "q8_0"])
def test_decode_elsewhere(emulator: Emulator, arch: str, name: str) -> None:
    check(emulator, arch, Case((300, 0), 2, k_format=name, q_dtype=torch.bfloat16))


@pytest.mark.parametrize("options", OPTIONS, ids="+".join)
def test_decode_options(emulator: Emulator, options: dict[str, object]) -> None:
    check(emulator, "gfx1100", Case((40, 3), 5, head_dim=72, value_dim=40, options=options))
    check(emulator, "gfx1100", Case((21, 0), 2, k_format="bf16", block_size=4, options=options))


@pytest.mark.parametrize("name", FORMATS[1:])
def test_tiles(emulator: Emulator, name: str) -> None:
    done = check(emulator, "gfx1100", Case((70, 19), 21, k_format=name))
    assert any("tile" in launch.kernel for launch in done.launches)


@pytest.mark.parametrize("arch", ["gfx1201", "gfx942"])
@pytest.mark.parametrize("name", ["f16", "q8_0"])
def test_tiles_elsewhere(emulator: Emulator, arch: str, name: str) -> None:
    check(emulator, arch, Case((70, 19), 21, k_format=name, q_dtype=torch.bfloat16))


@pytest.mark.parametrize("options", OPTIONS, ids="+".join)
def test_tiles_options(emulator: Emulator, options: dict[str, object]) -> None:
    check(emulator, "gfx1100", Case((40, 3), 18, head_dim=72, value_dim=40, options=options))
    case = Case((21, 0), 19, v_format="bf16", k_format="e4m3", block_size=4, options=options)
    check(emulator, "gfx1100", case)


def test_tiles_of_a_negative_scale(emulator: Emulator) -> None:
    check(emulator, "gfx1100", Case((40,), 18, options={"scale": -0.2}))


HEADS = [("gfx1100", 120), ("gfx1100", 192), ("gfx1100", 256), ("gfx942", 256)]


@pytest.mark.parametrize(("arch", "head_dim"), HEADS)
def test_large_heads(emulator: Emulator, arch: str, head_dim: int) -> None:
    for queries in (1, 17):
        check(emulator, arch, Case((75,), queries, 2, 1, head_dim))
