"""Measures of a compiled kernel: registers, occupancy, instructions, main loop, bytes in flight."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .architectures import ARCHITECTURES, Architecture
from .code_object import CodeObject, Kernel
from .disassembly import Instruction, disassemble
from .loops import Loop, innermost, loops
from .memory import Access, accesses, bytes_in_flight
from .products import Product, product_of
from .toolchain import find_program, run

# Classes of instructions that budgets and tables speak of.
CLASSES = {
    "dot": re.compile(r"^v_dot[48]"),
    "matrix": re.compile(r"^v_(wmma|swmmac|mfma|smfmac)"),
    "load16": re.compile(r"^(global|flat|buffer)_load_(b128|dwordx4)"),
    "load": re.compile(r"^(global|flat|buffer)_load_"),
    "store": re.compile(r"^(global|flat|buffer)_store_"),
    "atomic": re.compile(r"^(global|flat|buffer)_atomic"),
    "lds": re.compile(r"^ds_"),
    "scratch": re.compile(r"^scratch_"),
    "barrier": re.compile(r"^s_barrier(_signal)?$"),
    "wait": re.compile(r"^s_wait"),
}
# Hints to the scheduler and waits: no work of their own. Of these s_delay_alu takes no issue cycle.
_HINTS = re.compile(r"^s_(delay_alu|clause|nop|wait)")
# What the turns of a product are for, beside the loads of weights.
_WORK = re.compile(r"^(v_dot[48]|v_(wmma|swmmac|mfma|smfmac)|ds_(load|read|store|write))")


@dataclass(frozen=True)
class LoopMeasure:
    """The main loop: its instructions (hints and waits left out), and the weights it reads.

    Of a product, without the parts that a branch skips and that neither load weights, nor touch
    LDS, nor multiply: what happens once a row.
    weight_bytes: per lane and turn. cycles: llvm-mca's block reciprocal throughput, the issue
    cycles of one wave and turn.
    """

    instructions: int
    counts: Counter[str]
    weight_bytes: int
    cycles: float


@dataclass(frozen=True)
class Measure:
    """Everything the report says of one kernel on one architecture."""

    kernel: Kernel
    arch: Architecture
    instructions: int
    code_bytes: int
    counts: Counter[str]
    occupancy: int
    loop: LoopMeasure | None
    in_flight: int  # bytes of weight loads per compute unit, at the first wait

    @property
    def product(self) -> Product | None:
        """What it computes, when that is a product by integer dot products."""
        return product_of(self.kernel.name) if self.loop and self.loop.counts["dot"] else None

    @property
    def issue_percent(self) -> float | None:
        """Issue cycles of the main loop, in percent of the time that memory takes to deliver the
        weights of a turn. None where the card's memory is not known, or the product.
        """
        if self.loop is None or self.product is None or not self.arch.bytes_per_clock:
            return None
        per_lane = self.product.weight_bytes(self.loop.counts["dot"])
        waves_bytes = per_lane * self.arch.wave * self.arch.simds_per_cu
        return round(100 * self.loop.cycles * self.arch.bytes_per_clock / waves_bytes, 1)

    @property
    def numbers(self) -> dict[str, float]:
        """The measures that a budget can limit."""
        k = self.kernel
        values: dict[str, float] = {
            "vgprs": k.vgprs,
            "sgprs": k.sgprs,
            "vgpr_spills": k.vgpr_spills,
            "sgpr_spills": k.sgpr_spills,
            "scratch_bytes": k.scratch_bytes,
            "lds_bytes": k.lds_bytes,
            "occupancy": self.occupancy,
            "code_bytes": self.code_bytes,
            "bytes_in_flight": self.in_flight,
        }
        if self.loop:
            values |= {
                "loop_instructions": self.loop.instructions,
                "loop_cycles": self.loop.cycles,
            }
        if self.issue_percent is not None:
            values["issue_percent"] = self.issue_percent
        return values


def classify(body: Sequence[Instruction]) -> Counter[str]:
    """How many instructions of each class."""
    return Counter(
        name
        for instruction in body
        for name, pattern in CLASSES.items()
        if pattern.match(instruction.mnemonic)
    )


def measure(
    code: CodeObject,
    weights: Mapping[str, Sequence[int]],
    symbols: Sequence[str] = (),
    dynamic_lds: Mapping[str, int] | None = None,
) -> Iterator[Measure]:
    """Measures of the kernels of a code object (all, or `symbols`).

    weights: per symbol the byte offsets, in the argument segment, of the pointers to weights; a
    kernel without an entry has all its loads counted. dynamic_lds: bytes that a launch adds.
    """
    arch = ARCHITECTURES[code.arch]
    functions = disassemble(code, symbols)
    mains: dict[str, Loop | None] = {}
    reads: dict[str, list[Access]] = {}
    for symbol in symbols or code.kernels:
        body, kernel = functions[symbol], code.kernels[symbol]
        reads[symbol] = accesses(kernel, body, _kernarg_register(code, symbol))
        mains[symbol] = _main_loop(body, _issued(reads[symbol], weights.get(symbol)))
    cycles = issue_cycles(arch, {s: loop for s, loop in mains.items() if loop})
    for symbol in mains:
        yield _measure_one(
            code.kernels[symbol],
            arch,
            functions[symbol],
            mains[symbol],
            _issued(reads[symbol], weights.get(symbol)),
            cycles.get(symbol, 0.0),
            (dynamic_lds or {}).get(symbol, 0),
            symbol in weights,
        )


def _measure_one(
    kernel: Kernel,
    arch: Architecture,
    body: Sequence[Instruction],
    loop: Loop | None,
    issued: dict[int, int],
    cycles: float,
    dynamic_lds: int,
    weighed: bool,
) -> Measure:
    lds = kernel.lds_bytes + dynamic_lds
    occupancy = arch.occupancy(kernel.vgprs, kernel.sgprs, lds, kernel.threads)
    walk = _around(body, loop) if loop and weighed else loop
    per_lane = bytes_in_flight(body, walk, issued, counts_stores=arch.wave == 64)
    loop_measure = None
    if loop:
        loop_measure = LoopMeasure(
            instructions=sum(not _HINTS.match(i.mnemonic) for i in loop.body),
            counts=classify(loop.body),
            weight_bytes=sum(issued.get(i.address, 0) for i in loop.body),
            cycles=cycles,
        )
    return Measure(
        kernel=kernel,
        arch=arch,
        instructions=len(body),
        code_bytes=sum(i.size for i in body),
        counts=classify(body),
        occupancy=occupancy,
        loop=loop_measure,
        in_flight=per_lane * arch.wave * occupancy * arch.simds_per_cu,
    )


def _issued(reads: Sequence[Access], weights: Sequence[int] | None) -> dict[int, int]:
    """Bytes per lane of each load of interest, by address."""
    return {
        a.instruction.address: a.bytes
        for a in reads
        if a.kind == "load" and (weights is None or a.pointers & set(weights))
    }


def _main_loop(body: Sequence[Instruction], issued: dict[int, int]) -> Loop | None:
    """The innermost loop that does the work: matrix and dot instructions, then weight bytes."""

    def worth(loop: Loop) -> tuple[int, int, int]:
        counts = classify(loop.body)
        loaded = sum(issued.get(i.address, 0) for i in loop.body)
        return counts["dot"] + counts["matrix"], loaded, len(loop.body)

    loop = max(innermost(loops(body)), key=worth, default=None)
    if loop is None or not (worth(loop)[0] and any(issued.get(i.address) for i in loop.body)):
        return loop
    return loop.without(lambda i: bool(issued.get(i.address) or _WORK.match(i.mnemonic)))


def _around(body: Sequence[Instruction], loop: Loop) -> Loop:
    """The outermost loop around a loop: loads may be issued there for the next turns."""
    return max((o for o in loops(body) if o.holds(loop)), key=lambda o: len(o.body), default=loop)


def _kernarg_register(code: CodeObject, symbol: str) -> int:
    """The first SGPR of the pair that points at the arguments, by the descriptor's order."""
    properties = code.descriptor(symbol).properties
    return sum(size for bit, size in ((0, 4), (1, 2), (2, 2)) if properties >> bit & 1)


