"""Every op keeps the contract on a GPU too: the samples of test_contract.py, moved there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from op_samples import BAD_SAMPLES, SAMPLES, BadSample, Sample
from test_contract import EXACT, OPS, assert_same, memory, op_of, outputs, refused
from torch import Tensor

from rocmforge_torch.ops import reference

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned_memory(exact: None) -> Iterator[None]:
    """As in test_contract.py: what no kernel wrote shows as NaN; products are in float."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(value: Any) -> Any:
    """A tensor's whole storage on the GPU, and the same view of it."""
    if not isinstance(value, Tensor):
        return value
    storage = memory(value).cuda().untyped_storage()
    moved = torch.empty(0, dtype=value.dtype, device="cuda")
    return moved.set_(storage, value.storage_offset(), value.shape, value.stride())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(memory(a.cpu()), memory(b.cpu()))


def moved_to_gpu(sample: Sample) -> Sample:
    kwargs = {key: on_gpu(value) for key, value in sample.kwargs.items()}
    return Sample(tuple(map(on_gpu, sample.args)), kwargs, sample.name)


@pytest.mark.parametrize("name", OPS)
def test_gpu_computes_what_the_reference_does(name: str) -> None:
    for number, sample in enumerate(SAMPLES[name]()):
        theirs = sample.copy()
        ours = moved_to_gpu(sample.copy())
        got = op_of(name)(*ours.args, **ours.kwargs)
        wanted = getattr(reference, name)(*theirs.args, **theirs.kwargs)
        label = f"{name}[{number}] {sample.name} {sample.kwargs}"
        on_cpu = [out.cpu() for out in outputs(got, ours)]
        assert_same(on_cpu, outputs(wanted, theirs), name in EXACT, label)


@pytest.mark.parametrize("name", OPS)
def test_a_hundred_runs_give_the_same_bits(name: str) -> None:
    sample = next(iter(SAMPLES[name]()))
    first: list[Tensor] = []
    for _ in range(100):
        call = moved_to_gpu(sample.copy())
        got = outputs(op_of(name)(*call.args, **call.kwargs), call)
        first = first or got
        assert all(same_bits(a, b) for a, b in zip(got, first, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_gpu_refuses_bad_input_with_the_sentence_of_the_cpu(name: str) -> None:
    """Not the values that say where to read: those are not looked at on a GPU."""
    for bad in BAD_SAMPLES[name]():
        if bad.on_meta:
            moved = moved_to_gpu(Sample(bad.args, bad.kwargs))
            on_gpu = BadSample(moved.args, bad.match, moved.kwargs)
            assert refused(op_of(name), name, on_gpu) == refused(op_of(name), name, bad)


def test_arguments_on_two_devices_get_the_sentence_of_the_shape_function() -> None:
    x, qweight = torch.randn(2, 32), torch.zeros(4, 34, dtype=torch.uint8)
    sentence = "qweight is on cpu but x is on cuda:0; they must be on one device"
    with pytest.raises(RuntimeError, match=sentence):
        torch.ops.rocmforge.quant_matmul(x.cuda(), qweight, 8)
