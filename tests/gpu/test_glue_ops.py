"""The GPU kernels of the unquantized ops against the reference, on the samples of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from op_samples import BAD_SAMPLES, SAMPLES, Sample
from op_samples.base import ATOL, RTOL
from op_samples.sampling import parameters
from torch import Tensor

from rocmforge_torch.ops import reference

pytestmark = pytest.mark.gpu
OPS = (
    "rms_norm",
    "add_rms_norm",
    "rope",
    "silu_mul",
    "gelu_mul",
    "accumulate_",
    "kv_cache_write_",
    "sample",
)
IN_PLACE = {"accumulate_": 1, "kv_cache_write_": 2}  # how many arguments are written
EXACT = {*IN_PLACE, "sample"}
REPEATS = 100
on_every_op = pytest.mark.parametrize("name", OPS)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory holds NaN and the largest integers, so that what no kernel wrote shows.

    Only new tensors are filled: the mode in which torch also checks its own kernels stays off.
    """
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def op_of(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.rocmforge, name).default


def on_gpu(value: Any) -> Any:
    """The same view of a copy of the storage on the GPU."""
    if not isinstance(value, Tensor):
        return value
    storage = value.untyped_storage().cuda()
    out = torch.empty(0, dtype=value.dtype, device="cuda")
    return out.set_(storage, value.storage_offset(), value.shape, value.stride())


def gpu_sample(sample: Sample) -> Sample:
    return Sample(
        tuple(map(on_gpu, sample.args)),
        {name: on_gpu(value) for name, value in sample.kwargs.items()},
        sample.name,
    )


def results(name: str, run: Callable[..., Any], sample: Sample) -> list[Tensor]:
    """What a call returned or wrote."""
    out = run(*sample.args, **sample.kwargs)
    if name in IN_PLACE:
        return list(sample.args[: IN_PLACE[name]])
    return list(out) if isinstance(out, tuple) else [out]


def assert_close(got: Tensor, wanted: Tensor, exact: bool, label: str) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0}
    if not exact:
        size = max(1.0, float(wanted.nan_to_num().abs().max())) if wanted.numel() else 1.0
        tolerance = {"rtol": RTOL[wanted.dtype], "atol": ATOL[wanted.dtype] * size}
    torch.testing.assert_close(
        got.cpu(), wanted, equal_nan=True, msg=lambda m: f"{label}: {m}", **tolerance
    )


@on_every_op
def test_op_has_a_gpu_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{name}", "CUDA")


@on_every_op
def test_kernel_computes_what_the_reference_does(name: str) -> None:
    for number, sample in enumerate(SAMPLES[name]()):
        on_cpu = sample.copy()
        got = results(name, op_of(name), gpu_sample(sample))
        wanted = results(name, getattr(reference, name), on_cpu)
        label = f"{name}[{number}] {sample.name}"
        for a, b in zip(got, wanted, strict=True):
            assert_close(a, b, name in EXACT, label)
            assert name in IN_PLACE or a.is_contiguous()


@on_every_op
def test_only_declared_arguments_change(name: str) -> None:
    for sample in SAMPLES[name]():
        call = gpu_sample(sample)
        op_of(name)(*call.args, **call.kwargs)
        first = IN_PLACE.get(name, 0)
        for before, after in zip(sample.args[first:], call.args[first:], strict=True):
            if isinstance(before, Tensor):
                torch.testing.assert_close(after.cpu(), before, rtol=0, atol=0, equal_nan=True)


@on_every_op
def test_bad_input_is_refused(name: str) -> None:
    """What shapes and dtypes show; values that only the device knows are not looked at."""
    for bad in BAD_SAMPLES[name]():
        if bad.on_meta:
            args = tuple(map(on_gpu, bad.args))
            with pytest.raises(RuntimeError, match=f"(?s)rocmforge::{name}: .*{bad.match}"):
                op_of(name)(*args, **bad.kwargs)


@on_every_op
def test_arguments_on_two_devices_are_refused(name: str) -> None:
    sample = next(iter(SAMPLES[name]()))
    last = max(i for i, arg in enumerate(sample.args) if isinstance(arg, Tensor))
    args = tuple(on_gpu(a) if i != last else a for i, a in enumerate(sample.args))
    with pytest.raises(RuntimeError, match="one device"):
        op_of(name)(*args, **sample.kwargs)