def issue_cycles(arch: Architecture, bodies: dict[str, Loop]) -> dict[str, float]:
    """llvm-mca's reciprocal throughput of each loop body: cycles between starts of two turns."""
    if not bodies:
        return {}
    lines = []
    for loop in bodies.values():
        text = [_for_assembler(i) for i in loop.body if i.mnemonic != "s_delay_alu"]
        # Blank lines: after a literal operand the parser looks ahead past a comment.
        lines += ["", "; LLVM-MCA-BEGIN", *text, "", "", "; LLVM-MCA-END"]
    command = [find_program("llvm-mca"), "-mtriple=amdgcn", f"-mcpu={arch.name}", "-json"]
    regions = json.loads(run([*command, "-"], stdin="\n".join(lines) + "\n"))["CodeRegions"]
    throughput = [round(r["SummaryView"]["BlockRThroughput"], 2) for r in regions]
    return dict(zip(bodies, throughput, strict=True))


# With a carry for 64 lanes -> what issues alike without one.
_CARRYING_64 = {
    re.compile(r"v_(add|sub|subrev|addc|subb|subbrev)_co_u32.* vcc\b"): "v_add_u32_e32 v0, v0, v0",
    re.compile(r"v_mad_[iu]64_[iu]32\w* \S+, (vcc|s\[)"): "v_mul_lo_u32 v0, v0, v0",
}


def _for_assembler(instruction: Instruction) -> str:
    """The instruction's text; where a branch goes does not matter."""
    if instruction.target is not None:
        return f"{instruction.text.split()[0]} 0"
    if instruction.mnemonic.startswith("buffer_"):
        # Spilled registers on gfx1030, at which llvm-mca 19 crashes; a global load issues alike.
        return "global_load_dword v0, v[0:1], off"
    # Where CDNA's matrix instructions follow an addition with a carry llvm-mca 19 waits for ever.
    for carrying, alike in _CARRYING_64.items():
        if carrying.match(instruction.text):
            return alike
    return instruction.text
