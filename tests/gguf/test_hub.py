"""`user/repo:QUANT` names, with the real client of the hub against a hub of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, hub
from small_files import write_gguf
from test_split import shards, write

from rocmforge_torch.gguf.hub import choose, local_path

OPEN = """
import json, sys
import rocmforge_torch as rf
for name in sys.argv[1:]:
    try:
        file = rf.load_gguf(name)
        print(json.dumps([[path.name for path in file.paths], sorted(file.tensors)]))
    except OSError as error:
        print(json.dumps(f"{error.filename}: {error.strerror}"))
"""


def opened(home: Path, endpoint: str, *names: str, **env: str) -> list[object]:
    """What `load_gguf` finds under names, in a process whose hub is `endpoint`."""
    env = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | env
    command = [sys.executable, "-c", OPEN, *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository with a model of two types, one of them split, and what stands beside models."""
    folder = tmp_path_factory.mktemp("files")
    write_gguf(folder / "one.gguf")
    single = (folder / "one.gguf").read_bytes()
    split = {path.name: path.read_bytes() for path in write(folder, shards(), "model-Q8_0")}
    return {
        "model-Q4_K_M.gguf": single,
        "mmproj-model-Q4_K_M.gguf": b"not a model of text",
        "README.md": b"# A model",
        **{f"Q8_0/{name}": content for name, content in split.items()},
    }


@pytest.fixture(scope="module")
def running(files: dict[str, bytes]) -> Iterator[Hub]:
    with hub({"someone/Model-GGUF": files, "someone/Empty": {"README.md": b""}}) as server:
        yield server


NAME = "someone/Model-GGUF"
SHARDS = [f"model-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


def test_online_then_from_the_cache(running: Hub, tmp_path: Path) -> None:
    names = (NAME, f"{NAME}:Q4_K_M", f"{NAME}:q8_0")
    first = opened(tmp_path, running.url, *names)
    assert [found[0] for found in first] == [["model-Q4_K_M.gguf"]] * 2 + [SHARDS]
    assert sorted(running.downloads) == [*(f"Q8_0/{name}" for name in SHARDS), "model-Q4_K_M.gguf"]
    running.downloads.clear()
    assert opened(tmp_path, running.url, *names) == first
    assert not running.downloads
    # Nobody answers at this address, or nobody is to be asked.
    assert opened(tmp_path, "http://127.0.0.1:9", *names) == first
    assert opened(tmp_path, running.url, *names, HF_HUB_OFFLINE="1") == first


def test_one_sentence_for_what_is_not_there(running: Hub, tmp_path: Path) -> None:
    missing = opened(tmp_path, running.url, f"{NAME}:Q2_K", "someone/Empty", "no/such")
    there = ", ".join(sorted(["mmproj-model-Q4_K_M.gguf", "model-Q4_K_M.gguf",
                              *(f"Q8_0/{name}" for name in SHARDS)]))  # fmt: skip
    assert missing == [
        f"{NAME}:Q2_K: no GGUF file of type Q2_K; there are {there}",
        "someone/Empty: no GGUF file of type Q4_K_M; there are none",
        "no/such: no such file, and no such model on the Hugging Face hub",
    ]
    (offline,) = opened(tmp_path / "empty", "http://127.0.0.1:9", NAME)
    assert offline == (
        f"{NAME}: no such file; as a model of the Hugging Face hub it is not in the cache, and the "
        "hub cannot be reached"
    )


def test_the_command_takes_names(running: Hub, tmp_path: Path) -> None:
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": running.url}
    command = [sys.executable, "-m", "rocmforge_torch", "inspect", "-m", NAME, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["files"][0].endswith("model-Q4_K_M.gguf")


def test_paths_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"")
    for path in ("folder/file", "no/file.gguf", "file", "/a/b", "a/b/c", "./a/b/c:Q4_0"):
        assert local_path(path) == Path(path)


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (["m.Q4_K_M.gguf", "m.Q4_K_S.gguf"], "Q4_K_M", ["m.Q4_K_M.gguf"]),
        (["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"], "q4_k_m", ["m-Q4_K_M.gguf"]),
        (["m-Q4_K_M.gguf"], "Q4_K", []),
        (["BF16/m-00002-of-00002.gguf", "BF16/m-00001-of-00002.gguf", "m-Q8_0.gguf"], "BF16",
         ["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf"]),
        (["imatrix-Q8_0.gguf", "mmproj-Q8_0.gguf", "q8_0.gguf"], "Q8_0", ["q8_0.gguf"]),
        ([], "Q8_0", []),
    ],
)  # fmt: skip
def test_choice(files: list[str], quant: str, chosen: list[str]) -> None:
    assert choose(files, quant) == chosen
