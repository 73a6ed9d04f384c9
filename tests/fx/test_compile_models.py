"""Every architecture under torch.compile, without a graph break, at few compilations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import (
    ARCHITECTURES,
    ROOM,
    decoder,
    graphs_compiled,
    ids,
    new_cache,
    no_more_graphs,
    run,
)
from tiny_models import TINY
from torch._inductor.utils import run_and_get_code

from rocmforge_torch import models

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
# Models of which torch.compile finds out by itself which sizes change.
SIZES_FOUND_OUT = {*ARCHITECTURES.values(), "phi3-longrope"}


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal but for what is rounded elsewhere: a few units in the last place of the largest."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_every_architecture_is_here() -> None:
    assert set(ARCHITECTURES) == set(models.ARCHITECTURES)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "level"),
    [*((name, 2) for name in TINY), ("gemma3", 4), ("phi3", 4), ("starcoder2", 4)],
)
def test_plain(name: str, level: int) -> None:
    """Bit for bit; one compilation for prefill, one for decoding, one more of each when lengths or
    the batch first change, none after that. Further models of an architecture are told that sizes
    change, which saves those that come of it."""
    model, eager = decoder(name), decoder(name)
    options = {"inductor": False, "level": level, "disable": ["fuse"]}
    dynamic = None if name in SIZES_FOUND_OUT else True
    function = torch.compile(
        model, backend="rocmforge", fullgraph=True, dynamic=dynamic, options=options
    )
    before = graphs_compiled()
    for batch, most in ((3, 3), (5, 5)) if dynamic is None else ((3, 2), (5, 2)):
        ours, theirs = new_cache(model, batch), new_cache(eager, batch)
        places = [t.data_ptr() for t in (*ours.k, *ours.v)]
        for got, want in zip(run(function, ours), run(eager, theirs), strict=True):
            assert torch.equal(got, want)
        used = int(ours.lengths[0])
        for a, b in zip((*ours.k, *ours.v), (*theirs.k, *theirs.v), strict=True):
            assert torch.equal(a[:, :used], b[:, :used])
        assert [t.data_ptr() for t in (*ours.k, *ours.v)] == places
        assert ours.lengths.tolist() == [15] * batch
        assert ours.longest == 15
        assert graphs_compiled() - before <= most
    with no_more_graphs():
        run(function, new_cache(model, 4))


@torch.inference_mode()
def test_dynamic_shapes_compile_once() -> None:
    model = decoder("llama")
    options = {"inductor": False, "level": 2}
    function = torch.compile(
        model, backend="rocmforge", fullgraph=True, dynamic=True, options=options
    )
    before = graphs_compiled()
    for batch in (5, 3, 7):
        got = run(function, new_cache(model, batch))
        want = run(model, new_cache(model, batch))
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert graphs_compiled() - before == 2  # prefill and decoding


@torch.inference_mode()
def test_a_compiled_step_never_compiles_again() -> None:
    model = decoder("qwen3")
    hidden = torch.compile(
        model.hidden, backend="rocmforge", fullgraph=True, options={"inductor": False}
    )
    ours, theirs = new_cache(model, 3), new_cache(model, 3)
    tokens = ids(3, ROOM)
    for cache in (ours, theirs):
        model(tokens[:, :6], cache)
    got = hidden(tokens[:, 6:7].clone(), ours.advance(1), ours)
    with no_more_graphs():
        for t in range(7, ROOM):
            got = hidden(tokens[:, t : t + 1].clone(), ours.advance(1), ours)
    for t in range(6, ROOM):
        want = model.hidden(tokens[:, t : t + 1], theirs.advance(1), theirs)
    close(got, want)


@torch.inference_mode()
def test_a_full_cache() -> None:
    model = decoder("llama")
    function = torch.compile(model, backend="rocmforge", options={"inductor": False})
    cache = new_cache(model, 2)
    function(ids(2, ROOM), cache)
    with pytest.raises(ValueError, match="holds 31 tokens a sequence, 31 are taken and 1 more"):
        function(ids(2, 1), cache)


@torch.inference_mode()
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_default_backend(architecture: str) -> None:
    model = decoder(ARCHITECTURES[architecture])
    function = torch.compile(model, fullgraph=True)
    ours, theirs = new_cache(model, 3), new_cache(model, 3)
    tokens = ids(3, 8)
    for piece in (tokens[:, :7], tokens[:, 7:]):
        close(function(piece.clone(), ours), model(piece, theirs))


@torch.inference_mode()
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("backend", ["inductor", "rocmforge"])
def test_inductor_copies_no_cache(backend: str) -> None:
    model = decoder("gemma3", layers=2)
    function: Any = torch.compile(model, backend=backend, fullgraph=True)
    ours, theirs = new_cache(model, 3), new_cache(model, 3)
    tokens = ids(3, 1)
    with torch._inductor.config.patch(force_disable_caches=True):
        got, (code,) = run_and_get_code(function, tokens, ours)
    close(got, model(tokens, theirs))
    assert "kv_cache_write_" in code
    assert f"empty_strided_cpu(({', '.join(map(str, ours.k[0].shape))})" not in code
    assert "auto_functionalized" not in code
