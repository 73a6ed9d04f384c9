"""What a kernel's loads read and how much of it is under way when the kernel first waits.

Where an address comes from is followed from the kernel-argument segment through the registers, in
program order: a load belongs to the pointers that its address was computed from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from .code_object import Kernel
from .disassembly import Instruction
from .loops import Loop

_WIDTHS = {
    "b128": 16, "dwordx4": 16, "b96": 12, "dwordx3": 12, "b64": 8, "dwordx2": 8, "b32": 4,
    "dword": 4, "b16": 2, "u16": 2, "i16": 2, "short": 2, "ushort": 2, "sshort": 2, "u8": 1,
    "i8": 1, "b8": 1, "byte": 1, "ubyte": 1, "sbyte": 1,
}  # fmt: skip
_ACCESS = re.compile(r"^(?:global|flat)_(?P<what>load|store|atomic)_(?P<rest>\w+)$")
_REGISTER = re.compile(r"\b(?P<file>[vsa])(?:(?P<one>\d+)|\[(?P<low>\d+):(?P<high>\d+)\])")
_TWO_RESULTS = re.compile(r"_co_|_co$|^v_div_scale|^v_mad_(u64|i64)")
_NO_RESULT = re.compile(r"^(s_(cmp|bitcmp|c?branch|wait|barrier|nop)|ds_(store|write))")

Register = tuple[str, int]
KERNARG = -1  # the mark of registers that point at the kernel arguments


@dataclass(frozen=True)
class Access:
    """One vector-memory instruction: bytes per lane and the pointers its address comes from.

    A pointer is named by its byte offset in the argument segment: an argument, or in a struct.
    """

    instruction: Instruction
    kind: str  # load, store or atomic
    bytes: int
    pointers: frozenset[int]


def access_bytes(mnemonic: str) -> tuple[str, int] | None:
    """("load", 16) for global_load_b128 and global_load_dwordx4; None for other instructions."""
    match = _ACCESS.match(mnemonic)
    if not match:
        return None
    for part in match["rest"].split("_"):
        if part in _WIDTHS:
            return match["what"], _WIDTHS[part]
    return match["what"], 8 if match["rest"].endswith(("x2", "64")) else 4


@cache
def registers(text: str) -> tuple[Register, ...]:
    """Every register that an operand names: v[2:3] is two."""
    found: list[Register] = []
    for match in _REGISTER.finditer(text):
        low = int(match["one"] or match["low"])
        high = int(match["one"] or match["high"])
        found += [(match["file"], number) for number in range(low, high + 1)]
    return tuple(found)


def accesses(kernel: Kernel, body: Sequence[Instruction], kernarg: int) -> list[Access]:
    """Every global or flat access of a kernel; SGPR `kernarg` points at the arguments."""
    origin: dict[Register, frozenset[int]] = {
        ("s", kernarg): frozenset([KERNARG]),
        ("s", kernarg + 1): frozenset([KERNARG]),
    }
    result = []
    for instruction in body:
        found = access_bytes(instruction.mnemonic)
        if found:
            kind, width = found
            result.append(Access(instruction, kind, width, _address_origin(instruction, origin)))
        _propagate(kernel, instruction, origin)
    return result


def _address_origin(
    instruction: Instruction, origin: dict[Register, frozenset[int]]
) -> frozenset[int]:
    operands = _operands(instruction.operands)
    returns = "_load_" in instruction.mnemonic or len(operands) > 3
    address = [operands[1 if returns and len(operands) > 1 else 0], operands[-1]]
    marks = frozenset[int]().union(
        *(origin.get(r, frozenset()) for text in address for r in registers(text))
    )
    return marks - {KERNARG}


def _propagate(
    kernel: Kernel, instruction: Instruction, origin: dict[Register, frozenset[int]]
) -> None:
    if instruction.mnemonic.startswith("s_load"):
        _scalar_load(kernel, instruction, origin)
        return
    for half in instruction.text.split("::"):
        mnemonic, _, rest = half.strip().partition(" ")
        operands = _operands(rest)
        if not operands or _NO_RESULT.match(mnemonic) or "_store_" in mnemonic:
            continue
        loads = mnemonic.startswith(("global_", "flat_", "ds_", "buffer_", "scratch_"))
        results = 2 if _TWO_RESULTS.search(mnemonic) else 1
        marks = frozenset[int]()
        if not loads:
            sources = [r for text in operands[results:] for r in registers(text)]
            marks = marks.union(*(origin.get(r, frozenset()) for r in sources))
        for register in registers(operands[0]):
            origin[register] = marks
        if results == 2:  # a carry or flag
            for register in registers(operands[1]):
                origin[register] = frozenset()


def _scalar_load(
    kernel: Kernel, instruction: Instruction, origin: dict[Register, frozenset[int]]
) -> None:
    operands = _operands(instruction.operands)
    base = registers(operands[1])
    from_arguments = KERNARG in origin.get(base[0], frozenset())
    offset = re.search(r"(?:offset:|^)(0x[0-9a-f]+|\d+)$", operands[2])
    start = int(offset[1], 0) if offset else 0
    for i, register in enumerate(registers(operands[0])):
        marks = frozenset[int]()
        if from_arguments:
            at = start + 4 * i
            marks = frozenset(
                at // 8 * 8
                for a in kernel.arguments
                if a.may_point and a.offset <= at < a.offset + a.size
            )
        origin[register] = marks


@cache
def _operands(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r",\s*(?![^\[]*\])", text)) if text else ()


@dataclass
class InFlight:
    """Follows the counter of outstanding vector loads; `peak` is in bytes per lane."""

    queue: list[int] = field(default_factory=list)
    peak: int = 0

    def step(self, instruction: Instruction, issued: dict[int, int], counts_stores: bool) -> None:
        """`issued`: bytes of interest by the address of the load (0: other loads)."""
        found = access_bytes(instruction.mnemonic)
        if found and (found[0] == "load" or counts_stores):
            self.queue.append(issued.get(instruction.address, 0))
            return
        left = _loads_left(instruction)
        if left is not None and len(self.queue) > left:
            self.peak = max(self.peak, sum(self.queue))
            del self.queue[: len(self.queue) - left]


def bytes_in_flight(
    body: Sequence[Instruction], loop: Loop | None, issued: dict[int, int], counts_stores: bool
) -> int:
    """Most bytes per lane outstanding when the kernel waits for a load.

    With a loop: at a wait inside it, from the entry of the kernel on through two turns, so that
    loads issued a turn ahead count.
    """
    tracker = InFlight()
    inside = {i.address for i in loop.body} if loop else set()
    turns = [*body] if loop is None else [i for i in body if i.address < loop.end] + [*loop.body]
    for instruction in turns:
        before = tracker.peak
        tracker.step(instruction, issued, counts_stores)
        if loop and instruction.address not in inside:
            tracker.peak = before
    return tracker.peak


def _loads_left(instruction: Instruction) -> int | None:
    """How many loads may stay outstanding after this wait; None when it does not wait for loads."""
    name, operands = instruction.mnemonic, instruction.operands
    if name == "s_waitcnt":
        count = re.search(r"vmcnt\((\d+)\)", operands)
        if count:
            return int(count[1])
        return 0 if operands == "0" else None
    if name == "s_wait_loadcnt":
        return int(operands, 0)
    if name == "s_wait_loadcnt_dscnt":
        return int(operands, 0) >> 8
    return None
