"""Runs compiled AMD code on tinygrad's instruction-level emulator (docs/amd.md, rung 3).

emulator = Emulator(toolchain)
x, out = Input(x_array), Output(poisoned(shape, np.float32))
run = emulator.launch(source, "gfx1100", "rms_norm", [0, x, stride, ...])    # a launcher
run = emulator.emulate(code_object, "rms_norm_kernel<float, float>", grid, block, [x, ...])
run.outputs[0], run.counts["global_load_b128"], run.lines[0]
"""

from __future__ import annotations

from .api import Emulator, Input, Output, Run
from .messages import Struct, poisoned
from .process import EmulationError

__all__ = ["EmulationError", "Emulator", "Input", "Output", "Run", "Struct", "poisoned"]
