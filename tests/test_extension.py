"""The architectures in the GPU library, and cards that none of them fits."""

from __future__ import annotations

import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rocmforge_torch
from rocmforge_torch import extension, load_model

RADEON = SimpleNamespace(name="AMD Radeon RX 7600", gcnArchName="gfx1102")
MI250 = SimpleNamespace(name="AMD Instinct MI250X", gcnArchName="gfx90a:sramecc+:xnack-")
H100 = SimpleNamespace(name="NVIDIA H100", major=9, minor=0)
BLACKWELL = SimpleNamespace(name="NVIDIA RTX 5090", major=12, minor=0)
A100 = SimpleNamespace(name="NVIDIA A100", major=8, minor=0)


class Function:
    """As ctypes makes them: with an attribute for the type of the result."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.restype: Any = None

    def __call__(self) -> bytes:
        return self.text.encode()


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that the library holds `inside`, and that these cards are plugged in."""

    def pretend(inside: str, *found: Any) -> None:
        library = SimpleNamespace(rocmforge_gpu_architectures=Function(inside))
        monkeypatch.setattr(extension, "_loaded", {"gpu": library} if inside else {})
        monkeypatch.setattr(extension, "_checked", set())
        amd = hasattr(found[0], "gcnArchName")
        monkeypatch.setattr(torch.version, "hip", "7.0" if amd else None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found[index])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    return pretend


@pytest.mark.parametrize(
    ("inside", "card", "fits"),
    [
        ("gfx1100 gfx1102", RADEON, True),
        ("gfx1100 gfx1101", RADEON, False),
        ("gfx90a", MI250, True),
        ("sm_80 sm_90", H100, True),
        ("sm_80", H100, False),
        ("sm_80 compute_80", H100, True),
        ("sm_90a", H100, True),
        ("sm_90a compute_90a", BLACKWELL, False),
        ("sm_100f", BLACKWELL, False),
        ("sm_90", A100, False),
        ("compute_90", A100, False),
        ("sm_86 sm_90", A100, False),
        ("", H100, True),
    ],
)
def test_what_fits(cards: Any, inside: str, card: Any, fits: bool) -> None:
    cards(inside, card)
    assert extension.gpu_architectures() == tuple(inside.split())
    assert (extension.missing_code(0) is None) == fits


@pytest.mark.parametrize(
    ("inside", "card", "sentence"),
    [
        (
            "gfx1100 gfx942",
            RADEON,
            "rocmforge_torch holds no code for cuda:0, AMD Radeon RX 7600 (gfx1102), only for "
            "gfx1100, gfx942: build it again with `PYTORCH_ROCM_ARCH=gfx1102 pip install .`",
        ),
        (
            "sm_90",
            BLACKWELL,
            "rocmforge_torch holds no code for cuda:0, NVIDIA RTX 5090 (sm_120), only for sm_90: "
            "build it again with `TORCH_CUDA_ARCH_LIST=12.0 pip install .`",
        ),
    ],
)
def test_loading_to_a_card_without_code_is_one_sentence(
    cards: Any, demo_like: Any, inside: str, card: Any, sentence: str
) -> None:
    cards(inside, card)
    for _ in range(2):
        with pytest.raises(RuntimeError) as failure:
            load_model(demo_like, "cuda")
        assert str(failure.value) == sentence


@pytest.fixture
def demo_like(tmp_path: Any) -> Any:
    from benchmarks.synthetic import PRESETS, write_model

    return write_model(tmp_path / "m.gguf", PRESETS["llama-small"])


def test_the_first_use_of_the_gpu_warns_of_every_card(cards: Any) -> None:
    cards("sm_80", A100, H100, BLACKWELL)
    with pytest.warns(RuntimeWarning) as found:
        extension._warn_of_missing_code()
    assert [str(w.message).partition(",")[0][-6:] for w in found] == ["cuda:1", "cuda:2"]
    cards("sm_80", A100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extension._warn_of_missing_code()


def test_a_card_that_fits_is_looked_at_once(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cards("sm_90", H100)
    looked: list[int] = []
    monkeypatch.setattr(extension, "missing_code", looked.append)
    for name, place in (("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cpu", "cpu"), ("meta", "meta")):
        assert extension.check_device(torch.device(name)) == torch.device(place)
    assert looked == [0]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda:7"])
def test_a_gpu_that_is_not_there(
    demo_like: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=rf"^device {device}: torch can use 0 GPU\(s\) here"):
        load_model(demo_like, device)


def test_doctor_names_the_card_and_tests_another(
    cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = importlib.import_module("rocmforge_torch.cli.doctor")
    self_test = importlib.import_module("rocmforge_torch.cli.self_test")
    tested: list[str] = []

    def run(op: str, device: str) -> Any:
        tested.append(device)
        return self_test.Outcome(op, 1, 0.0, 0.0)

    for card in (H100, BLACKWELL):
        card.total_memory = 1 << 30
    cards("sm_90", BLACKWELL, H100)
    monkeypatch.setattr(self_test, "run", run)
    monkeypatch.setattr(extension, "cpu_instruction_set", lambda: "avx2")
    report = doctor._report()
    assert set(tested) == {"cpu", "cuda:1"}
    assert report["healthy"] is False
    assert report["gpu_architectures"] == ["sm_90"]
    problems = [device.get("problem") for device in report["devices"]]
    assert [problem is None for problem in problems] == [True, False, True]
    assert f"{problems[1]}." in report["advice"]


def test_nothing_is_checked_without_a_gpu() -> None:
    assert extension.gpu_architectures() == () or torch.cuda.is_available()
    assert rocmforge_torch.extension.loaded()["cpu"].exists()
