"""How what compute-sanitizer says is read, with a script in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import sanitize

CALLS = '{"calls": {"rope": 6, "quant_matmul": 30}, "types": ["Q4_K"], "complete": true}'
CLEAN = {
    "memcheck": "========= ERROR SUMMARY: 0 errors",
    "racecheck": "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
}


def stand_in(folder: Path, text: str) -> str:
    script = folder / "compute-sanitizer"
    script.write_text(f"#!/bin/sh\ncat <<'X'\n========= COMPUTE-SANITIZER\n{text}\nX\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("tool", CLEAN)
def test_a_clean_run(tmp_path: Path, tool: str) -> None:
    result = sanitize.watch(stand_in(tmp_path, f"{CALLS}\n{CLEAN[tool]}"), tool, 1)
    assert sanitize.is_clean(result)
    assert result["summary"] == CLEAN[tool].strip("= ")


def result_of(tmp_path: Path, text: str) -> dict[str, Any]:
    return sanitize.watch(stand_in(tmp_path, text), "memcheck", 1)


def test_what_was_found_or_did_not_run_is_not_clean(tmp_path: Path) -> None:
    errors = result_of(tmp_path, f"{CALLS}\n========= ERROR SUMMARY: 3 errors")
    assert errors["found"] == 3
    crashed = result_of(tmp_path, "Traceback\n========= ERROR SUMMARY: 0 errors")
    silent = result_of(tmp_path, CALLS)
    assert not any(map(sanitize.is_clean, (errors, crashed, silent)))
    assert silent["summary"] == "did not finish"


def test_the_table(tmp_path: Path) -> None:
    result = {**result_of(tmp_path, f"{CALLS}\n{CLEAN['memcheck']}"), "seconds": 41.2}
    record = {
        "card": "Card",
        "torch": "2.11",
        "version": "compute-sanitizer 1",
        "results": [result],
    }
    row = "| memcheck | accesses out of bounds or misaligned | 36 | 2 | 1 | ERROR SUMMARY: 0 errors"
    assert f"{row} | 41 |" in sanitize.markdown(record).splitlines()


def test_without_the_tool_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sanitize, "PLACES", ())
    with pytest.raises(SystemExit, match="compute-sanitizer is not installed: it comes with"):
        sanitize.find_sanitizer()
