"""Offload bundles: taken apart, and refused when damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.amd.fat_binary import MAGIC, bundled, code_objects
from tools.amd.toolchain import find_program

HOST = ("host-x86_64-unknown-linux-gnu-", b"")


def bundle(entries: list[tuple[str, bytes]]) -> bytes:
    size = len(MAGIC) + 8 + sum(24 + len(name) for name, _ in entries)
    header, body = MAGIC + struct.pack("<Q", len(entries)), b""
    for name, image in entries:
        header += struct.pack("<QQQ", size + len(body), len(image), len(name)) + name.encode()
        body += image
    return header + body


def test_every_bundle_of_the_section_is_read() -> None:
    first = bundle([HOST, ("hipv4-amdgcn-amd-amdhsa--gfx1100", b"A" * 5)])
    second = bundle([HOST, ("hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-", b"B"), ("hip--gfx942", b"C")])
    data = first + bytes(100) + second
    assert list(bundled(data, 0, len(data))) == [
        ("gfx1100", b"AAAAA"),
        ("gfx90a", b"B"),
        ("gfx942", b"C"),
    ]
    assert list(bundled(data, 0, len(data), "gfx942")) == [("gfx942", b"C")]


@given(st.data())
def test_damage_is_an_error_or_a_shorter_answer(data: st.DataObject) -> None:
    whole = bundle([HOST, ("hip--gfx1100", b"A" * 40), ("hip--gfx942", b"B" * 40)])
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    damaged = bytearray(whole[: data.draw(st.integers(at, len(whole)))])
    if at < len(damaged):
        damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        found = list(bundled(bytes(damaged), 0, len(damaged)))
    except ValueError:
        return
    assert all(len(image) <= len(damaged) for _, image in found)


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no \.hip_fatbin section"):
        list(code_objects(Path(find_program("clang++"))))
    with pytest.raises(ValueError, match="compressed offload bundles"):
        list(bundled(b"CCOB" + bytes(32), 0, 36))
