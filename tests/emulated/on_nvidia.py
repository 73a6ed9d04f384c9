"""The simulator of NVIDIA's path in the place of the emulator of AMD code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.amd.emulator import Emulator, Run
from tools.nvidia import Simulator


class OnNvidia(Emulator):
    """Launches as an `Emulator` does; of what was run it gives the results alone."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.late: Mapping[int, NDArray[np.bool_]] = {}  # of the next launches

    def launch(
        self,
        sources: Any,
        arch: str,
        function: str,
        values: Sequence[Any],
        timeout: float = 300.0,
        kernels: Any = None,
    ) -> Run:
        outputs = self._simulator.launch(function, values, self.late)
        nothing: Counter[Any] = Counter()
        return Run(outputs, [], nothing, {}, nothing, nothing, 0, 0)
