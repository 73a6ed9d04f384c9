"""Every op of the contract on the GPU: opcheck, graphs, devices, bands round every tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_samples import SAMPLES, Sample
from test_contract import OPS, op_of, outputs
from torch import Tensor

import rocmforge_torch
from tests.gpu.fallbacks import by_reference
from tests.gpu.guards import GuardedMemory, guarded

pytestmark = pytest.mark.gpu
OPCHECKS_PER_OP = 3
OPCHECK_TESTS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)
on_every_op = pytest.mark.parametrize("name", OPS)


def moved(sample: Sample, memory: GuardedMemory) -> Sample:
    kwargs = {key: guarded(value, memory) for key, value in sample.kwargs.items()}
    return Sample(tuple(guarded(a, memory) for a in sample.args), kwargs, sample.name)


def picked(name: str, count: int) -> list[Sample]:
    """So many samples of an op, spread over its list."""
    every = list(SAMPLES[name]())
    return every[:: -(-len(every) // count)]


def results(name: str, call: Sample) -> list[Tensor]:
    """What the op returns, and its arguments afterwards."""
    return outputs(op_of(name)(*call.args, **call.kwargs), call)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (a, b)))


def written(name: str, call: Sample) -> list[Tensor]:
    """The arguments that the op writes to."""
    arguments = zip(op_of(name)._schema.arguments, call.args, strict=False)
    return [t for a, t in arguments if a.alias_info and a.alias_info.is_write]


@on_every_op
def test_op_has_a_gpu_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{name}", "CUDA")


def is_8_bit_float(value: object) -> bool:
    floats = (torch.float8_e4m3fn, torch.float8_e5m2)
    return isinstance(value, Tensor) and value.dtype in floats


@on_every_op
def test_opcheck(name: str) -> None:
    memory = GuardedMemory("cuda")  # not entered: what the op allocates is its own
    for sample in picked(name, OPCHECKS_PER_OP):
        call = moved(sample.copy(), memory)
        tests = OPCHECK_TESTS
        if any(map(is_8_bit_float, call.args)):
            # It multiplies arguments to see whether they change; torch has no such product.
            tests = tuple(test for test in tests if test != "test_schema")
        torch.library.opcheck(op_of(name), call.args, call.kwargs, test_utils=tests)


@on_every_op
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_nothing_outside_is_read_or_written(
    name: str, exact: bool, count_cases: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are those of an ordinary call, to the bit, and every byte round them stays."""
    monkeypatch.setattr(rocmforge_torch.config, "exact", exact)
    samples = list(SAMPLES[name]())
    failed = []
    for number, sample in enumerate(samples):
        plain = moved(sample.copy(), GuardedMemory("cuda"))
        wanted = results(name, plain)
        with GuardedMemory("cuda") as memory:
            call = moved(sample.copy(), memory)
            for argument in written(name, call):
                memory.may_change(argument)
            got = results(name, call)
            same = all(map(same_bits, got, wanted))
            faults = memory.faults() + ([] if same else ["other results than of an ordinary call"])
        failed += [f"{name}[{number}] {sample.name}: {fault}" for fault in faults]
    count_cases(len(samples))
    assert not failed, "\n".join(failed)


@on_every_op
def test_a_captured_call_replays(name: str) -> None:
    """No op waits for the GPU or allocates behind a graph's back: replay gives the same bits."""
    for sample in picked(name, 4):
        if by_reference(name, sample):
            continue
        memory = GuardedMemory("cuda")
        wanted = results(name, moved(sample.copy(), memory))
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            results(name, moved(sample.copy(), memory))
        torch.cuda.synchronize()
        call, graph = moved(sample.copy(), memory), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = results(name, call)
        graph.replay()
        assert all(map(same_bits, got, wanted)), f"{name} {sample.name}"


@on_every_op
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one(name: str) -> None:
    torch.cuda.set_device(0)
    for sample in picked(name, 2):
        wanted = results(name, moved(sample.copy(), GuardedMemory("cuda:0")))
        got = results(name, moved(sample.copy(), GuardedMemory("cuda:1")))
        assert torch.cuda.current_device() == 0
        assert all(out.device.index == 1 for out in got)
        assert all(map(same_bits, (out.cpu() for out in got), (out.cpu() for out in wanted)))
