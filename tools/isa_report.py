"""Reads every compiled AMD kernel, compares it with the budget, writes docs/isa.md.

python -m tools.isa_report                     compile, compare; exit 1 on a breach
python -m tools.isa_report --update            also tighten the budget and write docs/isa.md
python -m tools.isa_report --update --reset 'matvec_kernel<*>'   loosen a row of the budget
python -m tools.isa_report --arch gfx1100      only these (repeat for more)
python -m tools.isa_report --representative    all of it for gfx1100, less for the others, to which
                                               alone their measured limits apply
python -m tools.isa_report --library FILE.so   the code objects inside a compiled library
python -m tools.isa_report --execute           run products on the emulator and record their counts
python -m tools.isa_report --ggml FILE.so      measure and run ggml's kernels and record that
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from tools.amd import peer
from tools.amd.analysis import Measure, measure
from tools.amd.architectures import ARCHITECTURES
from tools.amd.budget import BUDGET, Breach, Budget
from tools.amd.code_object import CodeObject
from tools.amd.emulator import Emulator
from tools.amd.execution import EXECUTED, execute_ggml, execute_ours
from tools.amd.fat_binary import code_objects
from tools.amd.report import render
from tools.amd.toolchain import (
    ROOT,
    CodeObjectFile,
    Toolchain,
    ToolchainError,
    kernel_sources,
    representative_sources,
)

WHOLE = "gfx1100"  # with --representative, the architecture that everything is compiled for
DOC = ROOT / "docs" / "isa.md"


def measure_all(images: Sequence[bytes], budget: Budget) -> Iterator[Measure]:
    """Measures of every kernel in the code objects."""
    with ProcessPoolExecutor() as pool:
        for measures in pool.map(measure_one, images, repeat(budget)):
            yield from measures


def measure_one(image: bytes, budget: Budget) -> list[Measure]:
    """Measures of the kernels of one code object."""
    code = CodeObject(image)
    kernels = code.kernels.values()
    found = {k.symbol: budget.weights(k.name) for k in kernels}
    weights = {symbol: numbers for symbol, numbers in found.items() if numbers is not None}
    lds = {k.symbol: budget.dynamic_lds(k.name) for k in kernels}
    return list(measure(code, weights, dynamic_lds=lds))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Judges compiled AMD kernels by the budget.")
    parser.add_argument("--arch", action="append", choices=sorted(ARCHITECTURES))
    parser.add_argument("--budget", type=Path, default=BUDGET)
    parser.add_argument("--doc", type=Path, default=DOC)
    parser.add_argument("--representative", action="store_true")
    parser.add_argument("--library", type=Path, help="a compiled library instead of csrc/hip")
    parser.add_argument(
        "--source", type=Path, action="append", help="this file instead of csrc/hip"
    )
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--reset", action="append", default=[], metavar="ROW")
    parser.add_argument("--execute", action="store_true")
    parser.add_argument("--ggml", type=Path, metavar="LIBRARY")
    parser.add_argument("--ggml-version", default="0.27.0-1", metavar="VERSION")
    options = parser.parse_args(arguments)
    try:
        return report(options)
    except (ToolchainError, ValueError, OSError) as error:
        print(f"isa_report: {error}", file=sys.stderr)
        return 2


def record_ggml(toolchain: Toolchain, library: Path, version: str) -> None:
    """Writes what docs/isa.md says of ggml."""
    image, symbols = peer.one_row_products(library)
    emulator = Emulator(toolchain)
    executed = execute_ggml(emulator, image, symbols)
    read = peer.measure_ggml(image, symbols)
    peer.record({name: read[name] | executed[name] for name in read}, peer.RECORD, version)
    emulator.close()


def record_ours(toolchain: Toolchain) -> None:
    """Writes what docs/isa.md says of our products as they run."""
    emulator = Emulator(toolchain)
    rows = [execute_ours(emulator, name) for name in peer.WEIGHTS_PER_TURN]
    peer.record({name: counts for found in rows for name, counts in found.items()}, EXECUTED)
    emulator.close()


def summarise(breaches: Sequence[Breach]) -> Iterator[str]:
    """One line per kernel and problem, with every architecture that has it."""
    archs: dict[tuple[str, str], list[str]] = {}
    for breach in breaches:
        archs.setdefault((breach.kernel, breach.problem), []).append(breach.arch)
    for (kernel, problem), names in archs.items():
        yield f"{kernel} on {', '.join(names)}: {problem}"


def kernel_names(files: Sequence[CodeObjectFile]) -> set[str]:
    codes = (CodeObject.read(file.path) for file in files)
    return {kernel.name for code in codes for kernel in code.kernels.values()}


def report(options: argparse.Namespace) -> int:
    """Does what the command line asks for; returns the exit status."""
    toolchain = Toolchain.find()
    if options.ggml:
        record_ggml(toolchain, options.ggml, options.ggml_version)
    if options.execute:
        record_ours(toolchain)
    budget = Budget.read(options.budget)
    archs = options.arch or list(ARCHITECTURES)
    files: list[CodeObjectFile] = []
    limited: set[str] | None = None  # kernels with measured limits; None: all
    if options.library:
        images = [image for arch, image in code_objects(options.library) if arch in archs]
    else:
        sources = options.source or kernel_sources()
        whole = [a for a in archs if a == WHOLE or not options.representative]
        files = toolchain.compile_all(sources, whole)
        rest = [arch for arch in archs if arch not in whole]
        files += toolchain.compile_all(representative_sources() if rest else [], rest)
        images = [file.path.read_bytes() for file in files]
        if not options.source and not options.representative:
            limited = kernel_names(toolchain.compile_all(representative_sources(), [WHOLE]))
    measures = list(measure_all(images, budget))
    held: list[Measure] = []
    others: list[Measure] = []
    for m in measures:
        is_held = limited is None or m.arch.name == WHOLE or m.kernel.name in limited
        (held if is_held else others).append(m)
    for row in options.reset:
        budget.reset(row)
    if options.update:
        budget.update(held, toolchain.release)
        options.budget.write_text(budget.text(), encoding="utf-8")
        page = render(measures, budget, toolchain.version, files)
        options.doc.write_text(page, encoding="utf-8")
    elif not budget.judges_measures(toolchain.version):
        print(
            f"The measured limits are of LLVM {budget.data['compiler']} and this is "
            f"{toolchain.version}: only scratch, spills and required instructions are judged."
        )
    breaches = budget.breaches(held, toolchain.version) + budget.breaches_of_design(others)
    for line in budget.faults():
        print(f"known fault: {line}")
    for line in summarise(breaches):
        print(line)
    for arch in archs if files else ():
        seconds = sum(file.seconds for file in files if file.arch == arch)
        print(f"{arch}: {seconds:.1f} s to compile")
    kernels = len({m.kernel.name for m in measures})
    print(f"{kernels} kernels on {', '.join(archs)}: {len(breaches)} outside the budget")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
