"""Limits of kernels on a GPU: who sets them chooses the kernel, and every choice computes right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rocmforge_torch import cli, extension
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType, quant_type
from rocmforge_torch.tuning import tables
from rocmforge_torch.tuning.in_force import forced, limits_of, most_fused_rows
from rocmforge_torch.tuning.limits import DEFAULT, MOST, Limits
from rocmforge_torch.tuning.measure import CANDIDATES
from tests.gpu.guards import GuardedMemory
from tests.gpu.kernel_names import tile_kernel
from tests.gpu.quant_cases import NMSE, run_products, weights

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
GPU = torch.device("cuda", 0)
QUANTIZED = [QUANT_TYPES[qtype] for qtype in FORMATS if QUANT_TYPES[qtype].is_quantized]
NOBODYS = 63  # no type has this number
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SEEN = {
    "matvec": "matvec_kernel",
    "multirow": "multirow_kernel",
    "tile": tile_kernel(),
    "expand, GEMM": "dequantize_kernel",
}
ROWS = {"matvec": (1, 3, 8), "multirow": (1, 2, 16), "tile": (17, 129, 300), "expand, GEMM": (1, 5)}


def test_the_library_has_the_numbers_of_python() -> None:
    assert extension.product_limits(0, NOBODYS) == DEFAULT
    with forced(GPU, {NOBODYS: MOST}):
        assert extension.product_limits(0, NOBODYS) == MOST
        assert extension.product_limits(1, NOBODYS) == DEFAULT
        assert extension.product_limits(0, NOBODYS - 1) == DEFAULT
    beyond = (
        Limits(MOST.matvec + 1, MOST.multirow, MOST.tile),
        Limits(0, MOST.multirow + 1, MOST.tile),
        Limits(0, 0, MOST.tile + 1),
        Limits(-1, 0, 0),
        Limits(3, 2, 128),
        Limits(2, 16, 15),
    )
    for limits in beyond:
        with pytest.raises(RuntimeError, match="no kernels for"):
            extension.set_product_limits(0, NOBODYS, limits)
    for index, qtype in ((-1, 2), (128, 2), (0, 64), (0, -1)):
        assert extension.product_limits(index, qtype) == DEFAULT
        with pytest.raises(RuntimeError, match="no kernels for"):
            extension.set_product_limits(index, qtype, DEFAULT)
    assert extension.product_limits(0, NOBODYS) == DEFAULT


@pytest.mark.parametrize("kernel", CANDIDATES)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ4_XS", "TQ1_0"])
def test_limits_choose_the_kernel(name: str, kernel: str) -> None:
    row = quant_type(name)
    n, k = 257, 1024
    qweight, _ = weights(row, k, "cuda")
    with forced(GPU, {row.id: CANDIDATES[kernel].forced}):
        for m in ROWS[kernel]:
            x = torch.randn(m, k, device="cuda").half()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                ops.quant_matmul(x, qweight, row.id)
                torch.cuda.synchronize()
            names = {event.name for event in profiler.events()}
            assert {k for k in SEEN.values() if any(k in n for n in names)} == {SEEN[kernel]}
            assert extension.product_kernel("cuda", row.id, m, n, k) == kernel
    assert limits_of(GPU, row.id) == DEFAULT


@pytest.mark.parametrize("kernel", ["matvec", "multirow", "tile"])
@pytest.mark.parametrize("layout", [0, 1], ids=["file", "packed"])
@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_every_choice_computes_right(row: QuantType, layout: int, kernel: str) -> None:
    """With the measures of test_quant_matmul_cases.py; what a kernel cannot do is the GEMM's."""
    dtype = DTYPES[row.id % 3]
    limits = {row.id: CANDIDATES[kernel].forced}
    with GuardedMemory("cuda") as memory, forced(GPU, limits), torch.inference_mode():
        tally = run_products(row, layout, dtype, memory)
    assert not tally.failed, f"{len(tally.failed)} of {tally.count}:\n" + "\n".join(tally.failed)
    assert tally.mean_nmse_of_codes <= NMSE
    assert 40 * len(tally.above_alone()) <= len(tally.of_codes)


def operands(m: int, name: str = "Q4_K") -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """qtype, packed weight [256, ...], its scale, and x and residual [m, 1024]."""
    row = quant_type(name)
    qweight, values = (t[:256] for t in weights(row, 1024, "cuda"))
    packed = ops.pack_weight(qweight.contiguous(), row.id)
    x, residual = torch.randn(2, m, 1024, device="cuda").half()
    scale = torch.full((1024,), float(values.square().sum(-1).mean().rsqrt()), device="cuda")
    return row.id, packed, scale, x, residual


