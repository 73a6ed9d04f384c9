"""The volume of cases: every type, layout and dtype at all rows and shapes, by float64 products.

No result may be more than twice as far off as a product in float16 with the same weights and, where
the kernel multiplies integers, activations rounded to 8 bits. The NMSE is at most 1e-4: of every
result with activations in full; of those with rounded ones in the mean of a type, layout and dtype,
and of all but one in 40, which are listed at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.gpu.guards import GuardedMemory
from tests.gpu.quant_cases import FEW, NMSE, run_products

pytestmark = pytest.mark.gpu
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("layout", [0, 1], ids=["file", "packed"])
@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_products(
    row: QuantType,
    layout: int,
    dtype: torch.dtype,
    count_cases: Callable[[int], None],
    note: Callable[[str], None],
) -> None:
    with GuardedMemory("cuda") as memory, torch.inference_mode():
        tally = run_products(row, layout, dtype, memory)
        assert memory.allocated > tally.count, "the ops allocate in another way"
    count_cases(tally.count)
    above = tally.above_alone()
    for case in above:
        note(f"{row.name}, layout {layout}, {dtype}: {case}")
    assert not tally.failed, f"{len(tally.failed)} of {tally.count}:\n" + "\n".join(tally.failed)
    assert tally.mean_nmse_of_codes <= NMSE
    assert 40 * len(above) <= len(tally.of_codes)
    assert all(m <= FEW for m in tally.coded_rows)
