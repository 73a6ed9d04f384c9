"""Models in several files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from rocmforge_torch.gguf import GGUFError, load_gguf
from rocmforge_torch.gguf.shard import COUNTERS
from tools.gguf_bytes import File, Tensor

COUNT = 3


def shards() -> list[File]:
    """Three shards with a tensor each; the first holds the model's keys."""
    files = []
    for number in range(COUNT):
        keys: list[tuple[str, tuple[object, ...]]] = [
            ("split.no", ("u16", number)),
            ("split.count", ("u16", COUNT)),
            ("split.tensors.count", ("i32", COUNT)),
            ("general.architecture", ("str", "llama")),
        ]
        if number == 0:
            keys += [("general.name", ("str", "Three")), ("ids", ("arr", "u32", [1, 2]))]
        data = np.full(8, number, np.float32).tobytes()
        files.append(File(list(keys), [Tensor(f"blk.{number}.w")], data))
    return files


def write(folder: Path, files: list[File], stem: str = "model") -> list[Path]:
    paths = [folder / f"{stem}-{i + 1:05d}-of-{COUNT:05d}.gguf" for i in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file.pack())
    return paths


@pytest.mark.parametrize("asked", range(COUNT))
def test_any_shard_loads_the_whole(tmp_path: Path, asked: int) -> None:
    paths = write(tmp_path, shards(), "a-00009-of-00010.gguf")
    COUNTERS.clear()
    model = load_gguf(paths[asked])
    assert COUNTERS == {"opens": COUNT, "header_parses": COUNT}
    assert model.path == paths[asked]
    assert model.paths == tuple(paths)
    assert model.metadata["general.name"] == "Three"
    assert model.metadata["ids"].tolist() == [1, 2]
    assert model.metadata["split.no"] == 0
    assert list(model.tensors) == [f"blk.{i}.w" for i in range(COUNT)]
    for number in range(COUNT):
        assert model.tensors[f"blk.{number}.w"].tolist() == [number] * 8


def test_shards_written_by_gguf_py(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "peer.gguf", "llama", split_max_tensors=2)
    arrays = {f"t{i}": np.full((2, 4), i, np.float32) for i in range(5)}
    for name, values in arrays.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, *others = sorted(tmp_path.glob("*.gguf"))
    assert len(others) == 2
    for path in (first, *others):
        model = load_gguf(path)
        assert model.architecture == "llama"
        assert set(model.tensors) == set(arrays)
        for name, values in arrays.items():
            np.testing.assert_array_equal(model.tensors[name].numpy(), values)


def test_one_shard_of_one(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00001.gguf"
    path.write_bytes(File([("general.name", ("str", "One"))]).pack())
    assert load_gguf(path).paths == (path,)


def set_key(
    number: int | None, key: str, value: tuple[object, ...]
) -> Callable[[list[File]], None]:
    """Change a key of one shard, or of all."""

    def change(files: list[File]) -> None:
        for file in files if number is None else files[number : number + 1]:
            file.keys = [*(item for item in file.keys if item[0] != key), (key, value)]

    return change


def drop_key(number: int, key: str) -> Callable[[list[File]], None]:
    def change(files: list[File]) -> None:
        files[number].keys = [item for item in files[number].keys if item[0] != key]

    return change


def swap(files: list[File]) -> None:
    files[1], files[2] = files[2], files[1]


def drop_file(files: list[File]) -> None:
    files.pop()


def double_tensor(files: list[File]) -> None:
    files[2].tensors = copy.deepcopy(files[1].tensors)


def break_third(files: list[File]) -> None:
    files[2].tensors[0].offset = 1


BAD: dict[str, tuple[Callable[[list[File]], None], str]] = {
    "missing file": (
        drop_file,
        r"key 'split.count' at byte \d+: shard 'model-00003-of-00003.gguf'",
    ),
    "wrong order": (swap, r"00002.*key 'split.no' at byte \d+: expected shard 1 of 3.* 2 of 3"),
    "wrong number": (
        set_key(0, "split.no", ("u16", 1)),
        r"key 'split.no' .*must be in a file named",
    ),
    "huge number": (set_key(0, "split.no", ("u64", 1 << 63)), "must be in a file named"),
    "negative number": (set_key(0, "split.no", ("i32", -1)), "must be in a file named"),
    "no number": (drop_key(0, "split.no"), r"key 'split.count' at byte \d+: needs 'split.no'"),
    "wrong count": (set_key(0, "split.count", ("u16", 2)), "must be in a file named"),
    "huge count": (set_key(0, "split.count", ("u64", 1 << 62)), "must be in a file named"),
    "no count": (drop_key(0, "split.count"), "is named as one of 3 shards but has no key"),
    "another count": (set_key(1, "split.count", ("u16", 2)), "expected shard 1 of 3"),
    "no count later": (
        drop_key(2, "split.count"),
        "expected shard 2 of 3, the file says 2 of None",
    ),
    "wrong number of tensors": (
        set_key(None, "split.tensors.count", ("i32", 4)),
        r"key 'split.tensors.count' at byte \d+: says 4 tensors, but 3 shard\(s\) hold 3",
    ),
    "another number of tensors": (
        set_key(2, "split.tensors.count", ("i32", 4)),
        r"key 'split.tensors.count' at byte \d+: differs from its value in ",
    ),
    "another architecture": (
        set_key(1, "general.architecture", ("str", "gemma")),
        r"key 'general.architecture' at byte \d+: differs from its value in ",
    ),
    "another array": (set_key(1, "ids", ("arr", "u32", [1, 3])), r"key 'ids' at byte \d+: differs"),
    "another array type": (set_key(1, "ids", ("arr", "i32", [1, 2])), r"key 'ids' .* differs"),
    "tensor twice": (double_tensor, r"tensor 'blk.1.w' at byte \d+: is in another shard already"),
    "bad third shard": (
        break_third,
        r"00003-of-00003.gguf: tensor 'blk.2.w' at byte \d+: offset 1",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_shards(tmp_path: Path, change: Callable[[list[File]], None], message: str) -> None:
    files = shards()
    change(files)
    paths = write(tmp_path, files)
    with pytest.raises(GGUFError, match=message):
        load_gguf(paths[0])


def test_a_shard_under_another_name(tmp_path: Path) -> None:
    paths = write(tmp_path, shards())
    renamed = paths[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(GGUFError, match=r"must be in a file named \*-00001-of-00003.gguf"):
        load_gguf(renamed)
