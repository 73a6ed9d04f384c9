"""Assembling the demo model: verified, cheap the second time, clear when something is missing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rocmforge_torch.cli import demo_model
from rocmforge_torch.cli.demo_model import DemoModelError, demo_model_file

PIECES = (b"GGUF one", b" and two", b", three", b" and four.")
WHOLE = b"".join(PIECES)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five small packages of the real names on sys.path, and a cache of our own."""
    site = tmp_path / "site"
    names = (demo_model.PACKAGE, *demo_model.PARTS)
    for name in names:
        (site / name / "data").mkdir(parents=True)
        (site / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for number, (name, piece) in enumerate(zip(demo_model.PARTS, PIECES, strict=True)):
        (site / name / "data" / f"{demo_model.NAME}.part{number:02d}").write_bytes(piece)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_model, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    return site


@pytest.fixture
def assemblies(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was assembled."""
    made: list[Path] = []
    assemble = demo_model._assemble

    def counted(chunks: list[Path], target: Path) -> None:
        made.append(target)
        assemble(chunks, target)

    monkeypatch.setattr(demo_model, "_assemble", counted)
    return made


@pytest.mark.usefixtures("packages")
def test_assembles_once(tmp_path: Path, assemblies: list[Path]) -> None:
    path = demo_model_file()
    assert path == tmp_path / "cache" / "rocmforge" / demo_model.NAME
    assert path.read_bytes() == WHOLE
    assert demo_model_file() == path
    assert assemblies == [path]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        demo_model.NAME,
        f"{demo_model.NAME}.verified.json",
    ]


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("damage", [WHOLE[:-1], b"X" + WHOLE[1:], b""])
def test_damage_is_noticed_and_repaired(damage: bytes, assemblies: list[Path]) -> None:
    path = demo_model_file()
    path.write_bytes(damage)
    os.utime(path, ns=(1, 1))
    assert demo_model_file().read_bytes() == WHOLE
    assert len(assemblies) == 2


@pytest.mark.usefixtures("packages")
def test_good_file_without_a_note_is_verified_not_replaced(assemblies: list[Path]) -> None:
    path = demo_model_file()
    demo_model._note_file(path).unlink()
    assert demo_model_file() == path
    assert len(assemblies) == 1
    assert demo_model._note_file(path).exists()


def test_damaged_part(packages: Path, tmp_path: Path) -> None:
    part = packages / demo_model.PARTS[2] / "data" / f"{demo_model.NAME}.part02"
    part.write_bytes(b"something else")
    with pytest.raises(DemoModelError, match=r"do not add up .* --force-reinstall"):
        demo_model_file()
    assert list((tmp_path / "cache" / "rocmforge").iterdir()) == []


def test_missing_part(packages: Path) -> None:
    (packages / demo_model.PARTS[0] / "data" / f"{demo_model.NAME}.part00").unlink()
    with pytest.raises(DemoModelError, match=r"lacks gemma-3-270m-q4_k_m\.gguf\.part00"):
        demo_model_file()


@pytest.mark.usefixtures("packages")
def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "PARTS", ("no_such_package_part1",))
    with pytest.raises(DemoModelError, match=r"pip install 'rocmforge_torch\[demo\]'"):
        demo_model_file()


@pytest.mark.usefixtures("packages")
def test_main_prints_origin_then_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_model.main() == 0
    printed = capsys.readouterr()
    assert printed.out == f"{demo_model_file()}\n"
    assert "Licence: Gemma Terms of Use" in printed.err
    assert "Origin: https://huggingface.co/" in printed.err


@pytest.mark.usefixtures("packages")
def test_main_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "PARTS", ("no_such_package_part1",))
    assert demo_model.main() == 1
    assert "rocmforge: the demo model's package no_such" in capsys.readouterr().err


def test_the_real_one(demo_model_path: Path) -> None:
    assert demo_model_path.stat().st_size == 253_113_024
    with demo_model_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        found = digest or hashlib.sha256(file.read())
    assert found.hexdigest() == demo_model.SHA256
