"""Every example has a test of its own."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def test_every_example_has_a_test_that_runs_it() -> None:
    examples = {path.stem for path in (HERE.parents[1] / "examples").glob("*.py")}
    tests = {
        path.stem.removeprefix("test_example_"): path for path in HERE.glob("test_example_*.py")
    }
    assert examples
    assert tests.keys() == examples
    for name, path in tests.items():
        text = path.read_text()
        ways = f'run_example("{name}.py"', f"from examples import {name}\n"
        assert any(way in text for way in ways), f"{path.name} does not run {name}.py"
        assert "assert " in text, f"{path.name} asserts on nothing"
