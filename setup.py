"""Builds the kernel libraries: one for the CPU, one for the GPU when there is a compiler for it.

The libraries hold no Python symbol (libtorch's stable C++ interface only), so one file serves
every Python and every PyTorch from 2.10 on. Which are built is decided by the compilers and the
torch of the environment, never by the card that happens to be plugged in; for which cards, by the
variables, else by the cards present, else it is a list:

    ROCMFORGE_DEVICES=cpu,hip,cuda   build exactly these (default: cpu, and hip or cuda when
                                     the compiler and a torch for it are found)
    PYTORCH_ROCM_ARCH=gfx1100;...    AMD architectures ("native": the cards present)
    TORCH_CUDA_ARCH_LIST=9.0;...     NVIDIA architectures ("native": the cards present)
    MAX_JOBS=N                       parallel compilations
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = Path("csrc")
TORCH_TARGET = "0x020a000000000000"  # libtorch's stable interface as of 2.10

# Device -> the variable that names its architectures, those without it and without a card, and
# what prints those of the cards present.
ARCH_VARIABLES = {"hip": "PYTORCH_ROCM_ARCH", "cuda": "TORCH_CUDA_ARCH_LIST"}
DEFAULT_ARCHS = {
    "hip": "gfx1030;gfx1100;gfx1101;gfx1102;gfx1151;gfx1200;gfx1201;gfx90a;gfx942",
    "cuda": "8.0;8.6;8.9;9.0",
}
CARD_QUERIES = {
    "hip": (["rocm_agent_enumerator"], ["amdgpu-arch"]),
    "cuda": (["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],),
}
ARCH_NAME = {"hip": re.compile(r"gfx[0-9a-f]+"), "cuda": re.compile(r"\d+\.\d+[af]?(\+PTX)?")}
NO_CARD = "gfx000"  # what rocm_agent_enumerator calls the processor

# Every file of csrc/cpu/kernels is compiled once per instruction set; the best is chosen at run
# time. On other processors than x86-64 there is one, and the compiler vectorises it.
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512vbmi"]
X86_INSTRUCTION_SETS = {"portable": [], "avx2": AVX2, "avx512": [*AVX2, *AVX512]}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = X86_INSTRUCTION_SETS if IS_X86 else {"portable": []}


@dataclass(frozen=True)
class Torch:
    """The PyTorch of the environment that this package is being installed into."""

    root: Path
    version: str
    cuda: str | None
    hip: str | None

    @classmethod
    def find(cls) -> Torch:
        # A fresh isolated interpreter sees the environment's own packages even from inside
        # pip's isolated build; torch/version.py is read without importing torch.
        code = (
            "import importlib.util as u, json, pathlib, runpy;"
            "s = u.find_spec('torch');"
            "root = pathlib.Path(s.origin).parent if s else None;"
            "v = runpy.run_path(str(root / 'version.py')) if root else {};"
            "print(json.dumps([str(root) if root else None, v.get('__version__'),"
            " v.get('cuda'), v.get('hip')]))"
        )
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
        root, version, cuda, hip = json.loads(done.stdout) if done.returncode == 0 else [None] * 4
        if root is None:
            raise SystemExit(
                "rocmforge_torch: no PyTorch in this environment. Install the PyTorch for your "
                "device first (CPU, ROCm or CUDA, 2.10 or newer); if your installer builds in an "
                "environment of its own, add --no-build-isolation."
            )
        return cls(Path(root), version, cuda, hip)


def choose_devices(torch: Torch) -> list[str]:
    """The devices to build for, with the reason for each printed."""
    asked = os.environ.get("ROCMFORGE_DEVICES")
    found = {"hip": shutil.which("hipcc"), "cuda": shutil.which("nvcc")}
    wanted = {"hip": torch.hip, "cuda": torch.cuda}
    names = ["cpu"] if asked is None else asked.replace(" ", "").split(",")
    devices = ["cpu"] if "cpu" in names else []
    print(f"rocmforge_torch: building against PyTorch {torch.version} in {torch.root}")
    print("  cpu:  yes" if devices else f"  cpu:  no (ROCMFORGE_DEVICES={asked})")
    for device in ("hip", "cuda"):
        compiler = found[device]
        if asked is not None:
            chosen = device in names
            reason = f"ROCMFORGE_DEVICES={asked}"
        else:
            chosen = bool(compiler and wanted[device])
            reason = f"compiler: {compiler or 'none found'}, PyTorch built for it: " + (
                wanted[device] or "no"
            )
        if chosen and not compiler:
            raise SystemExit(
                f"rocmforge_torch: {device} was asked for but its compiler is not on PATH"
            )
        print(f"  {device + ':':5} {'yes' if chosen else 'no'} ({reason})")
        if chosen:
            devices.append(device)
    if {"hip", "cuda"} <= set(devices):
        raise SystemExit("rocmforge_torch: choose hip or cuda, not both: torch has one GPU key")
    return devices


class NinjaFile:
    """A build.ninja being written: compile edges with header tracking, one link edge."""

    def __init__(self, build_dir: Path) -> None:
        self.build_dir = build_dir
        self.lines = [
            "rule compile",
            "  command = $cmd -MD -MF $out.d",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            "  command = $cmd",
            "  description = link $out",
        ]
        self.objects: list[str] = []

    def compile(self, source: Path, command: list[str], tag: str = "") -> None:
        name = "_".join(source.with_suffix("").parts) + (f".{tag}" if tag else "") + ".o"
        out = self.build_dir / name
        command = [*command, "-c", str(source), "-o", str(out)]
        self.lines += [f"build {out}: compile {source}", f"  cmd = {' '.join(command)}"]
        self.objects.append(str(out))

    def link(self, out: Path, command: list[str]) -> None:
        command = [*command, *self.objects, "-o", str(out)]
        self.lines += [
            f"build {out}: link {' '.join(self.objects)}",
            f"  cmd = {' '.join(command)}",
        ]

    def run(self) -> None:
        import ninja

        self.build_dir.mkdir(parents=True, exist_ok=True)
        path = self.build_dir / "build.ninja"
        path.write_text("\n".join(self.lines) + "\n")
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        subprocess.run(
            [Path(ninja.BIN_DIR) / "ninja", "-f", path, "-j", jobs], cwd=ROOT, check=True
        )


def launcher() -> list[str]:
    """ccache in front of the compiler where it is installed."""
    return ["ccache"] if shutil.which("ccache") else []


def sources(*patterns: str) -> list[Path]:
    return sorted(p.relative_to(ROOT) for pattern in patterns for p in (ROOT / CSRC).glob(pattern))


def torch_flags(torch: Torch) -> tuple[list[str], list[str]]:
    compile_flags = [
        f"-isystem {torch.root / 'include'}",
        f"-isystem {torch.root / 'include/torch/csrc/api/include'}",
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET}",
        "-Icsrc",
    ]
    # --no-as-needed: the names must stand in DT_NEEDED, so that the loader binds the library
    # to the libtorch that is already in the process.
    # libstdc++ before them: libc10 exports pieces of another one, which streams crash with.
    link_flags = [
        "-Wl,--no-as-needed",
        "-lstdc++",
        f"-L{torch.root / 'lib'}",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
    return compile_flags, link_flags


def build_cpu(torch: Torch, out: Path, build_dir: Path) -> None:
    cxx = os.environ.get("CXX", "g++")
    compile_flags, link_flags = torch_flags(torch)
    # No contraction: dequantize and quantize are bit-exact, so a*b+c must round twice;
    # kernels that want a fused multiply-add ask for it by name.
    common = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-ffp-contract=off"]
    common.append("-Wno-psabi")  # vectors wider than the registers are only passed inline
    sets = "".join(f" -DROCMFORGE_HAS_{name.upper()}" for name in INSTRUCTION_SETS).split()
    ninja = NinjaFile(build_dir)
    for source in sources("ops/*_cpu.cpp"):
        ninja.compile(source, [*launcher(), cxx, *common, *compile_flags])
    for source in sources("cpu/*.cpp", "cpu/quantize/*.cpp"):
        ninja.compile(source, [*launcher(), cxx, *common, "-Icsrc", *sets])
    # Vectors are passed between inlined functions only, and GCC 12 warns of its own intrinsics.
    quiet = ["-Wno-psabi", "-Wno-maybe-uninitialized"]
    for source in sources("cpu/kernels/*.cpp"):
        for name, flags in INSTRUCTION_SETS.items():
            isa = [f"-DROCMFORGE_ISA={name}", *quiet, *flags]
            ninja.compile(source, [*launcher(), cxx, *common, "-Icsrc", *isa], tag=name)
    # A symbol that nothing defines must fail here, not when the library is loaded.
    ninja.link(out, [cxx, "-shared", "-Wl,-z,defs", *link_flags])
    ninja.run()


def present_archs(device: str) -> list[str]:
    """The architectures of the cards of this machine."""
    for command in CARD_QUERIES[device]:
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True)
            lines = {line.strip() for line in done.stdout.splitlines()} - {NO_CARD}
            found = sorted(line for line in lines if ARCH_NAME[device].fullmatch(line))
            if done.returncode == 0 and found:
                return found
    return []


def gpu_archs(device: str) -> list[str]:
    """The architectures to build for, as the device's variable writes them."""
    variable = ARCH_VARIABLES[device]
    asked = os.environ.get(variable, "").replace(" ", ";").replace(",", ";")
    if asked not in ("", "native"):
        names = [name for name in asked.split(";") if name]
        for name in names:
            if not ARCH_NAME[device].fullmatch(name):
                raise SystemExit(f"rocmforge_torch: {variable} holds {name!r}, no architecture")
        return names
    present = present_archs(device)
    if asked == "native" and not present:
        raise SystemExit(f"rocmforge_torch: {variable}=native, but no card was found")
    return present or DEFAULT_ARCHS[device].split(";")


