"""The overload `out` of every op on the GPU: the bits of the op, in the caller's memory."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from op_samples import SAMPLES, Sample
from test_contract import memory, op_of, opchecks
from test_out import (
    BAD_OUTS,
    BAND,
    WITH_OUT,
    filled_sample,
    named,
    out_of,
    poisoned,
    refusal,
    results_of,
    same_bits,
    side_by_side,
)
from torch import Tensor

import rocmforge_torch
from tests.gpu.fallbacks import by_reference
from tests.gpu.guards import GuardedMemory, guarded

pytestmark = pytest.mark.gpu
on_every_op = pytest.mark.parametrize("name", WITH_OUT)


def moved(sample: Sample) -> Sample:
    place = GuardedMemory("cuda")
    kwargs = {key: guarded(value, place) for key, value in sample.kwargs.items()}
    return Sample(tuple(guarded(a, place) for a in sample.args), kwargs, sample.name)


@on_every_op
def test_it_has_a_gpu_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{name}.out", "CUDA")


@on_every_op
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_results_are_those_of_the_op_and_nothing_outside_is_written(
    name: str, exact: bool, count_cases: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocmforge_torch.config, "exact", exact)
    samples = list(SAMPLES[name]())
    for number, sample in enumerate(samples):
        call = moved(sample)
        wanted = results_of(name, call)
        outs = [poisoned(result) for result in wanted]
        got = out_of(name)(*call.args, **call.kwargs, **named(outs))
        for a, out in zip(got if len(outs) > 1 else (got,), outs, strict=True):
            assert a is out
        assert all(map(same_bits, outs, wanted)), f"{name}[{number}] {sample.name}"
        for band in map(memory, outs):
            assert (band[:BAND] == 0xFF).all()
            assert (band[len(band) - BAND :] == 0xFF).all()
    count_cases(len(samples))


@on_every_op
def test_opcheck(name: str) -> None:
    every = list(SAMPLES[name]())
    for sample in every[:: -(-len(every) // 3)]:
        call = moved(sample)
        outs = [torch.empty_like(result) for result in results_of(name, call)]
        kwargs = call.kwargs | named(outs)
        torch.library.opcheck(out_of(name), call.args, kwargs, test_utils=opchecks(sample))


@on_every_op
def test_a_captured_call_writes_again_when_it_replays(name: str) -> None:
    call = moved(filled_sample(name, by_reference))
    wanted = results_of(name, call)
    read_at_once = [result.cpu() for result in wanted]
    outs = [poisoned(result) for result in wanted]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())  # the arguments and `outs` are written there
    with torch.cuda.stream(side):
        out_of(name)(*call.args, **call.kwargs, **named(outs))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out_of(name)(*call.args, **call.kwargs, **named(outs))
    for out in outs:
        memory(out).fill_(0xFF)
    graph.replay()
    if not all(map(same_bits, outs, wanted)):
        changed = not all(map(same_bits, wanted, (t.cuda() for t in read_at_once)))
        again = all(map(same_bits, outs, results_of(name, call)))
        off = [int((a != b).sum()) for a, b in zip(outs, wanted, strict=True)]
        where = [(a != b).nonzero()[:4].tolist() for a, b in zip(outs, wanted, strict=True)]
        pytest.fail(f"{off} differ, at {where}; eager: {changed=}, {again=} as replayed")


@on_every_op
@pytest.mark.parametrize("wrong", [wrong for wrong in BAD_OUTS if wrong != "device"])
def test_a_tensor_that_is_not_exactly_the_result_is_refused(name: str, wrong: str) -> None:
    make, match, _ = BAD_OUTS[wrong]
    call = moved(filled_sample(name))
    good = [poisoned(result) for result in results_of(name, call)]
    for i in range(len(good)):
        outs = named([make(out) if i == j else out for j, out in enumerate(good)])
        sentence = refusal(out_of(name), name, call.args, call.kwargs | outs)
        assert re.search(f": {list(outs)[i]} {match}", sentence), sentence
        assert all((memory(out) == 0xFF).all() for out in good)


@on_every_op
@pytest.mark.parametrize("on_gpu", ["arguments", "out"])
def test_arguments_and_results_are_on_one_device(name: str, on_gpu: str) -> None:
    sample = filled_sample(name)
    outs = [poisoned(result) for result in results_of(name, sample)]
    call = moved(sample) if on_gpu == "arguments" else sample
    given = [out.cuda() for out in outs] if on_gpu == "out" else outs
    sentence = refusal(out_of(name), name, call.args, call.kwargs | named(given))
    devices = ("cuda:0", "cpu") if on_gpu == "arguments" else ("cpu", "cuda:0")
    key = next(iter(named(given)))
    assert f"{key} must be on {devices[0]} as the arguments are, got {devices[1]}" in sentence
    assert all((memory(out) == 0xFF).all() for out in given)


@on_every_op
def test_results_may_not_overlap_an_argument(name: str) -> None:
    call = moved(filled_sample(name))
    wanted = results_of(name, call)
    for i, argument in enumerate(call.args):
        if not isinstance(argument, Tensor) or argument.numel() == 0:
            continue
        for shared in (0, 1):
            outs, args = [poisoned(result) for result in wanted], list(call.args)
            outs[0], args[i] = side_by_side(wanted[0], argument, shared)
            if shared:
                sentence = refusal(out_of(name), name, tuple(args), call.kwargs | named(outs))
                assert f"{next(iter(named(outs)))} shares memory with an argument" in sentence
            else:
                out_of(name)(*args, **call.kwargs, **named(outs))
                assert all(map(same_bits, outs, wanted))


def test_a_reference_is_not_captured() -> None:
    x, out = torch.randn(3, 256, device="cuda"), torch.zeros(3, 144, dtype=torch.uint8).cuda()
    graph = torch.cuda.CUDAGraph()
    sentence = "its reference cannot be captured in a graph"
    with pytest.raises(RuntimeError, match=sentence), torch.cuda.graph(graph):
        out_of("quantize")(x, 12, out=out)
    torch.cuda.synchronize()
    assert (out == 0).all()


@pytest.mark.parametrize("qtype", [12, 2], ids=["by the reference", "by a kernel"])
@pytest.mark.filterwarnings("ignore:.*its reference runs")
def test_a_type_without_a_kernel_is_quantized_into_out_too(qtype: int) -> None:
    x = torch.randn(3, 256, device="cuda")
    wanted = op_of("quantize")(x, qtype)
    out = poisoned(wanted)
    assert out_of("quantize")(x, qtype, out=out) is out
    assert same_bits(out, wanted)
