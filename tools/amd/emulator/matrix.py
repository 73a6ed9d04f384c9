"""The matrix units, written anew for tinygrad's emulator: products of one 16x16 tile.

Against its own: constants as C, whose numbers are those of other registers; A and B from CDNA's
second register file; float16 denormals and infinities on CDNA; bytes on CDNA; and a loop over the
lanes, which is built in milliseconds where 4096 single products took seconds.

Sources: AMD's "RDNA3" and "RDNA4" ISA documents, chapter 7 (WMMA), and the "CDNA3" ISA document,
chapter 7 (MFMA: operand layouts, ACC and ACC_CD; EXEC is ignored).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIRST_VGPR = 256  # in the numbering of source operands
_TILE = 16
_NAME = re.compile(r"^V_(?:WMMA|MFMA)_(?:F32|I32)_16X16X(\d+)_(F16|BF16|I8|IU8)(?:_|$)")


@dataclass(frozen=True)
class Unit:
    """How a card spreads a tile over a wave.

    Lane 16 * g + r holds of row r of A and of B the g-th part of K; where there are fewer parts
    than groups of 16 lanes, the groups hold the same. Of column r of D it holds the rows
    row_step * i + row_group * g, i < rows.
    """

    parts: int
    rows: int
    row_step: int
    row_group: int
    depths: dict[str, int]  # K by the type of A and B


_CDNA = Unit(4, 4, 1, 4, {"F16": 16, "BF16": 16, "I8": 32})
_RDNA3 = Unit(1, 8, 2, 1, {"F16": 16, "BF16": 16, "IU8": 16})
_RDNA4 = Unit(2, 8, 1, 8, {"F16": 16, "BF16": 16, "IU8": 16})


def apply(emu: Any) -> None:
    """Replaces how the module compiles matrix instructions; what is not known here stays its."""
    emu._compile_wmma = _instead_of(emu, emu._compile_wmma)
    emu._compile_mfma = _instead_of(emu, emu._compile_mfma)


def _instead_of(emu: Any, compile_other: Callable[..., Any]) -> Callable[..., Any]:
    def compile_instruction(inst: Any, ctx: Any) -> Any:
        name = _NAME.match(emu._op_name(inst))
        unit = _CDNA if ctx.wave_size == 64 else _RDNA4 if _is_rdna4(emu, inst) else _RDNA3
        if name is None or unit.depths.get(name[2]) != int(name[1]):
            return compile_other(inst, ctx)
        # For bytes the bits that elsewhere negate A and B say that they have a sign.
        modifiers = [emu._iattr(inst, field) for field in ("neg", "neg_hi", "cbsz", "blgp")]
        if modifiers != [3 if name[2] == "IU8" else 0, 0, 0, 0]:
            raise RuntimeError(f"matrix product with modifiers {modifiers} is not emulated")
        return _Product(emu, inst, ctx, unit, name[2]).program()

    return compile_instruction


def _is_rdna4(emu: Any, inst: Any) -> bool:
    return isinstance(inst, emu.ir4.VOP3P)


class _Product:
    """One instruction on its way to the emulator's intermediate code."""

    def __init__(self, emu: Any, inst: Any, ctx: Any, unit: Unit, kind: str) -> None:
        self.emu, self.inst, self.ctx, self.unit, self.kind = emu, inst, ctx, unit, kind
        self.depth = unit.depths[kind]
        self.is_int = kind in ("I8", "IU8")
        self.number = emu.dtypes.int32 if self.is_int else emu.dtypes.float32

    def whole(self, value: int) -> Any:
        return self.emu.UOp.const(value, self.emu.dtypes.int)

    def program(self) -> Any:
        emu, ctx = self.emu, self.ctx
        size = _TILE * self.depth
        # Bits, not numbers: conversions of a float array to and fro would be folded away.
        place = emu.AddrSpace.LOCAL
        inputs = emu.UOp.placeholder((2 * size,), emu.dtypes.uint32, slot=0, addrspace=place)
        lane = ctx.range()
        stores_a = self._gather(inputs, lane, "src0", 0, 0)
        stores_b = self._gather(inputs, lane, "src1", 1, size)
        gathered = emu.UOp.group(*stores_a, *stores_b).end(lane)
        lane = ctx.range()
        results = emu.UOp.group(*self._products(inputs.after(gathered), lane, size)).end(lane)
        return emu.UOp.sink(gathered, results, *ctx.inc_pc())

    def _gather(self, inputs: Any, lane: Any, name: str, bit: int, base: int) -> list[Any]:
        """Copies A or B to inputs[base + row * depth + k]."""
        ctx, emu = self.ctx, self.emu
        in_accumulators = emu._iattr(self.inst, "acc") >> bit & 1
        read = ctx.raccvgpr_dyn if in_accumulators else ctx.rvgpr_dyn
        register = ctx.inst_field(getattr(type(self.inst), name)) - emu._c(FIRST_VGPR)
        own = self.depth // self.unit.parts
        per_register = 4 if self.is_int else 2
        part = lane // self.whole(_TILE) % self.whole(self.unit.parts)
        start = lane % self.whole(_TILE) * self.whole(self.depth) + part * self.whole(own)
        return [
            inputs.index(start + self.whole(base + k)).store(
                self._bits(read(register + emu._c(k // per_register), lane), k % per_register)
            )
            for k in range(own)
        ]

    def _bits(self, word: Any, element: int) -> Any:
        """One element of a register as the bits of a float32 or an int32."""
        emu, c = self.emu, self.emu._c
        if self.is_int:
            shifted = word << c(24 - 8 * element)
            signed = shifted.bitcast(emu.dtypes.int32) >> self.whole(24)
            return signed.bitcast(emu.dtypes.uint32)
        half = word >> c(16 * element) & c(0xFFFF)
        if self.kind == "BF16":
            return half << c(16)
        sign, exponent, fraction = half >> c(15), half >> c(10) & c(31), half & c(1023)
        normal = exponent + c(112) << c(23) | fraction << c(13)
        # A denormal is its fraction times 2^-24.
        whole = fraction.cast(emu.dtypes.float32).bitcast(emu.dtypes.uint32)
        denormal = fraction.eq(c(0)).where(c(0), whole - c(24 << 23))
        special = c(0x7F800000) | fraction << c(13)
        size = exponent.eq(c(0)).where(denormal, exponent.eq(c(31)).where(special, normal))
        return sign << c(31) | size

    def _products(self, inputs: Any, lane: Any, size: int) -> list[Any]:
        """D = A . B^T + C, a lane's rows of its column."""
        emu, ctx, unit = self.emu, self.ctx, self.unit
        accumulators = bool(emu._iattr(self.inst, "acc_cd"))
        read = ctx.raccvgpr_dyn if accumulators else ctx.rvgpr_dyn
        write = ctx.waccvgpr_dyn if accumulators else ctx.wvgpr_dyn
        source = ctx.inst_field(type(self.inst).src2)
        target = ctx.inst_field(type(self.inst).vdst)
        is_register = source >= emu._c(FIRST_VGPR)
        constant = ctx.rsgpr_dyn(source, is_register.ne(True))
        wide = emu.dtypes.uint64 if ctx.wave_size == 64 else emu.dtypes.uint32
        everyone = emu.UOp.const((1 << ctx.wave_size) - 1, wide)
        group = lane // self.whole(_TILE)
        row_b = self.whole(size) + lane % self.whole(_TILE) * self.whole(self.depth)
        stores = []
        for i in range(unit.rows):
            held = read(source - emu._c(FIRST_VGPR - i), lane, is_register)
            total = is_register.where(held, constant).bitcast(self.number)
            row = self.whole(unit.row_step * i) + group * self.whole(unit.row_group)
            row_a = row * self.whole(self.depth)
            for k in map(self.whole, range(self.depth)):
                a, b = (inputs.index(row + k).bitcast(self.number) for row in (row_a, row_b))
                total = total + a * b
            bits = total.bitcast(emu.dtypes.uint32)
            stores.append(write(target + emu._c(i), lane, bits, everyone))
        return stores
