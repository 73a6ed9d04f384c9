"""ggml's own one-row products for gfx1100, measured by the same tool.

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


def measure_ggml(library: Path) -> dict[str, dict[str, Any]]:
    """Per type the row of the table. Raises ValueError when a kernel is not in the library."""
    ids = {QUANT_TYPES_BY_NAME[name].id: name for name in WEIGHTS_PER_TURN}
    found: dict[str, dict[str, Any]] = {}
    for _, image in code_objects(library, ARCH):
        if b"mul_mat_vec_q" not in image:
            continue
        code = CodeObject(image)
        names = {}
        for kernel in code.kernels.values():
            match = _TYPE.match(kernel.name)
            if match and int(match[1]) in ids:
                names[kernel.symbol] = ids[int(match[1])]
        weights = dict.fromkeys(names, (_WEIGHTS,))
        for m in measure(code, weights, list(names)) if names else ():
            name = names[m.kernel.symbol]
            found[name] = summary(m, WEIGHTS_PER_TURN[name])
    missing = set(WEIGHTS_PER_TURN) - set(found)
    if missing:
        raise ValueError(f"{library}: no one-row mul_mat_vec_q of {', '.join(sorted(missing))}")
    return {name: found[name] for name in WEIGHTS_PER_TURN}


def summary(m: Measure, weights_per_turn: int) -> dict[str, Any]:
    """The numbers of one product that can be compared between projects."""
    if m.loop is None:
        raise ValueError(f"{m.kernel.name}: no loop, so not a product over rows of any length")
    return {
        "kernel": m.kernel.name,
        "vgprs": m.kernel.vgprs,
        "scratch_bytes": m.kernel.scratch_bytes,
        "waves": m.occupancy,
        "weights_per_turn": weights_per_turn,
        "instructions": m.loop.instructions,
        "instructions_per_weight": round(m.loop.instructions / weights_per_turn, 2),
        "cycles_per_weight": round(m.loop.cycles / weights_per_turn, 2),
        "dot": m.loop.counts["dot"],
        "loads": m.loop.counts["load"],
        "load16": m.loop.counts["load16"],
        "bytes_in_flight": m.in_flight,
    }


def record(rows: dict[str, dict[str, Any]], version: str) -> None:
    """Writes the file that docs/isa.md is made from."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    rows_text = ",\n".join(lines)
    text = f'{{\n  "version": {json.dumps(version)},\n  "rows": {{\n{rows_text}\n  }}\n}}\n'
    RECORD.write_text(text, encoding="utf-8")
