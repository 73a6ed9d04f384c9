"""Corrections to tinygrad's emulator, applied when it is loaded: what the hardware does.

matrix.py has those of the matrix units.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from . import matrix
from .patching import patched

# Where the emulator's tests for a register's "high half" begin, in its two numberings.
_HALF_NUMBERS = (128, 384)
_OUT_OF_REACH = 1 << 16


def apply(emu: Any) -> None:
    """Everything below, in a module that has emulated nothing yet."""
    keep_high_registers(emu)
    know_the_program_counter(emu)
    return_old_values(emu)
    change_signs_of_parts(emu)
    matrix.apply(emu)


def keep_high_registers(emu: Any) -> None:
    """CDNA's 16-bit operations name v128 to v255 like any register (CDNA3 ISA, chapter 6: vector
    operands). Only RDNA3 and later read those numbers as the high halves of v0 to v127.
    """
    constant = emu._c

    def without_halves(value: int, *dtype: Any) -> Any:
        return constant(_OUT_OF_REACH if value in _HALF_NUMBERS else value, *dtype)

    def corrected(compile_one: Callable[..., Any]) -> Callable[..., Any]:
        def compile_instruction(inst: Any, ctx: Any) -> Any:
            bits = inst.canonical_op_bits
            if ctx.wave_size == 64 and 16 in (bits["s0"], bits["d"]):
                with patched(emu, {"_c": without_halves}):
                    return compile_one(inst, ctx)
            return compile_one(inst, ctx)

        return compile_instruction

    for kind, handler in emu._INST_HANDLERS.items():
        if handler in (emu._compile_vop12, emu._compile_vopc):
            emu._INST_HANDLERS[kind] = corrected(handler)


def know_the_program_counter(emu: Any) -> None:
    """Scalar instructions that read PC (S_GETPC_B64, before every access to a table in memory)."""
    compile_scalar = emu._Ctx.compile_sop_pcode

    def with_counter(self: Any, op: Any, sources: dict[str, Any], *rest: Any) -> Any:
        return compile_scalar(self, op, {**sources, "PC": self.rpc()}, *rest)

    emu._Ctx.compile_sop_pcode = with_counter


def return_old_values(emu: Any) -> None:
    """CDNA3's atomics on global memory return the old value when SC0 is set (CDNA3 ISA, chapter 9);
    the bit was called GLC before.
    """
    attribute = emu._iattr

    def by_its_new_name(inst: Any, name: str, default: int = 0) -> int:
        if name == "glc" and hasattr(type(inst), "sc0"):
            name = "sc0"
        found: int = attribute(inst, name, default)
        return found

    emu._iattr = by_its_new_name


def change_signs_of_parts(emu: Any) -> None:
    """Operands of CDNA that are parts of a register (SDWA) can be negated, or taken as magnitudes
    (CDNA3 ISA, section 13.3: the fields SRC0_NEG and SRC0_ABS).
    """
    select, compile_one = emu._sdwa_select, emu._compile_sdwa

    def compile_instruction(inst: Any, ctx: Any) -> Any:
        numbers = itertools.count()

        def with_sign(value: Any, which: Any, extend: Any) -> Any:
            part, name = select(value, which, extend), f"src{next(numbers)}"
            sign = 0x8000 if inst.canonical_op_bits[name.replace("src", "s")] == 16 else 0x80000000
            if getattr(inst, f"{name}_abs", 0):
                part = part & emu._c(0xFFFFFFFF ^ sign)
            return part ^ emu._c(sign) if getattr(inst, f"{name}_neg", 0) else part

        with patched(emu, {"_sdwa_select": with_sign}):
            return compile_one(inst, ctx)

    for kind, handler in emu._INST_HANDLERS.items():
        if handler is compile_one:
            emu._INST_HANDLERS[kind] = compile_instruction
