"""Einsum over quantized matrices: products stay quantized, others are as `fallback` says."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator

import pytest
import torch
from einops import einsum as named_einsum
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rocmforge_torch import config
from rocmforge_torch.tensor.einsum import matrix_product
from tests.tensor.quantized import quantized

N, K = 64, 96
SIZES = {"n": N, "k": K, "a": 2, "b": 3, "c": 5}
CLOSE = {"rtol": 0.0, "atol": K * 2**-23 * K * 36}  # as in test_tensor_products.py

PRODUCTS = [
    *("...k,nk->...n", "...k, nk -> ...n", "nk,...k->...n", "bk,nk->bn", "bk,nk->nb", "k,nk->n"),
    *("nk,k->n", "k,nk", "abk,nk->abn", "akb,nk->abn", "akb,nk->nba", "kab,nk->anb", "abk,nk->bna"),
    *("...n,nk->...k", "nb,nk->bk", "bn,nk->kb", "n,nk", "bk,nk", "kb,nk", "...kb,nk->...nb"),
    *("...bk,nk->...nb", "nk,kb->nb", "nk,kb", "...k,nk"),
]
OTHERS = ["bk,nk->b", "bk,nk->bnk", "nk,nk->n", "kk,nk->kn", "bb,nk->bnk", "nk->n"]


class Ops(TorchDispatchMode):
    """The names of the ops that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def operands(equation: str, weight: Tensor) -> list[Tensor]:
    """Random numbers for the terms that are not of the matrix, whose indices are n and k."""
    torch.manual_seed(len(equation))
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    found = []
    for term in terms:
        if term == "nk":
            found.append(weight)
        else:
            shape = [
                size
                for part in term.replace("...", "*")
                for size in ((2, 3) if part == "*" else (SIZES[part],))
            ]
            found.append(torch.randn(shape))
    return found


@pytest.fixture
def fallback() -> Iterator[None]:
    config.fallback = "dequantize"
    yield
    config.fallback = "error"


@pytest.mark.parametrize("equation", PRODUCTS)
@pytest.mark.usefixtures("exact")
def test_products_are_computed_on_blocks(equation: str) -> None:
    weight = quantized("Q8_0", N, K)
    values = operands(equation, weight)
    expected = torch.einsum(equation, *(v.dequantize() if v is weight else v for v in values))
    for x in values:
        if x is not weight:
            x.requires_grad_()
    with Ops() as ran:
        found = torch.einsum(equation, *values)
    assert type(found) is Tensor
    assert any("rocmforge::quant_matmul" in name for name in ran.names)
    assert not any("dequantize" in name for name in ran.names)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.requires_grad
    assert torch.equal(torch.einsum(equation, values), found)  # the old form, with a list


def test_every_order_of_indices_is_that_of_numpy() -> None:
    """All equations over three indices of x, one of which is summed over, and both ways to write
    the matrix, against einsum itself on small ordinary tensors."""
    sizes = {"a": 2, "b": 3, "k": 4, "n": 5}
    checked = 0
    for x_term in map("".join, itertools.permutations("abk")):
        for matrix_term in ("nk", "kn"):
            matrix = torch.randn([sizes[c] for c in matrix_term])
            x = torch.randn([sizes[c] for c in x_term])
            for out in (*map("".join, itertools.permutations("abn")), None):
                arrow = "" if out is None else f"->{out}"
                equation = f"{x_term},{matrix_term}{arrow}"
                found = matrix_product(equation, 1)
                assert found is not None
                by_hand = x.movedim(found.last, -1) @ (matrix.T if found.by_rows else matrix)
                by_hand = by_hand.permute([3 + i for i in reversed(found.order)])
                torch.testing.assert_close(by_hand, torch.einsum(equation, x, matrix))
                checked += 1
    assert checked == 6 * 2 * 7


@pytest.mark.parametrize("equation", OTHERS)
def test_others_are_errors_by_default(equation: str) -> None:
    with pytest.raises(NotImplementedError, match=r"no quantized form .*\.dequantize\(\)"):
        torch.einsum(equation, *operands(equation, quantized("Q8_0", N, K)))


@pytest.mark.usefixtures("exact", "fallback")
def test_random_equations_are_computed_or_dequantized() -> None:
    """Whatever torch accepts has torch's result, whichever way it went."""
    rng, weight = random.Random(0), quantized("Q8_0", 32, 32)
    ways = {True: 0, False: 0}
    for _ in range(300):
        x_term = "".join(rng.choices("abkn", k=rng.randint(1, 4)))
        out = "".join(rng.sample("abkn", rng.randint(0, 4)))
        if rng.random() < 0.3:
            x_term, out = "..." + x_term, "..." + out
        equation = f"{x_term},nk" + (f"->{out}" if rng.random() < 0.8 else "")
        sizes = {"a": 2, "b": 3, "k": 32, "n": 32}
        x = torch.randn([2] * x_term.startswith("...") + [sizes[c] for c in x_term.strip(".")])
        try:
            expected = torch.einsum(equation, x, weight.dequantize())
        except RuntimeError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.einsum(equation, x, weight)
        ways[matrix_product(equation, 1) is not None] += 1
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    assert min(ways.values()) > 20, ways


@pytest.mark.usefixtures("exact")
def test_einops_and_sublists() -> None:
    weight, x = quantized("Q8_0", N, K), torch.randn(3, K)
    expected = x @ weight.t()
    assert torch.equal(named_einsum(x, weight, "batch k, n k -> batch n"), expected)
    assert torch.equal(torch.einsum(x, [0, 1], weight, [2, 1], [0, 2]), expected)


def test_transposing_stays_a_view() -> None:
    weight = quantized("Q8_0", N, K)
    assert torch.equal(torch.einsum("nk->kn", weight).dequantize(), weight.dequantize().T)


@pytest.mark.usefixtures("exact")
def test_a_transposed_matrix_a_packed_one_and_a_gradient() -> None:
    weight, x = quantized("Q8_0", N, K), torch.randn(3, K)
    expected = x @ weight.dequantize().T
    for equation, w in (("bk,kn->bn", weight.t()), ("bk,nk->bn", weight.packed())):
        torch.testing.assert_close(torch.einsum(equation, x, w), expected, **CLOSE)
    w = quantized("Q8_0", N, K).requires_grad_()
    torch.einsum("bk,nk->bn", x, w).sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand(N, K), rtol=1e-5, atol=1e-5)


def test_a_size_of_one_is_no_product() -> None:
    """Einsum spreads it; a product must not be asked to."""
    with pytest.raises(NotImplementedError, match="no quantized form"):
        torch.einsum("bk,nk->bn", torch.randn(3, 1), quantized("Q8_0", N, K))


@pytest.mark.usefixtures("exact")
def test_compiled() -> None:
    weight, x = quantized("Q8_0", N, K), torch.randn(2, 3, K)
    compiled = torch.compile(
        lambda x: torch.einsum("abk,nk->nba", x, weight), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), torch.einsum("abk,nk->nba", x, weight))
