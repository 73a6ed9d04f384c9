"""Products do not take more than docs/isa.md says, nor a one-row product more than ggml's."""

from __future__ import annotations

import pytest

from tests.ops.quant_blocks import named
from tools.amd.budget import Budget
from tools.amd.emulator import Emulator
from tools.amd.execution import EXECUTED, KERNELS, row_name
from tools.amd.peer import RECORD, recorded
from tools.amd.toolchain import Toolchain

pytestmark = pytest.mark.emulated
TYPE = "Q4_0"
COSTS = ("executed_per_weight", "line_bytes_per_weight_byte", "conflicts_per_access")


@pytest.mark.parametrize("kernel", ["matvec", "tile of 16 rows"])
def test_counts_are_the_recorded_ones_or_less(
    toolchain: Toolchain, emulator: Emulator, kernel: str
) -> None:
    """After a change for the better: `python -m tools.isa_report --update --execute`."""
    if not Budget.read().judges_measures(toolchain.version):
        pytest.skip("the recorded counts are of another compiler")
    counts = KERNELS[kernel](emulator, named(TYPE))
    record = recorded(EXECUTED)["rows"][row_name(TYPE, kernel)]
    assert {key: counts[key] for key in COSTS if counts[key] > record[key]} == {}
    assert counts["matrix"] == record["matrix"]
    if kernel == "matvec":
        ggml = recorded(RECORD)["rows"][TYPE]
        assert counts["executed_per_weight"] < ggml["executed_per_weight"]
