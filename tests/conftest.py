"""Fixtures of every test, and the list of what this machine could not run."""

from __future__ import annotations

import gc
import os
import textwrap
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import rocmforge_torch
from rocmforge_torch import extension
from rocmforge_torch.quant_types import QUANT_TYPES
from rocmforge_torch.tuning.limits import DEFAULT

DATA = Path(__file__).parent / "data"

# The suite draws the same examples in every run. `--hypothesis-profile=search` draws others, and
# many more of them (tests/fx multiply their own numbers, see examples()).
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile(
    "search",
    derandomize=False,
    deadline=None,
    max_examples=5_000,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
settings.load_profile("suite")


def choose_kernels_by_default() -> None:
    """Tests know which kernel takes how many rows, whatever this card's table says."""
    for index in range(torch.cuda.device_count()):
        for qtype in QUANT_TYPES:
            extension.set_product_limits(index, qtype, DEFAULT)


if extension.has_gpu_library():
    torch.cuda._lazy_call(choose_kernels_by_default)  # after the package has read the tables


@pytest.fixture(autouse=True)
def draws_of_its_own(request: pytest.FixtureRequest) -> None:
    """Each test draws the same numbers alone, after others, and in any order."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def demo_model_path() -> Path:
    """The Gemma 3 270M Q4_K_M file that `make demo` and `make test` assemble."""
    from rocmforge_torch.cli.demo_model import demo_model_file

    path = os.environ.get("ROCMFORGE_DEMO_MODEL")
    return Path(path) if path else demo_model_file()


@pytest.fixture
def exact() -> Iterator[None]:
    """Computes quantized products in float for the length of a test."""
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = True
    yield
    rocmforge_torch.config.exact = before


@pytest.fixture
def quick_gc() -> Iterator[None]:
    """Collections look at nothing that was there before: beside all that tests import, each would
    take the better part of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "gpu": None if torch.cuda.is_available() else "no GPU that torch can use",
        "emulated": None if os.environ.get("TINYGRAD_PATH") else "TINYGRAD_PATH is not set",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run, by reason and name; a name with its number of parametrizations."""
    not_run: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for report in terminalreporter.stats.get("skipped", []):
        file, _, name = report.nodeid.partition("::")
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        not_run[reason][file][name.partition("[")[0]] += 1
    for reason, files in not_run.items():
        count = sum(sum(names.values()) for names in files.values())
        terminalreporter.section(f"{count} tests did not run: {reason}")
        for file, names in files.items():
            listed = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in names.items())
            for line in textwrap.wrap(f"{file}: {listed}", 99, subsequent_indent="  "):
                terminalreporter.write_line(line)
