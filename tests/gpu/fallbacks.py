"""Which calls have no GPU kernel, so that the reference runs; those cannot be captured."""

from __future__ import annotations

from op_samples import Sample

from rocmforge_torch.quant_types import quant_type

QUANTIZERS = {
    quant_type(name).id for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1")
}  # csrc/hip/quantize.hip


def by_reference(name: str, sample: Sample) -> bool:
    """Whether an op's reference computes a sample on a GPU."""
    return name == "quantize" and sample.args[1] not in QUANTIZERS
