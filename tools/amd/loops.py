"""Loops of a kernel's code: found by dominators, since code of a loop may stand behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .disassembly import Instruction

_ENDS = re.compile(r"^s_(endpgm|setpc)")


@dataclass(frozen=True)
class Loop:
    """The instructions that one natural loop goes through, in the order of their addresses.

    detours: addresses of what a turn can go without.
    """

    body: tuple[Instruction, ...]
    detours: frozenset[int] = frozenset()

    @property
    def end(self) -> int:
        return self.body[-1].end

    def holds(self, other: Loop) -> bool:
        """Whether the other loop is inside this one, or is it."""
        mine = {i.address for i in self.body}
        return all(i.address in mine for i in other.body)

    def without(self, is_work: Callable[[Instruction], bool]) -> Loop:
        """Leaves out the blocks without work that a turn can go round."""
        kept: list[Instruction] = []
        block: list[Instruction] = []
        for i in self.body:
            if block and (i.address in self.detours) != (block[-1].address in self.detours):
                kept += _unless_idle(block, self.detours, is_work)
                block = []
            block.append(i)
            if i.target is not None:
                kept += _unless_idle(block, self.detours, is_work)
                block = []
        kept += _unless_idle(block, self.detours, is_work)
        return Loop(tuple(kept))


def _unless_idle(
    block: list[Instruction], detours: frozenset[int], is_work: Callable[[Instruction], bool]
) -> list[Instruction]:
    idle = block and block[0].address in detours and not any(is_work(i) for i in block)
    return [] if idle else block


def loops(body: Sequence[Instruction]) -> list[Loop]:
    """Every natural loop; loops with one header are one."""
    blocks, successors = _blocks(body)
    predecessors: list[list[int]] = [[] for _ in blocks]
    for block, following in enumerate(successors):
        for other in following:
            predecessors[other].append(block)
    dominators = _dominators(successors, predecessors)
    members: dict[int, int] = {}  # header -> bits of its blocks
    for block, following in enumerate(successors):
        for header in following:
            if dominators[block] >> header & 1:
                members[header] = members.get(header, 0) | _natural(block, header, predecessors)
    return [
        Loop(
            tuple(i for b, part in enumerate(blocks) if bits >> b & 1 for i in part),
            frozenset(
                i.address
                for b, part in enumerate(blocks)
                if bits >> b & 1 and b != header and _avoidable(b, header, bits, successors)
                for i in part
            ),
        )
        for header, bits in members.items()
    ]


def innermost(all_loops: Sequence[Loop]) -> list[Loop]:
    """The loops that hold no other one."""
    return [
        loop
        for loop in all_loops
        if not any(other is not loop and loop.holds(other) for other in all_loops)
    ]


def _blocks(body: Sequence[Instruction]) -> tuple[list[list[Instruction]], list[list[int]]]:
    """Basic blocks and the numbers of those that may follow each."""
    addresses = {i.address for i in body}
    starts = {i.target for i in body if i.target in addresses}
    blocks: list[list[Instruction]] = []
    for i in body:
        if not blocks or i.address in starts or _leaves(blocks[-1][-1]):
            blocks.append([])
        blocks[-1].append(i)
    number = {block[0].address: n for n, block in enumerate(blocks)}
    successors: list[list[int]] = []
    for n, block in enumerate(blocks):
        last = block[-1]
        following = [number[last.target]] if last.target in number else []
        falls = not _ENDS.match(last.mnemonic) and last.mnemonic != "s_branch"
        if falls and n + 1 < len(blocks):
            following.append(n + 1)
        successors.append(following)
    return blocks, successors


def _leaves(instruction: Instruction) -> bool:
    return instruction.target is not None or bool(_ENDS.match(instruction.mnemonic))


def _dominators(successors: list[list[int]], predecessors: list[list[int]]) -> list[int]:
    """For each block the bits of the blocks that every path to it goes through."""
    everything = (1 << len(successors)) - 1
    found = [1] + [everything] * (len(successors) - 1)
    changed = True
    while changed:
        changed = False
        for block in range(1, len(successors)):
            common = everything
            for other in predecessors[block]:
                common &= found[other]
            common |= 1 << block
            if common != found[block]:
                found[block], changed = common, True
    return found


def _natural(latch: int, header: int, predecessors: list[list[int]]) -> int:
    """Bits of the blocks from which the latch is reached without the header, and the header."""
    bits, queue = 1 << header | 1 << latch, [latch]
    while queue:
        block = queue.pop()
        if block == header:
            continue
        for other in predecessors[block]:
            if not bits >> other & 1:
                bits |= 1 << other
                queue.append(other)
    return bits


def _avoidable(block: int, header: int, bits: int, successors: list[list[int]]) -> bool:
    """Whether a turn, from header to header, can go round a block."""
    seen, queue = 1 << header | 1 << block, [header]
    while queue:
        for following in successors[queue.pop()]:
            if following == header:
                return True
            if bits >> following & 1 and not seen >> following & 1:
                seen |= 1 << following
                queue.append(following)
    return False
