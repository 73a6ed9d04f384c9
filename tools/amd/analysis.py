"""Measures of a compiled kernel: registers, occupancy, instructions, main loop, bytes in flight."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .architectures import ARCHITECTURES, Architecture
from .code_object import CodeObject, Kernel
from .disassembly import Instruction, Loop, disassemble, innermost, loops
from .memory import Access, accesses, bytes_in_flight
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


@dataclass(frozen=True)
class LoopMeasure:
    """The main loop: its instructions (hints and waits left out), and the weights it reads.

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
    code: CodeObject, weights: Mapping[str, Sequence[int]], symbols: Sequence[str] = ()
) -> Iterator[Measure]:
    """Measures of the kernels of a code object (all, or `symbols`).

    weights: per symbol the byte offsets, in the argument segment, of the pointers to weights; a
    kernel without an entry has all its loads counted.
    """
    arch = ARCHITECTURES[code.arch]
    functions = disassemble(code, symbols)
    mains: dict[str, Loop | None] = {}
    reads: dict[str, list[Access]] = {}
    for symbol in symbols or code.kernels:
        body, kernel = functions[symbol], code.kernels[symbol]
        reads[symbol] = accesses(kernel, body, _kernarg_register(code, symbol))
        mains[symbol] = _main_loop(body, reads[symbol], weights.get(symbol))
    cycles = issue_cycles(arch, {s: loop for s, loop in mains.items() if loop})
    for symbol in mains:
        yield _measure_one(
            code.kernels[symbol],
            arch,
            functions[symbol],
            mains[symbol],
            _issued(reads[symbol], weights.get(symbol)),
            cycles.get(symbol, 0.0),
        )


def _measure_one(
    kernel: Kernel,
    arch: Architecture,
    body: Sequence[Instruction],
    loop: Loop | None,
    issued: dict[int, int],
    cycles: float,
) -> Measure:
    occupancy = arch.occupancy(kernel.vgprs, kernel.sgprs, kernel.lds_bytes, kernel.threads)
    per_lane = bytes_in_flight(body, loop, issued, counts_stores=arch.wave == 64)
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


def _main_loop(
    body: Sequence[Instruction], reads: Sequence[Access], weights: Sequence[int] | None
) -> Loop | None:
    """The innermost loop that does the work: matrix and dot instructions, then weight bytes."""
    issued = _issued(reads, weights)

    def worth(loop: Loop) -> tuple[int, int, int]:
        counts = classify(loop.body)
        loaded = sum(issued.get(i.address, 0) for i in loop.body)
        return counts["dot"] + counts["matrix"], loaded, len(loop.body)

    return max(innermost(loops(body)), key=worth, default=None)


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


def _for_assembler(instruction: Instruction) -> str:
    """The instruction's text; where a branch goes does not matter."""
    if instruction.target is not None:
        return f"{instruction.text.split()[0]} 0"
    if instruction.mnemonic.startswith("buffer_"):
        # Spilled registers on gfx1030, at which llvm-mca 19 crashes; a global load issues alike.
        return "global_load_dword v0, v[0:1], off"
    return instruction.text
