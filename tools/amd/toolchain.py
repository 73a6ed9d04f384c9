"""Finds LLVM, the device bitcode and the HIP headers; compiles kernels without ROCm or a GPU."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "amd"
# As setup.py compiles the library (tests/tools/test_toolchain.py compares).
KERNEL_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden")
# The host half alone, launchers visible; an empty file stands where the device code would be.
HOST_FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "--cuda-host-only"),
    *("-Xclang", "-fcuda-include-gpubinary", "-Xclang", os.devnull),
)
LLVM_VERSIONS = ("-19", "-20", "-21", "")
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


REPRESENTATIVE = Path(__file__).with_name("representative.hip")


class ToolchainError(Exception):
    """Something needed is missing or a compilation failed; the message says what to do."""


def kernel_sources() -> list[Path]:
    """Every file of device code in the project."""
    return sorted((CSRC / "hip").glob("**/*.hip"))


def representative_sources() -> list[Path]:
    """The sources with one type of every family, and attention with float16 and q8_0 caches."""
    heavy = re.compile(
        r"^(matvec_|(multirow|tile)_(simple|k|grid|small)\.|dequantize"
        r"|attention_(tile|decode)_(bf16|e4m3|e5m2|q4_0)\.)"
    )
    light = [source for source in kernel_sources() if not heavy.match(source.name)]
    return [*light, REPRESENTATIVE]


@dataclass(frozen=True)
class CodeObjectFile:
    """A compiled code object: ELF for one architecture."""

    path: Path
    source: Path
    arch: str
    seconds: float  # of processor time that the compiler took, when it last ran


@dataclass(frozen=True)
class Toolchain:
    """LLVM's programs, the device bitcode and the HIP headers. `Toolchain.find()` makes one."""

    bitcode: Path
    headers: Path
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)

    @classmethod
    def find(cls) -> Toolchain:
        """From the environment (HIP_DEVICE_LIB_PATH, HIP_INCLUDE_PATH, ROCM_PATH), else build/amd.

        Raises ToolchainError naming what is missing.
        """
        rocm = [Path(p) for p in (os.environ.get("ROCM_PATH"), "/opt/rocm") if p]
        bitcode = _first_holding(
            "ockl.bc",
            [
                _from_env("HIP_DEVICE_LIB_PATH"),
                *(p / "amdgcn" / "bitcode" for p in rocm),
                *BUILD.glob("amdgcn-bitcode-*"),
            ],
            "AMD device bitcode: set HIP_DEVICE_LIB_PATH or ROCM_PATH",
        )
        headers = _first_holding(
            "hip/hip_runtime.h",
            [
                _from_env("HIP_INCLUDE_PATH"),
                *(p / "include" for p in rocm),
                *BUILD.glob("hip-headers-*/include"),
            ],
            "HIP headers: set HIP_INCLUDE_PATH or ROCM_PATH",
        )
        for program in ("clang++", "lld", "llvm-objdump", "llvm-mca", "llvm-as", "llvm-cxxfilt"):
            find_program(program)
        return cls(_complete_bitcode(bitcode), headers)

    @cached_property
    def version(self) -> str:
        """The compiler's own version line."""
        return run([find_program("clang++"), "--version"]).splitlines()[0]

    @property
    def release(self) -> str:
        """LLVM's release number, e.g. 19.1.7."""
        match = re.search(r"version (\d+(?:\.\d+)*)", self.version)
        if match is None:
            raise ToolchainError(f"the compiler does not say its release: {self.version}")
        return match[1]

    def hip_flags(self, archs: Sequence[str]) -> list[str]:
        """What clang needs to compile HIP for `archs` without a ROCm installation."""
        return [
            "-x",
            "hip",
            *(f"--offload-arch={arch}" for arch in archs),
            f"--rocm-device-lib-path={self.bitcode}",
            f"-isystem{self.headers}",
            "-D__HIP_PLATFORM_AMD__",
        ]

    def compile(self, source: Path, arch: str, flags: Sequence[str] = ()) -> CodeObjectFile:
        """One code object of `source` for `arch`, from the cache when nothing changed."""
        command = [
            find_program("clang++"),
            *self.hip_flags([arch]),
            *KERNEL_FLAGS,
            f"-I{CSRC}",
            *flags,
            "--cuda-device-only",
            "--no-gpu-bundle-output",
        ]
        path = BUILD / "objects" / f"{source.stem}.{arch}.{self._key(source, command)}.co"
        record = path.with_suffix(".seconds")
        if not (path.exists() and record.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            seconds = _timed([*command, "-o", str(scratch), str(source)])
            record.write_text(f"{seconds:.2f}")
            scratch.replace(path)
        return CodeObjectFile(path, source, arch, float(record.read_text()))

    def compile_all(
        self, sources: Iterable[Path], archs: Iterable[str], flags: Sequence[str] = ()
    ) -> list[CodeObjectFile]:
        """Every source for every architecture, `jobs` at a time, in the given order."""
        pairs = [(source, arch) for source in sources for arch in archs]
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(lambda pair: self.compile(pair[0], pair[1], flags), pairs))

    def host_library(self, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
        """The launchers of `sources` as a shared library for the host, without the device code.

        The HIP runtime stays undefined: whoever loads the library brings one.
        """
        clang = find_program("clang++")
        command = [clang, *self.hip_flags([]), *HOST_FLAGS, f"-I{CSRC}", *flags]
        with ThreadPoolExecutor(self.jobs) as pool:
            objects = list(pool.map(lambda source: self._host_object(source, command), sources))
        key = hashlib.sha256("\0".join(map(str, objects)).encode()).hexdigest()[:16]
        path = BUILD / "objects" / f"{sources[0].stem}.host.{key}.so"
        if not path.exists():
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            run([clang, "-shared", "-Wl,-z,lazy", "-o", str(scratch), *map(str, objects)])
            scratch.replace(path)
        return path

    def _host_object(self, source: Path, command: Sequence[str]) -> Path:
        # Each object defines a symbol of its own name, else several do not link.
        command = [*command, "-Xclang", f"-cuid={source.stem}"]
        path = BUILD / "objects" / f"{source.stem}.host.{self._key(source, command)}.o"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            run([*command, "-c", "-o", str(scratch), str(source)])
            scratch.replace(path)
        return path

    def hipcc(self) -> Path:
        """A stand-in for ROCm's `hipcc` (hipcc.py), for setup.py to find on PATH; returns its
        folder."""
        folder = BUILD / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "hipcc"
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tools.amd.hipcc "$@"\n'
        )
        script.chmod(0o755)
        return folder

    def _key(self, source: Path, command: Sequence[str]) -> str:
        digest = hashlib.sha256("\0".join([self.version, *command]).encode())
        for path in sorted(_with_includes(source)):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def find_program(name: str) -> str:
    """The path of an LLVM program: versioned on PATH, in ROCm's own LLVM, or unversioned."""
    stem = "ld.lld" if name == "lld" else name
    rocm = os.environ.get("ROCM_PATH", "/opt/rocm")
    for version in LLVM_VERSIONS:
        search = None if version else f"{rocm}/llvm/bin{os.pathsep}{os.environ.get('PATH', '')}"
        found = shutil.which(stem + version, path=search)
        if found:
            return found
    raise ToolchainError(
        f"{stem} is not on PATH: install LLVM 19 or newer "
        "(Debian: clang-19 lld-19 llvm-19 libamdhip64-dev) or ROCm"
    )


