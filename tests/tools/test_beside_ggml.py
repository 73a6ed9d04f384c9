"""Our one-row products for gfx1100 beside ggml's: fewer instructions, more bytes in flight."""

from __future__ import annotations

import pytest

from tools.amd.budget import Budget
from tools.amd.execution import EXECUTED, KERNELS, row_name
from tools.amd.peer import ARCH, RECORD, WEIGHTS_PER_TURN, recorded, summary
from tools.amd.toolchain import CSRC, Toolchain
from tools.isa_report import measure_one

TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K")
GGML = recorded(RECORD)["rows"]
OURS = recorded(EXECUTED)["rows"]
TIMES_IN_FLIGHT = 4


@pytest.fixture(scope="module")
def read(toolchain: Toolchain) -> dict[str, dict[str, float]]:
    """What the compiled kernels say of themselves, by type."""
    budget = Budget.read()
    if not budget.judges_measures(toolchain.version):
        pytest.skip("the recorded measures are of another compiler")
    sources = [CSRC / "hip" / f"matvec_{family}.hip" for family in ("simple", "k")]
    files = toolchain.compile_all(sources, [ARCH])
    found = {m.kernel.name: m for f in files for m in measure_one(f.path.read_bytes(), budget)}
    return {name: summary(found[budget.data["beside_ggml"][name]]) for name in TYPES}


@pytest.mark.parametrize("name", TYPES)
def test_fewer_instructions_per_weight(read: dict[str, dict[str, float]], name: str) -> None:
    """In the main loop, and with everything around it."""
    key = "instructions_per_weight"
    assert read[name][key] < GGML[name][key]
    assert OURS[row_name(name, "matvec")]["executed_per_weight"] < GGML[name]["executed_per_weight"]


@pytest.mark.parametrize("name", TYPES)
def test_bytes_in_flight(read: dict[str, dict[str, float]], name: str) -> None:
    assert read[name]["bytes_in_flight"] >= TIMES_IN_FLIGHT * GGML[name]["bytes_in_flight"]


def test_every_kernel_of_every_type_is_recorded() -> None:
    assert list(OURS) == [row_name(name, kernel) for name in WEIGHTS_PER_TURN for kernel in KERNELS]
    for row in OURS.values():
        assert row["line_bytes_per_weight_byte"] >= 1
        assert (row["matrix"] > 0) == (row["executed_per_matrix"] > 0)


@pytest.mark.parametrize("name", TYPES)
def test_matrix_instructions_are_those_of_the_product(name: str) -> None:
    """16 x 16 x 16 multiplications each: a chunk of 64 rows takes four times those of 16."""
    few, many = (OURS[row_name(name, f"tile of {rows} rows")]["matrix"] for rows in (16, 64))
    assert many == 4 * few
