"""One-row products for gfx1100, ours beside ggml's: read by one tool, and run on one emulator.

Debian ships ggml's HIP backend compiled (package libggml0-backend-hip); docs/amd.md has the
commands that fetch it without installing. Its numbers are kept in ggml_gfx1100.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME

from .analysis import Measure, measure
from .code_object import CodeObject
from .fat_binary import code_objects

RECORD = Path(__file__).with_name("ggml_gfx1100.json")
ARCH = "gfx1100"
# Weights that a lane works through in one turn of the main loop: four per dot product, of which
# the K-quants with minimums spend every second on the sum of the activations.
WEIGHTS_PER_TURN = {"Q4_0": 16, "Q8_0": 8, "Q4_K": 16, "Q6_K": 8, "IQ4_XS": 32}
_TYPE = re.compile(r"^mul_mat_vec_q<\(ggml_type\)(\d+), 1, false, false, false>$")
_WEIGHTS = 0  # the first argument


def one_row_products(library: Path) -> tuple[bytes, dict[str, str]]:
    """The code object of ggml's one-row products, and their symbols by type.

    Raises ValueError when a kernel is not in the library.
    """
    ids = {QUANT_TYPES_BY_NAME[name].id: name for name in WEIGHTS_PER_TURN}
    for _, image in code_objects(library, ARCH):
        if b"mul_mat_vec_q" not in image:
            continue
        found = {}
        for kernel in CodeObject(image).kernels.values():
            match = _TYPE.match(kernel.name)
            if match and int(match[1]) in ids:
                found[ids[int(match[1])]] = kernel.symbol
        if set(found) == set(WEIGHTS_PER_TURN):
            return image, {name: found[name] for name in WEIGHTS_PER_TURN}
    raise ValueError(f"{library}: no one-row mul_mat_vec_q of {', '.join(WEIGHTS_PER_TURN)}")


def measure_ggml(image: bytes, symbols: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Per type the row of the table, as far as it can be read."""
    weights = dict.fromkeys(symbols.values(), (_WEIGHTS,))
    measures = {
        m.kernel.symbol: m for m in measure(CodeObject(image), weights, list(symbols.values()))
    }
    return {
        name: summary(measures[symbol], WEIGHTS_PER_TURN[name]) for name, symbol in symbols.items()
    }


def summary(m: Measure, weights_per_turn: int | None = None) -> dict[str, Any]:
    """The numbers of one product that can be compared between projects.

    weights_per_turn: of a lane (default: four for each of its dot products).
    """
    if m.loop is None:
        raise ValueError(f"{m.kernel.name}: no loop, so not a product over rows of any length")
    weights = weights_per_turn or 4 * m.loop.counts["dot"]
    return {
        "kernel": m.kernel.name,
        "vgprs": m.kernel.vgprs,
        "lds_bytes": m.kernel.lds_bytes,
        "scratch_bytes": m.kernel.scratch_bytes,
        "waves": m.occupancy,
        "weights_per_turn": weights,
        "instructions_per_weight": round(m.loop.instructions / weights, 2),
        "cycles_per_weight": round(m.loop.cycles / weights, 2),
        "dot": m.loop.counts["dot"],
        "loads": m.loop.counts["load"],
        "load16": m.loop.counts["load16"],
        "bytes_in_flight": m.in_flight,
    }


def record(rows: dict[str, dict[str, Any]], path: Path, version: str = "") -> None:
    """Writes a file that docs/isa.md is made from."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    rows_text = ",\n".join(lines)
    head = f'  "version": {json.dumps(version)},\n' if version else ""
    path.write_text(f'{{\n{head}  "rows": {{\n{rows_text}\n  }}\n}}\n', encoding="utf-8")


def recorded(path: Path) -> dict[str, Any]:
    """What `record` wrote."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