def run(command: Sequence[str | Path], stdin: str | None = None) -> str:
    """Standard output of a command; its failure becomes a ToolchainError with its messages."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolchainError(f"{Path(command[0]).name} failed:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def _timed(command: Sequence[str]) -> float:
    """Processor seconds of a command and its children; its failure becomes a ToolchainError."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
            raise ToolchainError(f"{Path(command[0]).name} failed:\n{text[-4000:]}")
    return usage.ru_utime + usage.ru_stime


def _from_env(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _first_holding(name: str, folders: Iterable[Path | None], hint: str) -> Path:
    for folder in folders:
        if folder is not None and (folder / name).exists():
            return folder
    raise ToolchainError(f"no {hint}, or unpack it under {BUILD.relative_to(ROOT)}")


def _complete_bitcode(bitcode: Path) -> Path:
    """A folder with everything of `bitcode`, plus the version files of RDNA4 where it is older.

    The file only sets the constant that device libraries compare the ISA version with.
    """
    missing = [v for v in ("1200", "1201") if not (bitcode / f"oclc_isa_version_{v}.bc").exists()]
    if not missing:
        return bitcode
    folder = BUILD / "bitcode"
    folder.mkdir(parents=True, exist_ok=True)
    for file in bitcode.glob("*.bc"):
        link = folder / file.name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    for version in missing:
        out = folder / f"oclc_isa_version_{version}.bc"
        if not out.exists():
            layout = run([find_program("clang++"), *_LAYOUT_OF_AMDGPU], stdin="")
            header = "\n".join(line for line in layout.splitlines() if line.startswith("target"))
            constant = (
                "@__oclc_ISA_version = linkonce_odr hidden local_unnamed_addr addrspace(4) "
                f"constant i32 {version[:2]}{int(version[2:]):03d}, align 4"
            )
            run([find_program("llvm-as"), "-o", str(out)], stdin=f"{header}\n{constant}\n")
    return folder


_LAYOUT_OF_AMDGPU = (
    *("-x", "c", "-target", "amdgcn-amd-amdhsa", "-nogpulib"),
    *("-S", "-emit-llvm", "-o", "-", "-"),
)


def _with_includes(source: Path) -> set[Path]:
    """`source` and every project header that it includes, directly or not."""
    seen: set[Path] = set()
    queue = [source.resolve()]
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            queue += [p.resolve() for p in (CSRC / name, path.parent / name) if p.exists()]
    return seen