@on_every_op
def test_a_hundred_repeats_give_the_same_bits(name: str) -> None:
    every = list(SAMPLES[name]())
    for sample in every[:: -(-len(every) // 4)]:
        first: list[Tensor] = []
        for _ in range(REPEATS):
            again = results(name, op_of(name), gpu_sample(sample))
            first = first or again
            for a, b in zip(again, first, strict=True):
                bytes_of = [x.contiguous().flatten().view(torch.uint8) for x in (a, b)]
                assert torch.equal(*bytes_of), f"{name} {sample.name}"


def captured(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def test_a_captured_graph_sees_new_offsets() -> None:
    dst, src = torch.zeros(9, 5, device="cuda"), torch.randn(4, 5, device="cuda")
    offset = torch.zeros(1, dtype=torch.int64, device="cuda")
    graph = captured(lambda: torch.ops.rocmforge.accumulate_(dst, src, offset))
    for start in (0, 3, 5, -1, 6, 2**62, -(2**63)):
        dst.zero_()
        offset.fill_(start)
        graph.replay()
        wanted = torch.zeros(9, 5)
        if 0 <= start <= 5:  # nothing is written outside
            wanted[start : start + 4] = src.cpu()
        assert torch.equal(dst.cpu(), wanted), start


def test_a_captured_graph_sees_new_slots() -> None:
    k_cache = torch.zeros(3, 4, 2, 8, dtype=torch.float16, device="cuda")
    v_cache = torch.zeros(3, 4, 2, 24, dtype=torch.float16, device="cuda")
    k, v = torch.randn(3, 2, 8, device="cuda"), torch.randn(3, 2, 24, device="cuda")
    slots = torch.zeros(3, dtype=torch.int64, device="cuda")
    slots.copy_(torch.tensor([0, 1, 2]))
    graph = captured(lambda: torch.ops.rocmforge.kv_cache_write_(k_cache, v_cache, k, v, slots))
    for places in ([0, 1, 2], [11, -1, 5], [12, 2**40, 3], [-(2**63), 2**63 - 1, 7]):
        k_cache.zero_(), v_cache.zero_()
        slots.copy_(torch.tensor(places))
        graph.replay()
        wanted = torch.zeros(3, 4, 2, 8).half(), torch.zeros(3, 4, 2, 24).half()
        inside = torch.tensor([place if place < 12 else -1 for place in places])
        reference.kv_cache_write_(*wanted, k.cpu(), v.cpu(), inside)
        assert torch.equal(k_cache.cpu(), wanted[0])
        assert torch.equal(v_cache.cpu(), wanted[1])


def test_a_captured_graph_sees_new_positions_rows_and_steps() -> None:
    x, weight = torch.randn(1, 4, 64, device="cuda"), torch.randn(64, device="cuda")
    positions = torch.zeros(1, dtype=torch.int64, device="cuda")
    inv_freq = 10000.0 ** (-torch.arange(0, 64, 2, device="cuda") / 64)
    logits = 2 * torch.randn(1, 5000, device="cuda")
    args = [arg.cuda() for arg in parameters(1, 0.9, 50, 0.9)]
    outs: list[Tensor] = []

    def layer() -> None:
        turned = torch.ops.rocmforge.rope(x, positions, inv_freq)
        normed, total = torch.ops.rocmforge.add_rms_norm(turned, x, weight, 1e-6)
        gated = torch.ops.rocmforge.silu_mul(normed, total)
        outs[:] = [gated, torch.ops.rocmforge.sample(logits, *args)]

    graph = captured(layer)
    replayed = list(outs)
    for step in range(5):
        positions.fill_(1000 * step)
        args[-1].fill_(step)
        x.normal_()
        graph.replay()
        again = [out.clone() for out in replayed]
        layer()
        for a, b in zip(again, outs, strict=True):
            assert torch.equal(a, b)
        turned = reference.rope(x.cpu(), positions.cpu(), inv_freq.cpu())
        normed, total = reference.add_rms_norm(turned, x.cpu(), weight.cpu(), 1e-6)
        assert_close(again[0], reference.silu_mul(normed, total), False, f"step {step}")


@pytest.mark.parametrize("width", [1, 7, 64, 640, 1024, 1025, 4096, 5120, 8200, 20001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_norms_against_float64(width: int, dtype: torch.dtype) -> None:
    """At every way of a row through registers, aligned and not."""
    for offset in (0, 1):
        wide = torch.randn(2, 5, width + offset, device="cuda").to(dtype)
        x, residual = wide[0, :, offset:], wide[1, :, offset:]
        weight = torch.randn(width, device="cuda")
        out, total = torch.ops.rocmforge.add_rms_norm(x, residual, weight, 1e-6)
        assert torch.equal(total, x + residual)
        y = total.double()
        wanted = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * weight
        half_step = torch.finfo(dtype).eps / 2
        torch.testing.assert_close(out.double(), wanted, rtol=half_step + 2e-6, atol=1e-7)
        alone = torch.ops.rocmforge.rms_norm(total, weight, 1e-6)
        torch.testing.assert_close(alone.double(), wanted, rtol=half_step + 2e-6, atol=1e-7)


def test_rows_beyond_two_to_the_31_elements() -> None:
    width = 4096
    rows = 2**31 // width + 3
    if torch.cuda.mem_get_info()[0] < 4 * 2 * rows * width:
        pytest.skip("not enough free GPU memory")
    x = torch.zeros(rows, width, dtype=torch.float16, device="cuda")
    x[-1] = torch.randn(width)
    out = torch.ops.rocmforge.rms_norm(x, None, 1e-6)
    assert_close(out[-1], reference.rms_norm(x[-1].cpu(), None, 1e-6), False, "rms_norm")
    out = torch.ops.rocmforge.silu_mul(x, x)
    assert_close(out[-1], reference.silu_mul(x[-1].cpu(), x[-1].cpu()), False, "silu_mul")


def random_parameters(batch: int) -> tuple[Tensor, ...]:
    def pick(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (batch,))]

    _, _, _, _, seed, step = parameters(batch)
    return (
        pick([0.0, 0.3, 0.8, 1.0, 1.7, 50.0]).float(),
        pick([0, 0, 1, 2, 40, 300, 1900, 10**6]).long(),
        pick([1.0, 1.0, 0.0, 0.3, 0.9, 0.95, 0.999]).float(),
        pick([0.0, 0.0, 0.02, 0.3, 1.0, 1.5]).float(),
        seed,
        step,
    )


@pytest.mark.parametrize("vocab", [1, 2, 63, 1000, 4096, 4097, 32_003])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 4.0, 40.0])
def test_sample_chooses_what_the_cpu_does(vocab: int, spread: float) -> None:
    batch = 200 if vocab > 20_000 else 600
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits = (spread * torch.randn(batch, vocab)).to(dtype)
        args = random_parameters(batch)
        wanted = torch.ops.rocmforge.sample(logits, *args)
        got = torch.ops.rocmforge.sample(logits.cuda(), *(arg.cuda() for arg in args))
        different = (got.cpu() != wanted).nonzero().flatten().tolist()
        assert not different, [(row, [arg[row].item() for arg in args]) for row in different[:3]]


@pytest.mark.parametrize("vocab", [151_936, 262_144, 2**19, 600_001, 2**20 + 1])
def test_sample_of_real_vocabularies(vocab: int) -> None:
    """And larger ones, whose weights fill 64 bits where all tokens are equal."""
    for spread in (0.0, 0.5, 4.0):
        logits, args = spread * torch.randn(12, vocab), random_parameters(12)
        wanted = torch.ops.rocmforge.sample(logits, *args)
        got = torch.ops.rocmforge.sample(logits.cuda(), *(arg.cuda() for arg in args))
        assert torch.equal(got.cpu(), wanted)


def test_sample_of_more_rows_than_a_grid_holds() -> None:
    logits, args = torch.randn(70_000, 5), random_parameters(70_000)
    wanted = torch.ops.rocmforge.sample(logits, *args)
    got = torch.ops.rocmforge.sample(logits.cuda(), *(arg.cuda() for arg in args))
    assert torch.equal(got.cpu(), wanted)
