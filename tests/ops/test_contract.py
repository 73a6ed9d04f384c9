"""Every op of `torch.ops.rocmforge` keeps the contract, on the samples in tests/ops/op_samples.

The ops are taken from the dispatcher, so that one which somebody only registers fails here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from op_samples import BAD_SAMPLES, SAMPLES, BadSample, Sample
from op_samples.base import ATOL, RTOL, on_meta
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.registry import FALLBACKS, NAMESPACE

OVERLOADS = {
    name.removeprefix(f"{NAMESPACE}::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(f"{NAMESPACE}::")
}
OPS = sorted({name.partition(".")[0] for name in OVERLOADS})

# Opcheck takes about half a second a sample; the first of each kind say enough.
OPCHECKS_PER_OP = 8


@pytest.fixture(autouse=True)
def poisoned_memory(exact: None) -> Iterator[None]:
    """Uninitialised memory holds NaN and the largest integers, so that what no kernel wrote shows.

    Quantized products are computed in float: the reference knows no other way.
    """
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def op_of(name: str) -> Any:
    return getattr(torch.ops.rocmforge, name).default


def samples_of(name: str) -> list[Sample]:
    return list(SAMPLES[name]())


def memory(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's whole storage."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage())


def outputs(result: Any, sample: Sample) -> list[Tensor]:
    """What a call gave and what it may have written: results, then every tensor argument."""
    results = result if isinstance(result, tuple) else (result,)
    everything = (*results, *sample.args, *sample.kwargs.values())
    return [value for value in everything if isinstance(value, Tensor)]


def assert_same(got: list[Tensor], wanted: list[Tensor], exact: bool, name: str) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        tolerance = {"rtol": 0.0, "atol": 0.0}
        if not exact and a.dtype in RTOL:
            # Sums cancel: what rounding leaves is measured by the largest of their neighbours.
            size = max(1.0, float(b.float().nan_to_num().abs().max())) if b.numel() else 1.0
            tolerance = {"rtol": RTOL[a.dtype], "atol": ATOL[a.dtype] * size}
        torch.testing.assert_close(a, b, equal_nan=True, msg=lambda m: f"{name}: {m}", **tolerance)


def test_the_dispatcher_knows_the_ops_of_the_contract() -> None:
    assert len(OPS) >= 14
    assert set(FALLBACKS) == OVERLOADS


@pytest.mark.parametrize("name", OPS)
def test_op_has_samples_and_bad_samples(name: str) -> None:
    assert len(samples_of(name)) >= 5
    assert len(list(BAD_SAMPLES[name]())) >= 4
    assert callable(getattr(reference, name))


@pytest.mark.parametrize("name", OPS)
def test_op_has_a_cpu_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CPU")


# Dequantized and quantized bits, moved bytes and choices are the same everywhere.
EXACT = {"dequantize", "quantize", "quant_embedding", "kv_cache_write_", "accumulate_", "sample"}
EXACT |= {"pack_weight", "unpack_weight"}


@pytest.mark.parametrize("name", OPS)
def test_kernel_computes_what_the_reference_does(name: str) -> None:
    for number, sample in enumerate(samples_of(name)):
        ours, theirs = sample.copy(), sample.copy()
        got = op_of(name)(*ours.args, **ours.kwargs)
        wanted = getattr(reference, name)(*theirs.args, **theirs.kwargs)
        label = f"{name}[{number}] {sample.name} {sample.kwargs}"
        assert_same(outputs(got, ours), outputs(wanted, theirs), name in EXACT, label)
        assert not any(out.isnan().any() for out in outputs(got, Sample(()))), f"NaN in {label}"


@pytest.mark.parametrize("name", OPS)
def test_only_declared_arguments_change(name: str) -> None:
    schema = op_of(name)._schema
    written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    for sample in samples_of(name):
        call = sample.copy()
        op_of(name)(*call.args, **call.kwargs)
        for argument, before, after in zip(schema.arguments, sample.args, call.args, strict=False):
            if isinstance(before, Tensor) and argument.name not in written:
                assert torch.equal(memory(before), memory(after)), f"{name} wrote {argument.name}"


@pytest.mark.parametrize("name", OPS)
def test_shape_function_agrees_with_the_kernel(name: str) -> None:
    for sample in samples_of(name):
        real = sample.copy()
        got = op_of(name)(*real.args, **real.kwargs)
        fake = op_of(name)(
            *map(on_meta, sample.args), **{k: on_meta(v) for k, v in sample.kwargs.items()}
        )
        for a, b in zip(outputs(got, Sample(())), outputs(fake, Sample(())), strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype), sample.name


def opchecks(sample: Sample) -> tuple[str, ...]:
    """Torch's checks of an op. That of its schema multiplies, which 8-bit floats cannot."""
    checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    tensors = [arg for arg in sample.args if isinstance(arg, Tensor)]
    narrow = any(arg.is_floating_point() and arg.itemsize == 1 for arg in tensors)
    return checks if narrow else ("test_schema", *checks)


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    every = samples_of(name)
    for sample in every[:: -(-len(every) // OPCHECKS_PER_OP)]:
        call = sample.copy()
        torch.library.opcheck(op_of(name), call.args, call.kwargs, test_utils=opchecks(sample))


def refused(run: Callable[..., Any], name: str, bad: BadSample) -> str:
    """The sentence that refuses the sample."""
    args = tuple(a.clone() if isinstance(a, Tensor) and a.is_contiguous() else a for a in bad.args)
    with pytest.raises(RuntimeError, match=f"(?s)rocmforge::{name}: .*{bad.match}") as error:
        run(*args, **bad.kwargs)
    for before, after in zip(bad.args, args, strict=True):
        if isinstance(before, Tensor) and before.device.type == "cpu":
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    return str(error.value)


@pytest.mark.parametrize("name", OPS)
def test_kernel_shape_function_and_fallback_refuse_bad_input_with_one_sentence(name: str) -> None:
    for bad in BAD_SAMPLES[name]():
        sentence = refused(op_of(name), name, bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "its reference runs"
            assert refused(FALLBACKS[name], name, bad) == sentence
        if bad.on_meta:
            kwargs = {k: on_meta(v) for k, v in bad.kwargs.items()}
            meta = BadSample(tuple(map(on_meta, bad.args)), bad.match, kwargs)
            assert refused(op_of(name), name, meta) == sentence


def test_fallback_warns_once() -> None:
    from rocmforge_torch.ops.registry import _fallback

    run = _fallback("rms_norm", lambda *args: None, reference.rms_norm, None)
    x = torch.randn(2, 8)
    with pytest.warns(RuntimeWarning, match="rms_norm has no cpu kernel here; its reference runs"):
        run(x, None, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(run(x, None, 1e-6), reference.rms_norm(x, None, 1e-6))
