"""Loads the one compiled CPU library under several PyTorch releases and runs the ops' tests there.

usage: python -m tools.check_abi [VERSION ...]      (default: the oldest, the built-for, the newest)

Each release gets a virtual environment under build/abi/, made once. The library is never rebuilt:
its digest is printed beside every result.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "rocmforge_torch" / "lib" / "librocmforge_cpu.so"
VERSIONS = ("2.10.0", "2.13.0", "2.15.0")
REQUIREMENTS = (
    "numpy gguf safetensors einops tokenizers jinja2 typer rich tqdm pytest hypothesis transformers"
)


def environment(version: str) -> Path:
    """The interpreter of an environment holding this torch release."""
    folder = ROOT / "build" / "abi" / version
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, f"torch=={version}"], check=True)
        subprocess.run([*pip, *REQUIREMENTS.split()], check=True)
        (folder / "ready").touch()
    return python


def run(version: str) -> tuple[str, str]:
    """(torch's own version string, pytest's last line) for the ops' tests under one release."""
    python = environment(version)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "import torch, rocmforge_torch; print(torch.__version__)"
    shown = subprocess.run(
        [python, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    tests = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    if tests.returncode:
        raise SystemExit(f"tests/ops failed under torch {version}:\n{tests.stdout[-4000:]}")
    return shown.stdout.strip(), tests.stdout.strip().splitlines()[-1].strip("= ")


def main() -> None:
    versions = sys.argv[1:] or VERSIONS
    digest = hashlib.sha256(LIBRARY.read_bytes()).hexdigest()
    print(f"{LIBRARY.name} sha256 {digest[:16]}")
    for version in versions:
        shown, result = run(version)
        print(f"torch {shown}: {result}", flush=True)
    if hashlib.sha256(LIBRARY.read_bytes()).hexdigest() != digest:
        raise SystemExit("the library changed during the run")


if __name__ == "__main__":
    main()
