"""The loader's ring on a fake device: what arrives, in what memory, and what a failure leaves."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_link import FakeLink
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_files import write_gguf

from rocmforge_torch import GGUFError, GGUFTensor, load_gguf
from rocmforge_torch.gguf import tensor_map
from rocmforge_torch.gguf.async_loader import Form, OpenFile, RingSize, load_tensors
from rocmforge_torch.gguf.load_plan import MOST_GAP, plan_chunks
from rocmforge_torch.gguf.reader import Header, TensorInfo
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tools.gguf_bytes import File, Tensor

BUFFER = 1024  # bytes; so small that every tensor meets its edges
SIZE = RingSize(buffers=3, buffer_bytes=BUFFER, threads=2, scratch_bytes=2048)
Q4_0 = QUANT_TYPES_BY_NAME["Q4_0"]
I8 = QUANT_TYPES_BY_NAME["I8"]
# (bytes, gap before it, whether it is computed on the device)
edges = st.sampled_from([1, 17, 18, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER, 5 * BUFFER + 3])
tensors_of = st.lists(
    st.tuples(
        st.one_of(edges, st.integers(1, 4 * BUFFER)),
        st.sampled_from([0, 0, 1, 31, MOST_GAP, MOST_GAP + 1]),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def make_infos(sizes: Sequence[tuple[int, int, bool]]) -> list[TensorInfo]:
    """Tensors one after the other; those whose bytes are whole blocks of 18 are Q4_0."""
    infos, offset = [], 64
    for index, (nbytes, gap, changes) in enumerate(sizes):
        offset += gap
        kind = Q4_0 if nbytes % Q4_0.block_bytes == 0 else I8
        name = f"{'changed' if changes else 'plain'}.{index}"
        shape = (nbytes // kind.block_bytes * kind.block_size,)
        infos.append(TensorInfo(name, kind, shape, offset, nbytes, 0))
        offset += nbytes
    return infos


def write(path: Path, infos: Sequence[TensorInfo]) -> bytes:
    end = infos[-1].offset + infos[-1].nbytes
    data = np.random.default_rng(end).integers(0, 256, end, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    return data


def header(source: str, infos: Sequence[TensorInfo]) -> Header:
    return Header(source, 3, "<", {}, {}, {info.name: info for info in infos})


@contextmanager
def opened(path: Path, infos: Sequence[TensorInfo]) -> Iterator[OpenFile]:
    fileno = os.open(path, os.O_RDONLY)
    try:
        yield OpenFile(header(path.name, infos), fileno, infos)
    finally:
        os.close(fileno)


def form_of(link: FakeLink) -> Form:
    """Tensors named "changed" are computed: every bit is turned."""

    def make(info: TensorInfo, data: torch.Tensor) -> torch.Tensor:
        if not info.name.startswith("changed"):
            return data
        link.step()
        link.read(data)
        return data.bitwise_not()

    return Form(lambda info: info.name.startswith("changed"), make)


def reader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("gguf-reader")]


def wanted(data: bytes, info: TensorInfo) -> np.ndarray[Any, Any]:
    part = np.frombuffer(data, np.uint8)[info.offset : info.offset + info.nbytes]
    return ~part if info.name.startswith("changed") else part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ring")


@given(st.lists(tensors_of, min_size=1, max_size=3), st.integers(50, 5000))
def test_every_byte_is_in_one_piece(files: list[Any], chunk_bytes: int) -> None:
    infos = [make_infos(sizes) for sizes in files]
    chunks = plan_chunks(infos, chunk_bytes)
    got: dict[tuple[int, str], int] = {}
    order = []
    for chunk in chunks:
        assert 0 < chunk.nbytes <= chunk_bytes
        assert chunk.pieces[0].at == 0
        end = 0
        for piece in chunk.pieces:
            key = (chunk.file, piece.info.name)
            assert end <= piece.at <= end + MOST_GAP
            assert chunk.offset + piece.at == piece.info.offset + piece.start
            assert piece.start == got.get(key, 0)
            assert piece.start % piece.info.qtype.block_bytes == 0
            end = piece.at + piece.nbytes
            got[key] = piece.start + piece.nbytes
            if piece.is_last:
                order.append(key)
        assert end == chunk.nbytes
    everything = [(i, info) for i, file in enumerate(infos) for info in file]
    assert got == {(i, info.name): info.nbytes for i, info in everything}
    assert order == [(i, info.name) for i, info in everything], "no two tensors are begun at once"


def test_chunks_of_a_large_tensor_are_full() -> None:
    infos = make_infos([(100, 0, False), (10 * BUFFER, 0, False)])
    sizes = [chunk.nbytes for chunk in plan_chunks([infos], BUFFER)]
    assert sizes == [BUFFER] * 10 + [100]


@settings(deadline=None)
@given(st.lists(tensors_of, min_size=1, max_size=2), st.integers(0, 2**32))
@example([[(BUFFER, 0, True)] * 12], 1)
def test_every_tensor_arrives(folder: Path, files: list[Any], seed: int) -> None:
    link = FakeLink(seed)
    infos = [make_infos(sizes) for sizes in files]
    infos = [[rename(info, f"{info.name}.{i}") for info in file] for i, file in enumerate(infos)]
    paths = [folder / f"{i}.bin" for i in range(len(infos))]
    contents = [write(path, file) for path, file in zip(paths, infos, strict=True)]
    reported: list[int] = []
    with opened(paths[0], infos[0]) as first, opened(paths[-1], infos[-1]) as second:
        sources = [first, second][: len(infos)]
        got = load_tensors(sources, link, form_of(link), "fake:0", SIZE, reported.append)
    assert not link.pending, "the last wait covers every copy"
    assert not reader_threads()
    every = [(data, info) for data, file in zip(contents, infos, strict=True) for info in file]
    assert list(got) == [info.name for _, info in every]
    for data, info in every:
        np.testing.assert_array_equal(got[info.name].numpy(), wanted(data, info))
    assert sum(reported) == sum(info.nbytes for _, info in every)
    assert len(link.host) <= SIZE.buffers
    plain = sum(info.nbytes for _, info in every if not info.name.startswith("changed"))
    largest = max((info.nbytes for _, info in every if info.name.startswith("changed")), default=0)
    assert link.device_bytes <= plain + max(largest + 256, SIZE.scratch_bytes)
    assert link.reserved >= max(sum(info.nbytes for _, info in every), link.device_bytes)
    if not largest:
        assert link.device_bytes == plain


def rename(info: TensorInfo, name: str) -> TensorInfo:
    return TensorInfo(name, info.qtype, info.shape, info.offset, info.nbytes, info.entry)


FAILING = [(900, 0, False), (3 * BUFFER, 7, True), (18, 0, True), (BUFFER, 0, False), (40, 0, True)]


def run_failing(path: Path, infos: list[TensorInfo], link: FakeLink) -> BaseException | None:
    """Load; the exception, if there was one, still alive with its traceback."""
    with opened(path, infos) as source:
        try:
            load_tensors([source], link, form_of(link), "fake:0", SIZE)
        except BaseException as failure:
            return failure
    return None


@pytest.mark.usefixtures("quick_gc")
def test_a_failure_at_any_step_frees_everything(folder: Path) -> None:
    infos, path = make_infos(FAILING), folder / "failing.bin"
    write(path, infos)
    for step in range(1, 1000):
        link = FakeLink(step, fail_at=step)
        failure = run_failing(path, infos, link)
        if failure is None:
            break
        gc.collect()
        assert isinstance(failure, RuntimeError)
        message = str(failure)
        assert message.startswith("failing.bin: tensor '")
        assert message.endswith("': cannot be loaded to fake:0: the device is gone")
        assert "\n" not in message
        assert any(f"'{info.name}'" in message for info in infos)
        assert link.abandoned
        assert not link.pending
        assert link.alive() == [], f"step {step} leaks while the exception is alive"
        assert not reader_threads()
    assert step > 30, "every call of the device was made to fail"
    assert failure is None


def test_out_of_memory_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infos, path = make_infos(FAILING), folder / "full.bin"
    write(path, infos)
    link = FakeLink()

    def full(nbytes: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(link, "memory", full)
    failure = run_failing(path, infos, link)
    assert isinstance(failure, torch.OutOfMemoryError)
    assert "full.bin: tensor 'changed.1': no room for its 0.0 MiB on fake:0" in str(failure)
    assert "take a smaller file or another device" in str(failure)


def test_interrupt_frees_everything(folder: Path) -> None:
    infos, path = make_infos(FAILING), folder / "interrupted.bin"
    write(path, infos)
    link, seen = FakeLink(), []

    def interrupt(nbytes: int) -> None:
        seen.append(nbytes)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with opened(path, infos) as source, pytest.raises(KeyboardInterrupt) as caught:
        load_tensors([source], link, form_of(link), "fake:0", SIZE, interrupt)
    gc.collect()
    assert caught.value is not None
    assert link.alive() == []
    assert not reader_threads()


@pytest.mark.parametrize("left", [64, 70, 900, 2000, 4000])
def test_a_file_cut_while_it_is_read(folder: Path, left: int) -> None:
    infos, path = make_infos(FAILING), folder / "cut.bin"
    data = write(path, infos)
    path.write_bytes(data[:left])
    link = FakeLink()
    failure = run_failing(path, infos, link)
    gc.collect()
    cut = next(info for info in infos if info.offset + info.nbytes > left)
    assert isinstance(failure, GGUFError)
    assert failure.subject == f"tensor '{cut.name}'"
    assert f"the file was cut at byte {left}" in str(failure)
    assert link.alive() == []


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    infos = make_infos(FAILING)
    link, fileno = FakeLink(), os.open(folder, os.O_RDONLY)  # a folder: opens, but does not read
    try:
        with pytest.raises(GGUFError, match=r"x.bin: tensor 'plain.0' at byte 64: cannot be read"):
            load_tensors(
                [OpenFile(header("x.bin", infos), fileno, infos)],
                link,
                form_of(link),
                "fake:0",
                SIZE,
            )
    finally:
        os.close(fileno)
    gc.collect()
    assert link.alive() == []


# From here on through the map of tensors, with real files.


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    """What tensor maps load over, in buffers that every tensor has to be cut for."""
    made = FakeLink(3)
    monkeypatch.setattr(tensor_map, "CudaLink", lambda device: made)
    monkeypatch.setattr(
        tensor_map,
        "load_tensors",
        lambda *args, **kwargs: load_tensors(*args, size=SIZE, **kwargs),
    )
    return made


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("packed", [False, True], ids=["file", "packed"])
def test_loaded_tensors_are_the_mapped_ones(
    tmp_path: Path, link: FakeLink, order: str, packed: bool
) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path, order)
    mapped, loaded = load_gguf(path).tensors, load_gguf(path).tensors
    loaded.load(packed=packed)
    for name in mapped:
        got, want = loaded[name], mapped[name]
        assert loaded[name] is got
        if not isinstance(want, GGUFTensor):
            assert got.dtype == want.dtype
            assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
            continue
        assert isinstance(got, GGUFTensor)
        assert got.qlayout == (packed and name != "token_embd.weight")
        assert torch.equal(got.unpacked().qweight, want.qweight)
        if got.qlayout:
            assert "packed" in repr(got)
            assert torch.equal(
                got.qweight, torch.ops.rocmforge.pack_weight(want.qweight, want.qtype)
            )


def test_loading_casts_numbers(tmp_path: Path, link: FakeLink) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path)
    mapped = load_gguf(path, dtype=torch.bfloat16).tensors
    loaded = load_gguf(path, dtype=torch.bfloat16).tensors
    loaded.load()
    for name in ("F32", "F16", "BF16", "I8", "I64"):
        assert loaded[name].dtype == mapped[name].dtype
        assert torch.equal(loaded[name].view(torch.uint8), mapped[name].view(torch.uint8))
    assert loaded["Q4_0"].dtype == torch.bfloat16


def test_release_lets_go(tmp_path: Path, link: FakeLink) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path)
    tensors = load_gguf(path).tensors
    tensors.load(packed=True)
    held = tensors["Q4_0"]
    tensors.release()
    gc.collect()
    assert link.alive() == [], "a packed tensor has memory of its own"
    assert tensors["Q4_0"] is held


def test_a_file_that_changed_is_refused(tmp_path: Path, link: FakeLink) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path)
    tensors = load_gguf(path).tensors
    path.unlink()
    write_gguf(path)
    with pytest.raises(GGUFError, match="the file has changed since it was opened"):
        tensors.load()


def test_types_without_a_big_endian_layout_stay_behind(tmp_path: Path, link: FakeLink) -> None:
    path = tmp_path / "big.gguf"
    kind = QUANT_TYPES_BY_NAME["IQ2_XXS"]
    entries = [Tensor("bad", [256, 1], kind.id, 0), Tensor("good", [8], 24, 96)]
    path.write_bytes(File([], entries, bytes(range(104)), order=">").pack())
    tensors = load_gguf(path).tensors
    tensors.load()
    assert tensors["good"].tolist() == list(range(96, 104))
    with pytest.raises(GGUFError, match="IQ2_XXS has no defined big-endian layout"):
        tensors["bad"]


@pytest.mark.parametrize(("shown", "printed"), [(True, True), (False, False), (None, False)])
def test_progress(
    tmp_path: Path, link: FakeLink, capsys: Any, shown: bool | None, printed: bool
) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path)
    load_gguf(path).tensors.load(progress=shown)
    assert ("loading all.gguf" in capsys.readouterr().err) == printed
