from __future__ import annotations

from rocmforge_torch.ops import OPS
from tools import generate_op_docs


def test_the_page_is_what_the_generator_writes() -> None:
    text = generate_op_docs.PAGE.read_text()
    assert generate_op_docs.page(text) == text, "run python -m tools.generate_op_docs"


def test_every_op_has_a_row() -> None:
    text = generate_op_docs.PAGE.read_text()
    assert all(f"| [`{op}`](#{op}) |" in text and f"\n### {op}\n" in text for op in OPS)
