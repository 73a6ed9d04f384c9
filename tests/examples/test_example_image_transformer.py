"""The image transformer's example, at a size of seconds."""

from __future__ import annotations

import math

import pytest

from examples import image_transformer

HIDDEN, BLOCKS = 256, 1
# Activations rounded to 8 bits by blocks of 32: steps of the largest / 127, which is at most
# sqrt(32) times the block's root mean square; and three products on the way through a block.
ROUNDED = 3 * BLOCKS * math.sqrt(32) / 127 / math.sqrt(12)
# Float32 sums of up to 5 * HIDDEN terms.
IN_FLOAT = 3 * BLOCKS * math.sqrt(5 * HIDDEN) * 2.0**-23


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    found = image_transformer.main(tokens=320, hidden=HIDDEN, blocks=BLOCKS, qtype="Q4_K")
    printed = capsys.readouterr().out
    assert "GGUFTensor(Q4_K, shape=[1792, 256]" in printed
    assert printed.count("s a pass") == 2
    return found


def test_quantized_products(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys)
    assert found["quantized"] < ROUNDED
    assert found["with LoRA"] < ROUNDED
    # Nine tenths of the weights are in Q4_K, of 4.5 bits; the whole takes less than 6 each.
    assert found["bytes"] < found["weights"] * 6 / 8
    assert found["LoRA"] > ROUNDED  # its side path matters more than what is rounded


@pytest.mark.usefixtures("exact")
def test_products_in_float(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys)
    assert found["quantized"] < IN_FLOAT
    assert found["with LoRA"] < IN_FLOAT