def cuda_arch_flags(archs: list[str]) -> tuple[list[str], list[str]]:
    """(flags, what the library will hold); the newest architecture also as PTX, which later cards
    can run."""
    numbers = [a.removesuffix("+PTX").replace(".", "") for a in archs]
    newest = max(numbers, key=lambda n: int(n.rstrip("af")))
    # sm_90a is sm_90 with matrix units for four waves together, which no other card has.
    exact = ["90a" if n == "90" else n for n in numbers]
    flags = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in exact]
    if "90a" in exact:
        flags.append("-DROCMFORGE_WARPGROUPS")
    flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return flags, [*(f"sm_{n}" for n in numbers), f"compute_{newest}"]


def stub_library(name: str, build_dir: Path) -> list[str]:
    """Link flags for an empty library called NAME: its soname lands in DT_NEEDED.

    A device library built beside the CPU wheel needs libtorch_cuda only at run time.
    """
    build_dir.mkdir(parents=True, exist_ok=True)
    path = build_dir / f"lib{name}.so"
    subprocess.run(
        ["g++", "-shared", "-x", "c++", "/dev/null", "-o", path, f"-Wl,-soname,{path.name}"],
        check=True,
    )
    return [f"-L{build_dir}", f"-l{name}"]


def build_gpu(device: str, torch: Torch, out: Path, build_dir: Path) -> None:
    compile_flags, link_flags = torch_flags(torch)
    torch_gpu = f"torch_{device}"
    if (torch.root / "lib" / f"lib{torch_gpu}.so").exists():
        link_flags.append(f"-l{torch_gpu}")
    else:
        link_flags += stub_library(torch_gpu, build_dir)
    ninja = NinjaFile(build_dir)
    host = [
        os.environ.get("CXX", "g++"),
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
    ]
    archs = gpu_archs(device)
    print(f"  architectures: {' '.join(archs)}")
    if device == "cuda":
        arch_flags, inside = cuda_arch_flags(archs)
    else:
        arch_flags, inside = [f"--offload-arch={arch}" for arch in archs], archs
    for source in sources("ops/*_gpu.cpp"):
        # The one file that knows them, so that another list compiles no other file again.
        names = [f"'-DROCMFORGE_ARCHITECTURES=\"{' '.join(inside)}\"'"]
        flags = names if source.stem == "control_gpu" else []
        ninja.compile(source, [*launcher(), *host, *compile_flags, *flags])
    if device == "cuda":
        nvcc = [
            "nvcc",
            "-std=c++17",
            "-O3",
            "--expt-relaxed-constexpr",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-Icsrc",
        ]
        compiler = [*nvcc, "-x", "cu", *arch_flags]
        link = ["nvcc", "-shared", "-cudart", "static"]
        link_flags = [f.replace("-Wl,", "-Xlinker=") for f in link_flags]
    else:
        hipcc = ["hipcc", "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Icsrc"]
        compiler = [*hipcc, *arch_flags]
        link = ["hipcc", "-shared"]
    for source in sources("hip/*.hip"):
        ninja.compile(source, [*launcher(), *compiler])
    ninja.link(out, [*link, *link_flags])
    ninja.run()


class BuildLibraries(build_ext):
    """Runs ninja per library; file names carry no Python version."""

    def get_ext_filename(self, ext_name: str) -> str:
        return os.path.join(*ext_name.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        # Where an in-place build is copied to; a fresh clone has no such folder.
        (ROOT / self.get_ext_filename(ext.name)).parent.mkdir(exist_ok=True)
        device = ext.name.rpartition("_")[2]
        build_dir = Path(os.environ.get("ROCMFORGE_BUILD_DIR", ROOT / "build" / "ninja")) / device
        torch = Torch.find()
        if device == "cpu":
            build_cpu(torch, out, build_dir)
        else:
            build_gpu(GPU_DEVICE, torch, out, build_dir)


class AnyPythonWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


DEVICES = choose_devices(Torch.find()) if "egg_info" not in sys.argv else ["cpu"]
GPU_DEVICE = next((device for device in DEVICES if device != "cpu"), "")
LIBRARIES = ["cpu" if device == "cpu" else "gpu" for device in DEVICES]

setup(
    ext_modules=[
        Extension(f"rocmforge_torch.lib.librocmforge_{device}", sources=[]) for device in LIBRARIES
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
