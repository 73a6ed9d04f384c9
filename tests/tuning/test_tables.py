"""Tables of limits in files: what is read, what is refused in which words, which file counts."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rocmforge_torch import extension
from rocmforge_torch.quant_types import QUANT_TYPES
from rocmforge_torch.tuning import in_force, tables
from rocmforge_torch.tuning.limits import DEFAULT, MOST, Limits
from rocmforge_torch.tuning.tables import Table, TuningError

ARCH = "gfx1100"
GOOD: dict[str, Any] = {
    "architecture": ARCH,
    "device": "AMD Radeon RX 7900 XTX",
    "torch": "2.10.0",
    "types": {"Q4_0": {"matvec": 2, "multirow": 12, "tile": 192}},
}
Q4_0, Q4_K = 2, 12


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's tables; the package has none."""
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path / "own"))
    monkeypatch.setattr(tables, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "own"


def table(**types: Limits) -> Table:
    return Table(ARCH, "card", "2.10.0", types)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / f"{ARCH}.json"
    for written in (table(), table(Q4_0=DEFAULT), table(Q4_0=Limits(0, 0, 0), IQ2_XXS=MOST)):
        tables.write(path, written)
        assert tables.read(path, ARCH) == written
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_example_in_the_docstring_is_one(tmp_path: Path) -> None:
    example = re.search(r"    \{.*?^    \}", tables.__doc__ or "", re.DOTALL | re.MULTILINE)
    assert example
    path = tmp_path / "example.json"
    path.write_text(example[0])
    assert tables.read(path, ARCH).types["Q4_K"] == Limits(2, 12, 128)


def changed(**fields: Any) -> Any:
    return {**GOOD, **fields}


def row(**numbers: Any) -> Any:
    return changed(types={"Q4_0": {**GOOD["types"]["Q4_0"], **numbers}})


BAD = [
    ([], ": must be an object with architecture, device, torch, types, got []"),
    ({k: v for k, v in GOOD.items() if k != "types"}, ": types is missing"),
    (changed(type={}), ": type is no field: there are architecture, device, torch, types"),
    (changed(device=3), ": device must be a text, got 3"),
    (changed(architecture="gfx942"), ": architecture is 'gfx942', but the file is read for gfx11"),
    (changed(types=[]), ": types must be an object, got []"),
    (changed(types={"Q4_9": {}}), ": types.Q4_9: no quantization type has this name"),
    (changed(types={"BF16": {}}), ": types.BF16: no quantization type has this name"),
    (changed(types={"Q4_0": 2}), ": types.Q4_0: must be an object with matvec, multirow, tile"),
    (changed(types={"Q4_0": {"matvec": 2}}), ": types.Q4_0: multirow is missing"),
    (row(rows=1), ": types.Q4_0: rows is no field: there are matvec, multirow, tile"),
    (row(matvec=9), ": types.Q4_0.matvec must be a whole number from 0 to 8, got 9"),
    (row(matvec=-1), ": types.Q4_0.matvec must be a whole number from 0 to 8, got -1"),
    (row(multirow=17), ": types.Q4_0.multirow must be a whole number from 2 to 16, got 17"),
    (row(multirow=1), ": types.Q4_0.multirow must be a whole number from 2 to 16, got 1"),
    (row(tile=8), ": types.Q4_0.tile must be a whole number from 12 to 65535, got 8"),
    (row(tile=True), ": types.Q4_0.tile must be a whole number from 12 to 65535, got True"),
    (row(tile=128.0), ": types.Q4_0.tile must be a whole number from 12 to 65535, got 128.0"),
    (row(tile="128"), ": types.Q4_0.tile must be a whole number from 12 to 65535, got '128'"),
    (row(tile=None), ": types.Q4_0.tile must be a whole number from 12 to 65535, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), BAD, ids=[says for _, says in BAD])
def test_other_content_is_one_sentence(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TuningError) as failure:
        tables.read(path, ARCH)
    message = str(failure.value)
    assert message.startswith(f"{path}{says}")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"\0"])
def test_what_is_not_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TuningError, match=f"^{re.escape(str(path))}: not JSON: "):
        tables.read(path, ARCH)


def test_where_a_users_file_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tables.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert tables.user_file(ARCH) == Path.home() / ".config/rocmforge/tuning/gfx1100.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert tables.user_file(ARCH) == Path("/config/rocmforge/tuning/gfx1100.json")
    monkeypatch.setenv(tables.VARIABLE, "/tables")
    assert tables.user_file(ARCH) == Path("/tables/gfx1100.json")


def test_the_users_types_count_before_the_packages(folder: Path) -> None:
    assert tables.limits_for(ARCH) == {}
    shipped = tables.SHIPPED / f"{ARCH}.json"
    tables.write(shipped, table(Q4_0=Limits(1, 8, 64), Q4_K=Limits(2, 16, 96)))
    assert tables.limits_for(ARCH) == {"Q4_0": Limits(1, 8, 64), "Q4_K": Limits(2, 16, 96)}
    own = folder / f"{ARCH}.json"
    tables.write(own, table(Q4_0=Limits(4, 4, 512)))
    assert tables.limits_for(ARCH) == {"Q4_0": Limits(4, 4, 512), "Q4_K": Limits(2, 16, 96)}
    assert tables.files(ARCH) == [shipped, own]
    assert tables.limits_for("gfx942") == {}


