"""GGUF to safetensors to GGUF, as gguf-py reads both ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from small_files import write_gguf as write_every_type

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf import TensorSource, write_gguf
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.safetensors_io import (
    gguf_to_safetensors,
    safetensors_to_gguf,
    save_safetensors,
)

KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "general.alignment": np.uint32(64),
    "a.text": 'héllo\n"\\ \x00 漢字',
    "a.bool": np.bool_(True),
    **{f"a.{t}": np.dtype(t).type(100) for t in ("uint8", "int8", "uint16", "int16")},
    "a.uint64": np.uint64(2**64 - 1),
    "a.int64": np.int64(-(2**63)),
    "a.float32": np.float32(0.1),
    "a.float64": np.float64(0.1),
    "a.infinity": np.float32("-inf"),
    "b.texts": ["", "a", "▁b", "\n"],
    "b.bools": np.array([True, False, True]),
    "b.uint8": np.arange(5, dtype=np.uint8),
    "b.int64": np.array([-(2**62), 3]),
    "b.uint64": np.array([2**63 + 1], np.uint64),
    "b.float32": np.array([0.1, -1e30, 3e-42], np.float32),
    "b.float64": np.array([0.1, np.pi]),
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with their types and tensors with their bytes, in the order of the file."""
    reader = gguf.GGUFReader(path)
    keys = {
        key: (field.types, field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    tensors = {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
    return keys, tensors


def assert_same(first: Path, second: Path) -> None:
    for one, other in zip(read(first), read(second), strict=True):
        assert list(one) == list(other)
        assert one == other


@pytest.fixture
def every_key(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    shapes = {"w": (6, 5, 4, 3), "one": (7,), "matrix": (3, 64)}
    tensors = [
        (name, torch.from_numpy(rng.standard_normal(shape))) for name, shape in shapes.items()
    ]
    tensors.append(("half", tensors[2][1].half()))
    write_gguf(tmp_path / "keys.gguf", KEYS, tensors)
    return tmp_path / "keys.gguf"


@pytest.mark.parametrize("most", [None, 1, 2000])
def test_keys_come_back(every_key: Path, tmp_path: Path, most: int | None) -> None:
    files = gguf_to_safetensors(every_key, tmp_path / "a.safetensors", max_shard_bytes=most)
    assert len(files) == {None: 1, 1: 4, 2000: 2}[most]
    safetensors_to_gguf(tmp_path / "a.safetensors", tmp_path / "back.gguf")
    assert_same(every_key, tmp_path / "back.gguf")
    assert len(gguf.GGUFReader(tmp_path / "back.gguf").fields) == len(KEYS) + 3  # and counts


@pytest.mark.parametrize("order", "<>")
def test_every_type_of_tensor_comes_back(tmp_path: Path, order: str) -> None:
    """A big-endian file comes back little-endian; gguf-py's own table of sizes lacks Q8_1's."""
    write_every_type(tmp_path / "plain.gguf", order)
    file = load_gguf(tmp_path / "plain.gguf")
    source = tmp_path / "source.gguf"
    write_gguf(source, {"general.architecture": "llama"}, file.tensors.items())
    gguf_to_safetensors(source, tmp_path / "a.safetensors")
    safetensors_to_gguf(tmp_path / "a.safetensors", tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()


def test_the_demo_model_comes_back_byte_for_byte(demo_model_path: Path, tmp_path: Path) -> None:
    most = 50 << 20
    files = gguf_to_safetensors(demo_model_path, tmp_path / "a.safetensors", max_shard_bytes=most)
    # The embedding table alone is larger than a file should be.
    assert [file.stat().st_size > most + (8 << 20) for file in files].count(True) == 1
    index = json.loads((tmp_path / "a.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    safetensors_to_gguf(tmp_path / "a.safetensors.index.json", tmp_path / "back.gguf")
    assert_same_bytes(demo_model_path, tmp_path / "back.gguf")


def assert_same_bytes(first: Path, second: Path) -> None:
    with first.open("rb") as one, second.open("rb") as other:
        while piece := one.read(1 << 24):
            assert piece == other.read(1 << 24)
        assert not other.read(1)


MEASURE = """
import sys, threading, re
from rocmforge_torch.safetensors_io import (
    gguf_to_safetensors,
    safetensors_to_gguf,
    save_safetensors,
)

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
gguf_to_safetensors(sys.argv[1], sys.argv[2])
safetensors_to_gguf(sys.argv[2], sys.argv[3])
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_no_tensor_is_held_in_memory(tmp_path: Path) -> None:
    """A process that converts 96 MiB both ways takes less than half of one of its six tensors."""
    rows = torch.arange(1 << 20, dtype=torch.uint8).reshape(-1, 8192)
    sources = [
        TensorSource(f"w{i}", quant_type("I8"), (2048, 8192), lambda: (rows for _ in range(16)))
        for i in range(6)
    ]
    write_gguf(tmp_path / "a.gguf", {"general.architecture": "llama"}, sources)
    paths = [str(tmp_path / name) for name in ("a.gguf", "a.safetensors", "b.gguf")]
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) < 8 << 10  # KiB
    assert_same_bytes(tmp_path / "a.gguf", tmp_path / "b.gguf")


def test_no_metadata(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", {"x": torch.ones(3)})
    with pytest.raises(ValueError, match="the header holds no GGUF metadata"):
        safetensors_to_gguf(tmp_path / "a.safetensors", tmp_path / "b.gguf")
