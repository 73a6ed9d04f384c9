"""`rocmforge doctor`: what this installation can do, whether it computes right, what is missing."""

from __future__ import annotations

import platform
import shutil
import textwrap
import warnings
from typing import Any

import typer

from .options import Debug, Json
from .output import console, print_json, progress_bar, table

PACKAGES = ("torch", "numpy", "gguf", "safetensors", "einops", "tokenizers", "jinja2")


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Show devices, kernels and missing parts; test every op numerically on every device."""
    report = _report()
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not report["healthy"]:
        raise typer.Exit(1)


def _report() -> dict[str, Any]:
    import torch

    from .. import extension

    devices = _devices()
    ops = _ops(devices)
    libraries = {device: str(path) for device, path in extension.loaded().items()}
    failed = [row for row in ops if row["test"] == "failed"]
    return {
        "healthy": not failed
        and "cpu" in libraries
        and not any(device.get("problem") for device in devices),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "torch": {"cuda": torch.version.cuda, "hip": torch.version.hip},
        "devices": devices,
        "libraries": libraries,
        "gpu_architectures": list(extension.gpu_architectures()),
        "cpu_instruction_set": extension.cpu_instruction_set(),
        "ops": ops,
        "advice": _advice(libraries, devices, ops),
    }


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for package in ("rocmforge_torch", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _devices() -> list[dict[str, Any]]:
    """The CPU and every GPU that torch can use; "problem" says that a GPU has no code, or that the
    table of its kernels' limits is none; "tables" are the files of those limits."""
    import torch

    from .. import extension
    from ..tuning import in_force

    found: list[dict[str, Any]] = [
        {
            "type": "cpu",
            "name": _cpu_name(),
            "threads": torch.get_num_threads(),
            "memory": _memory(),
        }
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "type": "cuda",
                "index": index,
                "name": properties.name,
                "architecture": extension.architecture(index),
                "memory": properties.total_memory,
                "problem": extension.missing_code(index) or in_force.problem(index),
                "tables": [str(path) for path in in_force.tables_of(index)],
            }
        )
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _ops(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every op and type of device: what runs, why, and how far it is from the reference.

    The first device of a type is tested, except those that no kernel can start on.
    """
    from ..ops import OPS
    from ..ops.kernels import kernel_of
    from . import self_test

    tested: dict[str, str] = {}
    for device in devices:
        if not device.get("problem"):
            index = f":{device['index']}" if "index" in device else ""
            tested.setdefault(device["type"], device["type"] + index)
    rows = []
    with warnings.catch_warnings(), progress_bar("testing ops", len(OPS) * len(tested)) as bar:
        warnings.simplefilter("ignore")  # "the reference runs" is what the table says
        for kind, place in tested.items():
            for op in OPS:
                kernel, why = kernel_of(op, kind)
                outcome = self_test.run(op, place)
                rows.append(
                    {
                        "op": op,
                        "device": kind,
                        "kernel": kernel,
                        "why": why,
                        "test": "passed" if outcome.passed else "failed",
                        "cases": outcome.cases,
                        "error": outcome.error if outcome.passed else None,
                        "limit": outcome.limit,
                        "problem": outcome.problem,
                    }
                )
                bar.update(1)
    return rows


def _advice(
    libraries: dict[str, str], devices: list[dict[str, Any]], ops: list[dict[str, Any]]
) -> list[str]:
    """What is missing or wrong, and what to do about it."""
    import torch

    advice = []
    if "cpu" not in libraries:
        advice.append(
            "The CPU has no kernels: install a C++17 compiler, then `pip install .` again."
        )
    gpus = [device for device in devices if device["type"] == "cuda"]
    if gpus and "gpu" not in libraries:
        compiler = "hipcc" if torch.version.hip else "nvcc"
        found = shutil.which(compiler)
        build = "" if found else f"put {compiler} on PATH, then "
        advice.append(f"{gpus[0]['name']} has no kernels: {build}`pip install .` again.")
    advice += [f"{device['problem']}." for device in gpus if device.get("problem")]
    if not gpus and torch.version.hip:
        advice.append(
            "torch is built for ROCm but finds no GPU: check `rocminfo`, that /dev/kfd is readable "
            "(groups video and render), and HIP_VISIBLE_DEVICES."
        )
    if not gpus and torch.version.cuda:
        advice.append("torch is built for CUDA but finds no GPU: check `nvidia-smi`.")
    if not gpus and not torch.version.hip and not torch.version.cuda:
        advice.append(
            "This torch is for the CPU only. For an AMD GPU install the ROCm build of torch "
            "(https://pytorch.org/get-started/locally), then `pip install .` again."
        )
    slow = [row["op"] for row in ops if row["kernel"] == "reference" and row["device"] == "cpu"]
    if slow and "cpu" in libraries:
        advice.append(
            f"Slow on the CPU, for want of a kernel: {', '.join(slow)}. "
            "If the library is older than the package, `pip install .` again."
        )
    for row in ops:
        if row["problem"]:
            advice.append(f"{row['op']} is wrong on {row['device']}: {row['problem']}.")
    return advice


def _show(report: dict[str, Any]) -> None:
    from .output import size

    out = console()
    packages = report["packages"]
    ours = packages["rocmforge_torch"] or "from its source folder"
    out.print(f"rocmforge_torch {ours}, Python {report['python']}, {report['platform']}")
    backends = report["torch"]
    gpu = next((f"{k.upper()} {v}" for k, v in backends.items() if v), "CPU only")
    others = ", ".join(f"{name} {packages[name] or 'MISSING'}" for name in PACKAGES[1:])
    out.print(f"torch {packages['torch']} ({gpu}), {others}")

    devices = table("Device", "Name", "Detail", ">Memory", title="\nDevices")
    for device in report["devices"]:
        detail = device.get("architecture") or (
            f"{device.get('threads')} threads, {report['cpu_instruction_set']}"
        )
        name = f"cuda:{device['index']}" if "index" in device else device["type"]
        memory = size(device["memory"]) if device["memory"] else "?"
        devices.add_row(name, device["name"], detail, memory)
    out.print(devices)
    for device in ("cpu", "gpu"):
        inside = report["gpu_architectures"] if device == "gpu" else []
        code = f" ({', '.join(inside)})" if inside else ""
        out.print(f"{device.upper()} library: {report['libraries'].get(device, 'none')}{code}")

    for device in report["devices"]:
        if device.get("tables"):
            out.print(f"cuda:{device['index']} chooses kernels by {', '.join(device['tables'])}")

    ops = table("Op", "Device", "Kernel", "Why", "Test", ">Cases", ">Error", title="\nOps")
    for row in report["ops"]:
        passed = row["test"] == "passed"
        ops.add_row(
            row["op"],
            row["device"],
            row["kernel"],
            row["why"],
            row["test"],
            str(row["cases"]),
            f"{row['error']:.0e}" if row["error"] else ("0" if passed else "?"),
            style=None if passed else "bold red",
        )
    out.print(ops)
    out.print("Error: squared error over squared size, against the op's reference.", style="dim")
    for line in report["advice"]:
        out.print(_wrapped(line, out.width))
    if report["healthy"]:
        out.print("Every op computes what it should.", style="green")


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(
        f"→ {line}",
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
