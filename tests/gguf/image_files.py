"""Files of image models, written by gguf-py as ComfyUI-GGUF's converter lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

FOLDED = 256  # elements of a row of a folded tensor


def write_image_gguf(
    path: Path,
    state: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    architecture: str = "flux",
) -> Path:
    """Write float32 arrays, each as the type that `kinds` names ("F32" where it names none);
    "folded TYPE" in rows of 256 elements, with the shape noted."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, values in state.items():
        folded, _, kind = kinds.get(name, "F32").rpartition(" ")
        if folded:
            shape = [int(n) for n in values.shape]
            writer.add_array(f"comfy.gguf.orig_shape.{name}", shape)
            values = values.reshape(-1, FOLDED)
        writer.add_tensor(name, gguf.quantize(values, Type[kind]), raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
