"""The overload `out` of every op that returns new tensors, on the samples of its contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_samples import BAD_SAMPLES, Sample
from op_samples.base import on_meta, randn
from test_contract import OPCHECKS_PER_OP, OPS, OVERLOADS, memory, op_of, opchecks, samples_of
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

import rocmforge_torch
from rocmforge_torch.ops.registry import FALLBACKS, NAMESPACE

ops = torch.ops.rocmforge
WITH_OUT = [name for name in OPS if f"{name}.out" in OVERLOADS]
BAND = 64  # bytes
on_every_op = pytest.mark.parametrize("name", WITH_OUT)


def out_of(name: str) -> Any:
    return getattr(ops, name).out


def results_of(name: str, sample: Sample) -> tuple[Tensor, ...]:
    result = op_of(name)(*sample.args, **sample.kwargs)
    return result if isinstance(result, tuple) else (result,)


def poisoned(like: Tensor) -> Tensor:
    """Memory for such a result, all ones, with bands round it."""
    size = like.numel() * like.element_size()
    everything = torch.full((2 * BAND + size,), 0xFF, dtype=torch.uint8, device=like.device)
    return everything[BAND : BAND + size].view(like.dtype).view(like.shape)


def named(outs: list[Tensor]) -> dict[str, Tensor]:
    return {"out": outs[0]} if len(outs) == 1 else {f"out{i}": out for i, out in enumerate(outs)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    same_form = a.shape == b.shape and a.dtype == b.dtype
    return same_form and torch.equal(*(t.flatten().view(torch.uint8) for t in (a, b)))


def test_every_op_that_returns_new_tensors_has_one() -> None:
    assert [name for name in OPS if not name.endswith("_")] == WITH_OUT


@on_every_op
def test_it_has_a_cpu_kernel(name: str) -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}.out", "CPU")
    assert has is (name not in ("pack_weight", "unpack_weight"))  # the reference is theirs


@on_every_op
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_results_are_those_of_the_op_and_nothing_else_is_written(
    name: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocmforge_torch.config, "exact", exact)
    for sample in samples_of(name):
        wanted = results_of(name, sample)
        for run in (out_of(name), FALLBACKS[f"{name}.out"]):
            call, outs = sample.copy(), [poisoned(result) for result in wanted]
            places = [out.data_ptr() for out in outs]
            got = run(*call.args, **call.kwargs, **named(outs))
            for a, out in zip(got if len(outs) > 1 else (got,), outs, strict=True):
                assert a is out
            assert [out.data_ptr() for out in outs] == places
            assert all(map(same_bits, outs, wanted)), f"{name}: {sample.name}"
            for out in outs:
                band = memory(out)
                assert (band[:BAND] == 0xFF).all()
                assert (band[len(band) - BAND :] == 0xFF).all()
            for before, after in zip(sample.args, call.args, strict=True):
                if isinstance(before, Tensor):
                    assert torch.equal(memory(before), memory(after))


@on_every_op
def test_opcheck(name: str) -> None:
    every = samples_of(name)
    for sample in every[:: -(-len(every) // OPCHECKS_PER_OP)]:
        call = sample.copy()
        outs = [torch.empty_like(result) for result in results_of(name, call)]
        kwargs = call.kwargs | named(outs)
        torch.library.opcheck(out_of(name), call.args, kwargs, test_utils=opchecks(sample))


def filled_sample(
    name: str, without: Callable[[str, Sample], bool] = lambda name, sample: False
) -> Sample:
    """The first sample whose results have several elements, and that `without` does not name."""
    for sample in samples_of(name):
        if not without(name, sample) and all(r.numel() > 1 for r in results_of(name, sample)):
            return sample
    raise AssertionError(f"{name} has no sample with results")


def apart(out: Tensor) -> Tensor:
    """The same shape with every second element."""
    return out.new_empty((*out.shape, 2))[..., 0]


def misplaced(out: Tensor) -> Tensor:
    """One element past an aligned address."""
    return out.new_empty(out.numel() + 1)[1:].view(out.shape)


def other_dtype(out: Tensor) -> Tensor:
    return out.to(torch.float64 if out.dtype == torch.float32 else torch.float32)


# What is wrong -> how to make it of a good tensor, the sentence, whether a fake tensor shows it.
BAD_OUTS: dict[str, tuple[Callable[[Tensor], Tensor], str, bool]] = {
    "dtype": (other_dtype, "must be .*, got float", True),
    "shape": (lambda out: out[None], r"must have shape \[.*\], got \[1, ", True),
    "longer": (lambda out: torch.cat([out, out]), r"must have shape \[.*\], got \[", True),
    "empty": (lambda out: out[:0], r"must have shape \[.*\], got \[0", True),
    "strides": (apart, r"must be contiguous, got strides \[", True),
    "start": (misplaced, "must start at a multiple of 16 bytes, got [1-8] more", False),
    "device": (lambda out: out.to("meta"), "must be on cpu as the arguments are, got meta", False),
}


def refusal(run: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Any) -> str:
    """The sentence that refuses the call."""
    with pytest.raises(RuntimeError, match=f"^{NAMESPACE}::{name}: ") as error:
        run(*args, **kwargs)
    return str(error.value)


@on_every_op
@pytest.mark.parametrize("wrong", BAD_OUTS)
def test_a_tensor_that_is_not_exactly_the_result_is_refused(name: str, wrong: str) -> None:
    make, match, shown_by_fake = BAD_OUTS[wrong]
    sample = filled_sample(name)
    good = [poisoned(result) for result in results_of(name, sample)]
    for i in range(len(good)):
        outs = named([make(out) if i == j else out for j, out in enumerate(good)])
        kwargs = sample.kwargs | outs
        sentence = refusal(out_of(name), name, sample.args, kwargs)
        assert re.search(f": {list(outs)[i]} {match}", sentence), sentence
        assert refusal(FALLBACKS[f"{name}.out"], name, sample.args, kwargs) == sentence
        if shown_by_fake:
            fakes = {key: on_meta(value) for key, value in kwargs.items()}
            args = tuple(map(on_meta, sample.args))
            assert refusal(out_of(name), name, args, fakes) == sentence
        for out in good:
            assert (memory(out) == 0xFF).all()


@on_every_op
def test_bad_arguments_are_refused_as_by_the_op(name: str) -> None:
    some = results_of(name, filled_sample(name))
    for bad in BAD_SAMPLES[name]():
        # Values are looked at last: the tensors for the results must be right.
        forms = some if bad.on_meta else results_of(name, Sample(tuple(map(on_meta, bad.args))))
        outs = named([poisoned(torch.empty_like(form, device="cpu")) for form in forms])
        sentence = refusal(op_of(name), name, bad.args, bad.kwargs)
        for run in (out_of(name), FALLBACKS[f"{name}.out"]):
            assert refusal(run, name, bad.args, bad.kwargs | outs) == sentence


def side_by_side(out: Tensor, argument: Tensor, shared: int) -> tuple[Tensor, Tensor]:
    """Both in one storage, the argument last; `shared` is how many elements of it lie in out."""
    size, step = out.numel() * out.element_size(), argument.element_size()
    begin = -(-size // step) - shared
    storage = torch.full(
        (size + (argument.numel() + 1) * step,), 0xFF, dtype=torch.uint8, device=out.device
    )
    there = torch.empty(0, dtype=argument.dtype, device=out.device)
    there.set_(storage.untyped_storage(), begin, argument.shape)
    return storage[:size].view(out.dtype).view(out.shape), there.copy_(argument)


@on_every_op
@pytest.mark.parametrize("shared", [0, 1])
def test_results_may_touch_an_argument_but_not_overlap_it(name: str, shared: int) -> None:
    sample = filled_sample(name)
    for i, argument in enumerate(sample.args):
        if not isinstance(argument, Tensor) or argument.numel() == 0:
            continue
        wanted = results_of(name, sample)
        for run in (out_of(name), FALLBACKS[f"{name}.out"]):
            for j in range(len(wanted)):
                outs, args = [poisoned(result) for result in wanted], list(sample.args)
                outs[j], args[i] = side_by_side(wanted[j], argument, shared)
                before = memory(outs[j]).clone()
                if shared:
                    sentence = refusal(run, name, tuple(args), sample.kwargs | named(outs))
                    key = list(named(outs))[j]
                    assert f": {key} shares memory with an argument or" in sentence
                    assert torch.equal(memory(outs[j]), before)
                else:
                    run(*args, **sample.kwargs, **named(outs))
                    assert all(map(same_bits, outs, wanted))


def test_two_results_must_lie_apart() -> None:
    x, buffer = randn(4, 8), torch.empty(7, 8)
    for run in (ops.add_rms_norm.out, FALLBACKS["add_rms_norm.out"]):
        kwargs = {"out0": buffer[:4], "out1": buffer[3:]}
        sentence = refusal(run, "add_rms_norm", (x, x, None, 1e-5), kwargs)
        assert "out1 shares memory with an argument or with another result" in sentence


def test_a_packet_is_the_op_or_its_overload() -> None:
    x, out = randn(4, 8), torch.empty(4, 8)
    wanted = ops.rms_norm.default(x, None, 1e-5)
    assert torch.equal(ops.rms_norm(x, None, 1e-5), wanted)
    assert ops.rms_norm(x, None, eps=1e-5, out=out) is out
    assert torch.equal(out, wanted)


@on_every_op
def test_tensors_that_need_a_gradient_are_refused(name: str) -> None:
    sample = filled_sample(name)
    outs = named([torch.empty_like(result) for result in results_of(name, sample)])
    given = dict(zip((a.name for a in op_of(name)._schema.arguments), sample.args, strict=False))
    for key, value in (given | outs).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize > 1:
            call = given | outs | {key: value.clone().requires_grad_()}
            sentence = refusal(out_of(name), name, (), call)
            assert f"{key} requires a gradient, but writing to out has no derivative" in sentence
            with torch.no_grad():
                out_of(name)(**call)


def test_autograd_notices_that_a_saved_tensor_was_written_to() -> None:
    x, buffer = randn(4, 8), randn(4, 8)
    weight = torch.ones(4, 8, requires_grad=True)
    product = weight * buffer
    ops.rms_norm.out(x, None, 1e-5, out=buffer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_compiled_call_writes_too_and_is_the_op_itself_in_the_graph() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(gm: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(gm)
        return gm

    def step(x: Tensor, total: Tensor) -> Tensor:
        normed = torch.empty_like(x)
        ops.add_rms_norm.out(x, total * 2, None, 1e-5, out0=normed, out1=total)
        return normed + total

    compiled = torch.compile(step, backend=aot_autograd(fw_compiler=backend), fullgraph=True)
    x = randn(4, 8)
    ours = randn(4, 8)
    normed, total = ops.add_rms_norm(x, ours * 2, None, 1e-5)
    with torch.no_grad():
        got = compiled(x, ours)
    assert torch.equal(ours, total)
    assert torch.equal(got, normed + total)
    targets = [node.target for node in graphs[0].graph.nodes]
    assert ops.add_rms_norm.default in targets