@pytest.mark.parametrize("kernel", CANDIDATES)
@pytest.mark.parametrize("m", [1, 2, 5, 8, 130])
@pytest.mark.parametrize("act", ["none", "silu"])
def test_a_norm_joins_or_comes_before_with_every_kernel(act: str, m: int, kernel: str) -> None:
    """Where no kernel norms on the way the op is the two ops; a wrong guess of who asks for it
    costs time only."""
    qtype, packed, scale, x, residual = operands(m)
    with forced(GPU, {qtype: CANDIDATES[kernel].forced}):
        normed, total = ops.add_rms_norm(x, residual, scale, 1e-6)
        if act == "none":
            apart = ops.quant_matmul(normed, packed, qtype, None, 1)
        else:
            apart = ops.quant_matmul_gated(normed, packed, qtype, act, None, 1)
        given = (x, scale, 1e-6, packed, qtype, act, None, 1, residual)
        both = ops.norm_quant_matmul(*given)
        chosen = extension.product_kernel("cuda", qtype, m, 256, 1024)
    assert torch.equal(both[1], total)
    if chosen == "expand, GEMM" or (chosen == "matvec" and m > 1):
        assert torch.equal(both[0], apart)
    else:  # the norm is not rounded in between
        error = (both[0] - apart).double().square().sum() / apart.double().square().sum()
        assert error <= {"none": 1e-4, "silu": 1e-3}[act]


def test_a_graph_keeps_the_kernel_that_it_was_captured_with() -> None:
    qtype, packed, _, x, _ = operands(8)

    def product() -> Tensor:
        out: Tensor = ops.quant_matmul(x, packed, qtype, None, 1)
        return out

    product()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with forced(GPU, {qtype: Limits(0, 0, 128)}):
        tiled = product()
        with torch.cuda.graph(graph):
            captured = product()
    graph.replay()
    assert torch.equal(captured, tiled)
    assert not torch.equal(product(), tiled)  # 8-bit activations


def test_norms_join_up_to_the_limit_in_force() -> None:
    qtype = quant_type("Q4_K").id
    assert most_fused_rows(torch.device("cuda"), qtype) == DEFAULT.tile
    with forced(GPU, {qtype: Limits(2, 16, 300)}):
        assert most_fused_rows(torch.device("cuda"), qtype) == 300
        assert most_fused_rows(GPU, quant_type("Q6_K").id) == DEFAULT.tile


def test_nobody_reads_a_part_of_anothers_limits() -> None:
    both, seen = (Limits(0, 0, 0), MOST), set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(extension.product_limits(0, NOBODYS))

    reader = threading.Thread(target=look)
    with forced(GPU, {NOBODYS: both[0]}):
        reader.start()
        for i in range(20_000):
            extension.set_product_limits(0, NOBODYS, both[i % 2])
        stop.set()
        reader.join()
    assert seen <= set(both)


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Another process, whose tables are in this folder."""
    environment = {**os.environ, tables.VARIABLE: str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


LIMITS_OF_ALL = """
import json, torch, rocmforge_torch
from rocmforge_torch import extension
torch.zeros(1, device="cuda")
print(json.dumps({q: vars(extension.product_limits(0, q)) for q in (2, 12)}))
"""


def test_what_tune_writes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    assert cli.run(["tune", "--types", "Q4_0", "--shapes", "1024x2048", "--json"]) == 0
    report: Any = json.loads(capsys.readouterr().out)
    architecture = extension.architecture(0)
    file = tmp_path / f"{architecture}.json"
    assert report["output"] == str(file)
    assert report["in_use"]
    assert all(t["us"] > 0 for t in report["types"][0]["times"])
    assert limits_of(GPU, 2) == DEFAULT  # as before
    table = tables.read(file, architecture)
    assert list(table.types) == ["Q4_0"]
    # Others than anybody measures, so that what is read tells where it comes from.
    odd = Limits(1, 7, 77)
    tables.write(file, tables.Table(architecture, "card", "2.11", {"Q4_0": odd}))
    done = python(LIMITS_OF_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["2"] == vars(odd)


def test_a_file_that_is_no_table_stops_who_loads(tmp_path: Path) -> None:
    file = tmp_path / f"{extension.architecture(0)}.json"
    file.write_text("{}")
    done = python(LIMITS_OF_ALL, tmp_path)
    assert done.returncode == 0
    assert f"RuntimeWarning: {file}: architecture is missing; correct the file" in done.stderr
    assert json.loads(done.stdout)["2"] == vars(DEFAULT)
    load = "import rocmforge_torch; rocmforge_torch.load_model('any.gguf', 'cuda')"
    done = python(load, tmp_path)
    assert done.returncode == 1
    assert f"RuntimeError: {file}: architecture is missing; correct the file" in done.stderr
