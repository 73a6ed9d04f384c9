"""Instructions of a code object, by kernel (through llvm-objdump)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .code_object import CodeObject
from .toolchain import find_program, run

_HEADER = re.compile(r"^([0-9a-f]+) <(.+)>:$")
_LINE = re.compile(
    r"^\s+(?P<text>\S.*?)\s*// (?P<address>[0-9A-F]{8,}): (?P<words>[0-9A-F ]+?)"
    r"(?: <(?P<label>[^>]+?)(?:\+(?P<offset>0x[0-9a-f]+))?>)?$"
)
# A newer compiler's 16-bit operand (v10.h), which LLVM 19 prints as register 128 higher.
_HIGH_HALF = re.compile(r"v(\d+)/\*Invalid register[^*]*\*/")
_ENCODING = re.compile(r"_(e32|e64|dpp|sdwa|e64_dpp)$")


@dataclass(frozen=True)
class Instruction:
    address: int
    size: int
    mnemonic: str  # without the suffix that names the encoding
    operands: str
    text: str
    target: int | None  # of a branch

    @property
    def end(self) -> int:
        return self.address + self.size


def disassemble(code: CodeObject, symbols: Sequence[str] = ()) -> dict[str, list[Instruction]]:
    """Instructions of every function of a code object, or of the named ones."""
    chosen = [f"--disassemble-symbols={','.join(symbols)}"] if symbols else ["-d"]
    with tempfile.NamedTemporaryFile(suffix=".co") as file:
        Path(file.name).write_bytes(code.image)
        text = run([find_program("llvm-objdump"), *chosen, file.name])
    addresses = {name: address for name, (address, _) in code.symbols.items()}
    functions: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            addresses[header[2]] = int(header[1], 16)
            current = functions.setdefault(header[2], [])
            continue
        match = _LINE.match(line)
        if match:
            current.append(_instruction(match, addresses))
    functions.pop(".text", None)  # padding between functions
    return {name: _without_padding(body) for name, body in functions.items()}


def _instruction(match: re.Match[str], addresses: dict[str, int]) -> Instruction:
    text = _HIGH_HALF.sub(lambda m: f"v{int(m[1]) - 128}", match["text"])
    mnemonic, _, operands = text.partition(" ")
    target = None
    if match["label"] and match["label"] in addresses:
        target = addresses[match["label"]] + int(match["offset"] or "0", 16)
    return Instruction(
        address=int(match["address"], 16),
        size=4 * len(match["words"].split()),
        mnemonic=_ENCODING.sub("", mnemonic),
        operands=operands.strip(),
        text=text,
        target=target,
    )


def _without_padding(body: list[Instruction]) -> list[Instruction]:
    """Without what fills the last cache line."""
    end = len(body)
    while end and body[end - 1].mnemonic in ("s_code_end", "s_nop"):
        end -= 1
    return body[:end]
