"""What a kernel's name says of the quantized product that it computes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME, QuantType

_OURS = re.compile(r"^(?!\w*input_kernel)\w+<(\w+),.*\b(\d+)>$")  # no product's input


@dataclass(frozen=True)
class Product:
    """x of so many rows times weights of a type."""

    qtype: QuantType
    rows: int

    def weight_bytes(self, dots: int) -> float:
        """Bytes of weights behind `dots` integer dot products of a lane, four weights each."""
        return 4 * dots / self.rows * self.qtype.block_bytes / self.qtype.block_size


def product_of(kernel: str) -> Product | None:
    """Of a name such as `matvec_kernel<Q4_0, PackedView<Q4_0>, 2>`: the type first, the rows of x
    last. None for kernels of another kind.
    """
    match = _OURS.match(kernel)
    qtype = QUANT_TYPES_BY_NAME.get(match[1]) if match else None
    return Product(qtype, int(match[2])) if match and qtype and qtype.is_quantized else None
