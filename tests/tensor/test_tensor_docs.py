"""docs/tensor.md lists what is in the table, and its quick-start runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from rocmforge_torch.tensor.dispatch import OPS

PAGE = (Path(__file__).parents[2] / "docs/tensor.md").read_text()


def name(op: Any) -> str:
    return (op if isinstance(op, str) else op.name()).partition("::")[2].partition(".")[0]


def test_the_table_lists_every_op() -> None:
    table = PAGE.partition("<!-- ops -->")[2].partition("<!-- ops end -->")[0]
    listed = [
        w for row in table.splitlines() if row for w in re.findall("`(.*?)`", row.split("|")[2])
    ]
    assert sorted(listed) == sorted({name(op) for op in OPS})


def test_the_quick_start_runs() -> None:
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) <= 10
    values: dict[str, Any] = {}
    exec(code.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"'), values)
    assert values["y"].shape == (3, 512)
    assert torch.isfinite(values["x"]).all()