def test_the_packages_tables_are_tables() -> None:
    for path in tables.SHIPPED.glob("*.json"):
        assert tables.read(path, path.stem).types


class Library:
    """As the GPU library keeps limits."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], Limits] = {}

    def rocmforge_product_limits(self, index: int, qtype: int, numbers: Any) -> None:
        found = self.held.get((index, qtype), DEFAULT)
        numbers[:] = [found.matvec, found.multirow, found.tile]

    def rocmforge_most_fused_rows(self, index: int, qtype: int) -> int:
        return self.held.get((index, qtype), DEFAULT).tile

    def rocmforge_set_product_limits(self, index: int, qtype: int, numbers: Any) -> int:
        self.held[index, qtype] = Limits(*numbers)
        return numbers[0] <= MOST.matvec


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Library:
    """Pretends that there are two cards of different architectures."""
    made = Library()
    cards = [
        SimpleNamespace(gcnArchName=f"{arch}:sramecc+", name=arch, total_memory=1 << 30)
        for arch in (ARCH, "gfx942")
    ]
    monkeypatch.setattr(extension, "_loaded", {"gpu": made})
    monkeypatch.setattr(extension, "_checked", set())
    monkeypatch.setattr(extension, "missing_code", lambda index: None)
    monkeypatch.setattr(in_force, "_problems", {})
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    return made


def test_each_card_gets_its_architectures_limits(library: Library, folder: Path) -> None:
    tables.write(folder / f"{ARCH}.json", table(Q4_0=Limits(1, 8, 64)))
    in_force._read_tables()
    assert library.held == {(0, Q4_0): Limits(1, 8, 64)}
    first, second, current = (torch.device(name) for name in ("cuda:0", "cuda:1", "cuda"))
    assert in_force.limits_of(first, Q4_0) == Limits(1, 8, 64)
    assert in_force.limits_of(second, Q4_0) == in_force.limits_of(current, Q4_0) == DEFAULT
    assert in_force.most_fused_rows(first, Q4_0) == 64
    assert in_force.most_fused_rows(first, Q4_K) == DEFAULT.tile
    assert in_force.tables_of(0) == [folder / f"{ARCH}.json"]
    assert in_force.tables_of(1) == []


def test_a_bad_file_warns_and_stops_who_loads_to_that_card(library: Library, folder: Path) -> None:
    folder.mkdir()
    bad = folder / f"{ARCH}.json"
    bad.write_text("{")
    tables.write(folder / "gfx942.json", Table("gfx942", "card", "2.10.0", {"Q4_K": MOST}))
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(str(bad))}: not JSON.*or delete it$"):
        in_force._read_tables()
    assert library.held == {(1, Q4_K): MOST}
    with pytest.raises(RuntimeError, match=f"^{re.escape(str(bad))}: not JSON"):
        extension.check_device(torch.device("cuda:0"))
    assert extension.check_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_doctor_names_the_files_and_what_is_wrong(library: Library, folder: Path) -> None:
    doctor = importlib.import_module("rocmforge_torch.cli.doctor")
    good, bad = folder / f"{ARCH}.json", folder / "gfx942.json"
    tables.write(good, table(Q4_0=DEFAULT))
    bad.write_text("{}")
    with pytest.warns(RuntimeWarning):
        in_force._read_tables()
    first, second = doctor._devices()[1:]
    assert (first["tables"], first["problem"]) == ([str(good)], None)
    assert second["tables"] == [str(bad)]
    assert second["problem"] == f"{bad}: architecture is missing; correct the file or delete it"


def test_limits_are_forced_for_a_while(library: Library) -> None:
    device = torch.device("cuda:1")
    extension.set_product_limits(1, Q4_0, Limits(1, 8, 64))
    others = {Q4_0: Limits(0, 0, 0), Q4_K: Limits(8, 8, 8)}

    def fail_under_them() -> None:
        with in_force.forced(device, others):
            assert library.held == {(1, qtype): limits for qtype, limits in others.items()}
            raise KeyError

    with pytest.raises(KeyError):
        fail_under_them()
    assert library.held == {(1, Q4_0): Limits(1, 8, 64), (1, Q4_K): DEFAULT}


def test_what_the_kernels_cannot_do(library: Library) -> None:
    with pytest.raises(RuntimeError, match=r"no kernels for Limits\(matvec=9, .* of type 2"):
        extension.set_product_limits(0, Q4_0, Limits(9, 16, 128))


def test_without_the_library_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_loaded", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_force.load()
    # As of tensors that only pretend to be on a GPU.
    assert in_force.limits_of(torch.device("cuda"), Q4_0) == DEFAULT
    assert all(in_force.most_fused_rows(torch.device("cpu"), q) == 128 for q in QUANT_TYPES)
    with pytest.raises(RuntimeError, match="no kernels for"):
        extension.set_product_limits(0, Q4_0, DEFAULT)
