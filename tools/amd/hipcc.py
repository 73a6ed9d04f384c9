"""A stand-in for ROCm's hipcc that compiles no kernel twice: the code objects of
`Toolchain.compile`, which are kept, go into the host's object as clang puts them there.

usage: python -m tools.amd.hipcc ARGUMENTS      as hipcc's, for one file (-c) or to link
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.amd.toolchain import Toolchain, find_program, run

ARCH = "--offload-arch="


def compile_file(toolchain: Toolchain, args: Sequence[str]) -> None:
    """The object of the file behind -c, for the host, with device code for every --offload-arch."""
    source = Path(args[args.index("-c") + 1]).resolve()
    archs = [arg.removeprefix(ARCH) for arg in args if arg.startswith(ARCH)]
    others = [arg for arg in args if not arg.startswith(ARCH)]
    codes = [toolchain.compile(source, arch).path for arch in archs]
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/bundle.hipfb"
        targets = ["host-x86_64-unknown-linux-gnu"]
        targets += [f"hipv4-amdgcn-amd-amdhsa--{arch}" for arch in archs]
        bundler = [find_program("clang-offload-bundler"), "-type=o", "-bundle-align=4096"]
        inputs = [f"-input={path}" for path in (os.devnull, *codes)]
        run([*bundler, f"-targets={','.join(targets)}", *inputs, f"-output={bundle}"])
        host = [*toolchain.hip_flags([]), "--cuda-host-only"]
        host += ["-Xclang", "-fcuda-include-gpubinary", "-Xclang", bundle]
        # Each object defines a symbol of its own name, else several do not link.
        host += ["-Xclang", f"-cuid={source.stem}"]
        run([find_program("clang++"), *host, *others])


def main(args: Sequence[str]) -> None:
    if "-c" in args:
        return compile_file(Toolchain.find(), args)
    run([find_program("clang++"), f"-fuse-ld={find_program('lld')}", *args, "-lamdhip64"])


if __name__ == "__main__":
    main(sys.argv[1:])
