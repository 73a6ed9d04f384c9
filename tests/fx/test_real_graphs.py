"""Graphs of real models, by every tracer: optimised and original agree at every level."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import rocmforge_torch
from benchmarks.decode_graph import CachedStep
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch.fx import optimize
from tests.fx.in_double import run_in_double
from tests.fx.outcomes import Case, Outcome, assert_same, run
from tests.fx.real_models import LANGUAGE, VISION, VOCAB, language_model
from tests.fx.tracers import Traced, compiled, decomposed, exported, made, symbolic

Tracer = Callable[[nn.Module, Sequence[Any]], list[Traced]]
TRACERS: list[Tracer] = [symbolic, exported, decomposed, made, compiled]
EPS = torch.finfo(torch.float32).eps


def outcome(traced: Traced, gm: fx.GraphModule) -> Outcome:
    case = Case(gm, lambda: copy.deepcopy(traced.inputs))
    return run(case, gm, lambda gm, *inputs: pytree.tree_leaves(gm(*inputs)))


def rms(values: Sequence[Any]) -> float:
    floats = [t.double().flatten() for t in values if torch.is_tensor(t) and t.is_floating_point()]
    return torch.cat(floats).square().mean().sqrt().item()


def error(outputs: Sequence[Any], exact: Sequence[Any]) -> float:
    pairs = [(a, b) for a, b in zip(outputs, exact, strict=True) if torch.is_tensor(a)]
    return rms([a.double() - b.double() for a, b in pairs])


def calls(gm: fx.GraphModule, name: str) -> int:
    """How often the graph calls rocmforge::NAME."""
    return sum(str(n.target) == f"rocmforge.{name}.default" for n in gm.graph.nodes)


def check(traced: Traced, tolerance: Callable[[Outcome], float] | None = None) -> fx.GraphModule:
    """Levels 1 and 2 are the same to the bit, level 3 within `tolerance` of float64, or the same
    without one; a memory plan changes nothing. Returns the graph of level 3."""
    want = outcome(traced, traced.gm)
    before = str(traced.gm.graph)
    for level in (1, 2):
        assert_same(want, outcome(traced, optimize(traced.gm, traced.inputs, level=level)))
    gm = optimize(traced.gm, traced.inputs)
    got = outcome(traced, gm)
    if tolerance is None:  # there is nothing to fuse
        assert_same(want, got)
    else:
        assert error(got.outputs, want.outputs) <= tolerance(want)
    assert_same(got, outcome(traced, optimize(traced.gm, traced.inputs, level=4)))
    assert str(traced.gm.graph) == before
    assert_same(want, outcome(traced, traced.gm))
    return gm


def roundings(traced: Traced) -> Callable[[Outcome], float]:
    """Fused ops round less often than their parts. So both are as far from float64 as the original,
    and that far apart at most; one rounding of the result comes on top."""

    def tolerance(want: Outcome) -> float:
        exact = run_in_double(traced.gm, copy.deepcopy(traced.inputs))
        return 2 * error(want.outputs, exact) + EPS * rms(exact)

    return tolerance


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("tracer", TRACERS, ids=lambda t: t.__name__)
@pytest.mark.parametrize("name", VISION)
def test_vision(name: str, tracer: Tracer, training: bool) -> None:
    torch.manual_seed(0)
    module = VISION[name]().train(training)
    if not training:
        module.requires_grad_(False)
    for traced in tracer(module, [torch.randn(2, 8, 8, 8)]):
        check(traced)


def token_ids(batch: int, tokens: int) -> Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LANGUAGE)
def test_exported_language(name: str) -> None:
    (traced,) = exported(language_model(name), [token_ids(2, 9)])
    check(traced, roundings(traced))


@pytest.mark.parametrize("name", ["llama", "gemma3", "t5", "mamba"])
def test_decomposed_language(name: str) -> None:
    (traced,) = decomposed(language_model(name), [token_ids(2, 9)])
    check(traced, roundings(traced))


@pytest.mark.parametrize("name", LANGUAGE)
def test_compiled_language(name: str) -> None:
    for traced in compiled(language_model(name), [token_ids(2, 9)]):
        check(traced, roundings(traced))


# Products before and after, of two layers and the output: query, key and value become one, and so
# do gate and up, which an activation that we have an op for joins. Then norms that follow a sum, of
# models that have RMS norms.
QUANTIZED = {
    "llama": (15, 7, 2, 4),
    "qwen2": (15, 7, 2, 4),
    "qwen3": (15, 7, 2, 4),
    "gemma2": (15, 7, 2, 4),
    "gemma3": (15, 7, 2, 4),
    "phi3": (9, 7, 2, 4),  # whose matrices come merged
    "bert": (13, 8, 0, 0),  # with a pooler that nobody reads
    "t5": (14, 8, 0, 4),
    "mamba": (7, 7, 0, 2),
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_language(name: str) -> None:
    # More rows than norms join products for.
    (traced,) = exported(language_model(name, quantized=True), [token_ids(3, 43)])
    gm = check(traced, roundings(traced))
    before, after, gated, normed = QUANTIZED[name]
    assert calls(traced.gm, "quant_matmul") == before
    assert calls(gm, "quant_matmul") == after
    assert calls(gm, "quant_matmul_gated") == gated
    assert calls(gm, "add_rms_norm") == normed


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("tracer", [exported, decomposed, made], ids=lambda t: t.__name__)
@pytest.mark.parametrize("preset", ["llama-small", "gemma3-small"])
@pytest.mark.parametrize("batch", [2, 129])
def test_our_decoding_step(preset: str, tracer: Tracer, batch: int, tmp_path: Path) -> None:
    """A model of ours with its cache: of seven products a layer four are left, one of them gated.
    Of up to 128 rows the norms before them join in, except the last, of which rows are taken."""
    path = write_model(tmp_path / "model.gguf", replace(PRESETS[preset], layers=2))
    model = rocmforge_torch.load_model(path, fuse=False)
    step = CachedStep(model, batch, context=8)
    inputs = [torch.arange(7, 7 + batch)[:, None], 5 * torch.arange(batch) % 7]
    few = batch <= 128
    for traced in tracer(step, inputs):
        gm = check(traced, lambda want: 16 * EPS * rms(want.outputs))
        assert calls(traced.gm, "quant_matmul") == 15
        assert calls(gm, "quant_matmul") == (5 if few else 7)
        assert calls(gm, "quant_matmul_gated") == (0 if few else 2)
        assert calls(gm, "norm_quant_matmul") == (4 if few else 0)
        assert (calls(gm, "rms_norm"), calls(gm, "add_rms_norm")) == ((0, 1) if few else (1, 4))
        if tracer is not decomposed:  # which wraps ops that write
            assert calls(gm, "rope_kv_cache_write_") == 2


@pytest.mark.parametrize("name", ["llama", "gemma3", "bert"])
def test_symbolic_sizes(name: str) -> None:
    """A graph for any length, optimised by its symbols, is right at every length."""
    length = torch.export.Dim("length", min=2, max=48)
    shapes = {"ids": {1: length}}
    program = torch.export.export(language_model(name), (token_ids(2, 9),), dynamic_shapes=shapes)
    gm = program.module()
    symbols = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    for level in (2, 3):
        optimized = optimize(gm, symbols, level=level)
        for tokens in (2, 9, 31):
            ids = token_ids(2, tokens)
            atol = 0 if level < 3 else 1e-6
            torch.testing.assert_close(optimized(ids), gm(ids), rtol=0, atol=atol)
