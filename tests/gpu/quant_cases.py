"""The cases of quantized products: weights of ordinary size, shapes, views, and what they cost.

Independent of the device, so that the same cases can be run against the CPU kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.quant_types import QuantType
from tests.gpu.guards import GuardedMemory
from tests.ops.quant_blocks import Bytes, random_blocks
from tests.ops.rounded_activations import middles, rounded_to_8_bits

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 128, 200, 512)
FEW = 16  # beyond so many rows no kernel rounds activations to 8 bits
TILES = ((64, 256), (128, 1024), (256, 4096))  # [n, k] that tiles of any size end at
EDGES = ((0, 0), (-1, -1), (1, 1), (-1, 1))  # rows and blocks off
POOL = 2048  # blocks that weights are drawn from
NMSE = 1e-4
TIMES = 2.0  # the error of a product in float16


def ordinary_blocks(row: QuantType, count: int) -> Bytes:
    """`count` random blocks whose values are of the size of a model's: 1 or so, and below."""
    rng = np.random.default_rng([7, row.id])
    if not row.is_quantized:
        values = torch.from_numpy(rng.standard_normal((count, 1)).astype(np.float32))
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[row.name]
        return values.to(dtype).view(torch.uint8).numpy()
    trial = random_blocks(row, 64, seed=7)
    largest = float(quant_ops.dequantize(torch.from_numpy(trial), row.id).abs().max())
    blocks = random_blocks(row, count, seed=7, largest=4 / largest)
    if row.name == "MXFP4":  # powers of two
        blocks[:, 0] = rng.integers(122, 127, count)
    elif row.name == "NVFP4":  # E4M3, from 2^-3 to 2
        blocks[:, :4] = rng.integers(0x20, 0x40, (count, 4))
    return blocks


