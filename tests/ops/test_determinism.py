"""The bits of a result depend on the arguments alone: not on threads, little on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from op_samples import SAMPLES

from rocmforge_torch import extension

INSTRUCTION_SETS = ("portable", "avx2", "avx512")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_results_do_not_depend_on_the_number_of_threads(name: str, threads: None) -> None:
    torch.manual_seed(0)
    op = getattr(torch.ops.rocmforge, name)
    for sample in SAMPLES[name]():
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            call = sample.copy()
            result = op(*call.args, **call.kwargs)
            written = call.args[:2] if name.endswith("_") else ()
            given = result if isinstance(result, tuple) else (result,)
            results.append([t for t in (*written, *given) if t is not None])
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=0, equal_nan=True)


def test_the_instruction_set_is_one_of_those_built() -> None:
    assert extension.cpu_instruction_set() in INSTRUCTION_SETS


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    """Runs the comparison with the reference again, in a process of its own per instruction set."""
    script = "from rocmforge_torch import extension; print(extension.cpu_instruction_set())"
    env = os.environ | {"ROCMFORGE_CPU_ISA": name}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    chosen = done.stdout.strip()
    if chosen == extension.cpu_instruction_set():
        return  # test_contract.py has done it in this process
    if chosen != name:  # the processor lacks it: the portable kernels must have been taken
        assert chosen == "portable"
        return
    contract = Path(__file__).with_name("test_contract.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(contract)]
    command += ["-k", "computes"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
