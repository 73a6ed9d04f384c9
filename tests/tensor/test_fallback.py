"""What has no quantized form: an error that says what to do, or dequantizing with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rocmforge_torch import GGUFTensor, config
from tests.tensor.quantized import COLS, numbers, quantized


@pytest.fixture
def dequantize() -> Iterator[None]:
    config.fallback = "dequantize"
    yield
    config.fallback = "error"


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("aten.add.Tensor", lambda w: w + 1),
        ("aten.mul.Tensor", lambda w: 2 * w),
        ("two GGUFTensors are multiplied", lambda w: w @ w.t()),
        ("aten.sum.default", lambda w: w.sum()),
        ("aten.max.default", lambda w: w.max()),
        ("they differ: Q4_0, Q8_0", lambda w: torch.cat([w, quantized("Q4_0")])),
        ("some are ordinary", lambda w: torch.cat([w, torch.zeros(1, COLS)])),
        ("40 of a row's elements are no whole blocks of Q8_0", lambda w: w.narrow(1, 0, 40)),
        ("no whole blocks", lambda w: w.view(-1, 8)),
        ("a step of 2", lambda w: w[:, ::2]),
        ("dimension 1 of 2 runs along", lambda w: w[:, 3]),
        ("dimension 0 of 1 runs along", lambda w: w[0][5]),
        ("an index along", lambda w: w[torch.tensor([0]), torch.tensor([1])]),
        ("cannot be contiguous", lambda w: w.t().contiguous()),
        ("look-ups need rows", lambda w: F.embedding(torch.tensor([0]), w.t())),
        ("aten.add_.Tensor", lambda w: w.add_(1)),
        ("aten.zero_.default", lambda w: w.zero_()),
        ("aten.embedding_renorm_", lambda w: F.embedding(torch.tensor([0]), w, max_norm=1.0)),
        ("numpy", lambda w: w.numpy()),
    ],
)
def test_what_it_cannot_do(name: str, act: Callable[[GGUFTensor], Any]) -> None:
    with pytest.raises(NotImplementedError) as caught:
        act(quantized())
    message = str(caught.value)
    assert name in message
    assert ".dequantize()" in message
    assert "\n" not in message


WITH_VALUES: dict[str, Callable[[Any], Any]] = {
    "add": lambda w: w + 1,
    "sum": lambda w: w.sum(),
    "view": lambda w: w.view(-1, 8),
    "einsum": lambda w: torch.einsum("bi,oi->b", torch.ones(2, COLS), w),
    "cat": lambda w: torch.cat([w, torch.ones(1, COLS)]),
    "contiguous": lambda w: w.t().contiguous(),
    "norm": lambda w: w.norm(dim=1),
    "numpy": lambda w: torch.from_numpy(w.numpy()),
    "tolist": lambda w: torch.tensor(w.tolist()),
    "item": lambda w: torch.tensor(w.max().item()),
    "embedding": lambda w: F.embedding(torch.tensor([3]), w.t()),
    "into_an_ordinary_one": lambda w: torch.ones(w.shape).mul_(w),
}


@pytest.mark.parametrize("name", WITH_VALUES)
@pytest.mark.usefixtures("dequantize")
def test_dequantizes(name: str) -> None:
    weight = quantized()
    with pytest.warns(UserWarning, match="has no quantized form for a GGUFTensor.* dequantized"):
        found = WITH_VALUES[name](weight)
    assert not isinstance(found, GGUFTensor)
    assert torch.equal(found, WITH_VALUES[name](numbers(weight)))


@pytest.mark.usefixtures("dequantize")
def test_one_warning_for_each_call_site() -> None:
    weight = quantized()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            weight + 1
            F.softmax(weight, -1)
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert [str(warning.message).split()[0] for warning in caught] == [
        "aten.add.Tensor",
        "aten._softmax.default",
    ]
    assert caught[0].lineno + 1 == caught[1].lineno


@pytest.mark.parametrize(
    "write", [lambda w: w.add_(1), lambda w: w.zero_(), lambda w: torch.add(w, 1, out=w)]
)
@pytest.mark.usefixtures("dequantize")
def test_what_would_be_lost_is_never_written(write: Callable[[Any], Any]) -> None:
    with pytest.raises(NotImplementedError, match="in place, which only copy_ can"):
        write(quantized())


@pytest.mark.filterwarnings("ignore:.*has no quantized form")
@pytest.mark.usefixtures("dequantize")
def test_in_a_compiled_graph() -> None:
    weight, x = quantized(), torch.ones(COLS)
    compiled = torch.compile(lambda x: x * weight + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), numbers(weight) + 1)


def test_creation_keeps_the_type() -> None:
    weight = quantized()
    for made in (torch.zeros_like(weight), weight.new_zeros(2, 64), torch.empty_like(weight)):
        assert isinstance(made, GGUFTensor)
        assert made.qtype == weight.qtype
    assert torch.zeros_like(weight).dequantize().count_nonzero() == 0
    assert torch.empty_like(weight, device="meta").is_meta