@functools.lru_cache(maxsize=2)
def _pool(row: QuantType, device: str) -> tuple[Tensor, Tensor]:
    """Blocks [count, bytes] and their values in float64, of at least 32 elements each."""
    each = max(1, 32 // row.block_size)
    blocks = torch.from_numpy(ordinary_blocks(row, POOL * each)).view(POOL, -1)
    values = quant_ops.dequantize(blocks, row.id).double()
    return blocks.to(device), values.to(device)


@functools.lru_cache(maxsize=12)
def weights(row: QuantType, k: int, device: str) -> tuple[Tensor, Tensor]:
    """qweight [257, row_bytes] and its values in float64: the rows of every shape with this k."""
    blocks, values = _pool(row, device)
    n, count = TILES[-1][0] + 1, k // values.shape[1]
    generator = torch.Generator().manual_seed(k)
    drawn = torch.randint(POOL, (n * count,), generator=generator).to(device)
    return blocks[drawn].view(n, -1), values[drawn].view(n, k)


def shapes(row: QuantType) -> list[tuple[int, int]]:
    """[n, k] at the edges of tiles, and a row and a block more and less."""
    block = max(row.block_size, 32)
    every = [(n + dn, k + dk * block) for n, k in TILES for dn, dk in EDGES]
    return [(n, k) for n, k in every if k > 0]


def x_views(x: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """Name, view and bytes off an aligned address."""
    m, k = x.shape
    apart = torch.full((m, k + 5), float("nan"), dtype=x.dtype, device=x.device)[:, 3:-2]
    yield "x", x, 0
    yield "x one element off", x, x.element_size()
    yield "x rows apart", apart.copy_(x), 0


def weight_views(row: QuantType, qweight: Tensor, layout: int) -> Iterator[tuple[str, Tensor, int]]:
    yield "w", qweight, 0
    yield "w at an odd address", qweight, 1
    if layout == 0:
        n, size = qweight.shape
        wide = torch.full((n, size + 3 * row.block_bytes), 0xFF, dtype=torch.uint8)
        apart = wide.to(qweight.device)[:, row.block_bytes : row.block_bytes + size]
        yield "w rows apart", apart.copy_(qweight), 0


@dataclass
class Product:
    """x . w' + bias in float64, and with what a float16 product and 8-bit activations round.

    x [512, k] in the dtype of the results, values and middle [n, k] float64, bias [n] or None.
    """

    x: Tensor
    values: Tensor
    middle: Tensor
    bias: Tensor | None

    def __post_init__(self) -> None:
        narrow = self.values.half().double()
        few = self.x[:FEW]
        coded, of_middle = rounded_to_8_bits(few), few.double() @ self.middle.T
        self.wanted = self._of(self.x.double(), self.values)
        self.of_codes = self._stored(self._of(coded, self.values - self.middle) + of_middle)
        # In float16 as far as a value can be told from none: it is not the range that is tested.
        halved = self._stored(self._of(self.x.half().double(), narrow))
        coded_halved = self._stored(self._of(coded, narrow - self.middle) + of_middle)
        self.allowed = (halved - self.wanted).pow(2).sum(-1).cumsum(0)
        self.allowed_of_codes = (coded_halved - self.wanted[:FEW]).pow(2).sum(-1).cumsum(0)
        self.size = self.wanted.pow(2).sum(-1).cumsum(0)

    def _of(self, x: Tensor, values: Tensor) -> Tensor:
        product = x @ values.T
        return product if self.bias is None else product + self.bias.double()

    def _stored(self, product: Tensor) -> Tensor:
        return product.to(self.x.dtype).double()

    def judge(self, got: Tensor) -> Tensor:
        """float64 [4]: NMSE; times the error of float16; whether 8-bit activations are in the
        latter; whether all are finite."""
        m = len(got)
        result = got.double()
        error = (result - self.wanted[:m]).pow(2).sum()
        allowed = self.allowed[m - 1]
        is_coded = torch.zeros_like(allowed)
        if m <= FEW:
            # Codes are what a result is made of if it is much nearer to their product.
            is_coded = ((result - self.of_codes[:m]).pow(2).sum() < error / 4).double()
            allowed = torch.where(is_coded > 0, self.allowed_of_codes[m - 1], allowed)
        finite = result.isfinite().all().double()
        return torch.stack((error / self.size[m - 1], (error / allowed).sqrt(), is_coded, finite))


def complaint(judged: list[float]) -> str:
    """What is wrong with a result, or nothing.

    The NMSE of one product with rounded activations is not judged here but in their mean, and in
    how many exceed the limit. Rounding alone, all else in float64, makes 1e-5 (types with a
    minimum) to 3e-5 on average, and more than 1e-4 of none to 0.4 % (TQ2_0) of the draws of 1 row
    with 64x256 weights.
    """
    nmse, times, is_coded, finite = judged
    if not finite:
        return "not finite"
    if not is_coded and not nmse <= NMSE:
        return f"NMSE {nmse:.2e}"
    return "" if times <= TIMES else f"{times:.2f} times the error of float16"


@dataclass
class Tally:
    """What ran: the number of cases, those that failed by name, and the few rows with codes.

    of_codes: by name, the NMSE of every case whose activations were rounded to 8 bits.
    """

    count: int
    failed: list[str]
    coded_rows: set[int]
    of_codes: dict[str, float]

    @property
    def mean_nmse_of_codes(self) -> float:
        return sum(self.of_codes.values()) / max(len(self.of_codes), 1)

    def above_alone(self) -> list[str]:
        """Cases with codes whose own NMSE is above the limit for the mean."""
        return [f"{name}: NMSE {nmse:.2e}" for name, nmse in self.of_codes.items() if nmse > NMSE]


def run_products(row: QuantType, layout: int, dtype: torch.dtype, memory: GuardedMemory) -> Tally:
    """Every shape, bias and number of rows, with views that vary with them."""
    device = str(memory.device)
    ops = torch.ops.rocmforge
    tally = Tally(0, [], set(), {})
    for at, (n, k) in enumerate(shapes(row)):
        torch.manual_seed(at)
        qweight, values = (t[:n] for t in weights(row, k, device))
        x = torch.randn(ROWS[-1], k, device=device).to(dtype)
        shift = torch.randn(n, device=device).to(dtype if at % 2 else torch.float32)
        middle = middles(row, qweight)
        blocks = ops.pack_weight(qweight, row.id) if layout else qweight.clone()
        xs = [(name, memory.place(t, off)) for name, t, off in x_views(x)]
        ws = [(name, memory.place(t, off)) for name, t, off in weight_views(row, blocks, layout)]
        judged, names = [], []
        for with_bias in (False, True):
            bias = memory.place(shift) if with_bias else None
            product = Product(x, values, middle, shift if with_bias else None)
            for i, m in enumerate(ROWS):
                x_name, x_view = xs[(i + at) % len(xs)]
                w_name, w_view = ws[(i + at + with_bias) % len(ws)]
                got = ops.quant_matmul(x_view[:m], w_view, row.id, bias, layout)
                assert got.shape == (m, n)
                assert got.dtype == dtype
                judged.append(product.judge(got))
                names.append((m, f"{m}x{n}x{k} {x_name}, {w_name}{', bias' * with_bias}"))
        for (m, name), result in zip(names, torch.stack(judged).tolist(), strict=True):
            if why := complaint(result):
                tally.failed.append(f"{name}: {why}")
            if result[2]:
                tally.coded_rows.add(m)
                tally.of_codes[name] = result[0]
        tally.failed += [f"{n}x{k}: {fault}" for fault in memory.faults()]
        tally.count += len(names)
    return tally
