"""Files to the GPU: what arrives, how much memory it takes, what a failure leaves."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.load import memory_of_a_load, requested_bytes
from benchmarks.synthetic import PRESETS, Shape, write_model
from rocmforge_torch import GGUFError, GGUFTensor, load_gguf, load_model
from rocmforge_torch.gguf import async_loader, tensor_map
from rocmforge_torch.gguf.async_loader import RingSize, load_tensors
from rocmforge_torch.gguf.link import CudaLink
from rocmforge_torch.gguf.shard import reopen
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tests.gguf.small_files import write_gguf
from tools.gguf_bytes import File, Tensor

pytestmark = pytest.mark.gpu
SMALL_RING = RingSize(buffers=3, buffer_bytes=1024, threads=2, scratch_bytes=4096)
# 1.1 GiB, of which the largest tensor is a quarter.
LARGE = Shape("llama", 4, 4096, 14336, 32, 8, 128, 128256)
MOST_HOST_BYTES = 1 << 30


@pytest.fixture(params=[None, SMALL_RING], ids=["ring", "small ring"])
def ring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's own ring, and one so small that every tensor goes round it."""

    def load(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return load_tensors(*args, size=request.param, **kwargs)

    monkeypatch.setattr(tensor_map, "load_tensors", load)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("large") / "large.gguf", LARGE)


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("packed", [False, True], ids=["file", "packed"])
def test_every_type(tmp_path: Path, order: str, packed: bool) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(path, order)
    mapped, loaded = load_gguf(path).tensors, load_gguf(path, "cuda", packed=packed).tensors
    for name in mapped:
        got, want = loaded[name], mapped[name]
        assert got.is_cuda
        if isinstance(want, GGUFTensor):
            assert isinstance(got, GGUFTensor)
            assert got.qlayout == (packed and name != "token_embd.weight")
            assert torch.equal(got.unpacked().qweight.cpu(), want.qweight)
        else:
            assert torch.equal(got.cpu().view(torch.uint8), want.view(torch.uint8))


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("preset", ["llama-small", "gemma3-small"])
def test_tensors_can_be_used_before_the_host_waits(tmp_path: Path, preset: str) -> None:
    """The first product is queued right behind the last copy."""
    path = write_model(tmp_path / "m.gguf", PRESETS[preset], "Q8_0")
    tensors = load_gguf(path, "cuda", packed=True).tensors
    last = [name for name in tensors if isinstance(tensors[name], GGUFTensor)][-1]
    weight = tensors[last]
    x = torch.eye(weight.shape[1], device="cuda")[:5]
    got = torch.nn.functional.linear(x, weight)
    want = load_gguf(path).tensors[last].dequantize()[:, :5].T
    torch.testing.assert_close(got.cpu(), want, rtol=1e-2, atol=1e-2 * float(want.abs().max()))


def test_split_files(tmp_path: Path) -> None:
    kind = QUANT_TYPES_BY_NAME["Q4_0"]
    for number in range(2):
        keys = [
            ("split.no", ("u16", number)),
            ("split.count", ("u16", 2)),
            ("split.tensors.count", ("i32", 2)),
        ]
        entries = [Tensor(f"w{number}", [64, 3], kind.id)]
        data = bytes((17 * i + number) % 256 for i in range(108))
        path = tmp_path / f"m-{number + 1:05d}-of-00002.gguf"
        path.write_bytes(File(keys, entries, data).pack())
    loaded = load_gguf(path, "cuda", packed=True).tensors
    for name, want in load_gguf(path).tensors.items():
        assert torch.equal(loaded[name].unpacked().qweight.cpu(), want.qweight)


def test_memory_of_a_load(large: Path) -> None:
    """The device holds the file and one tensor at most, the host the ring."""
    file = load_gguf(large)
    most = max(file.tensors.info(name).nbytes for name in file.tensors)
    rounding = 512 * len(file.tensors)
    device = torch.device("cuda", torch.cuda.current_device())
    gc.collect()
    before = requested_bytes(device, "current")
    for _ in range(2):
        found = memory_of_a_load(large, device)
        assert file.nbytes <= found["device_bytes"] <= file.nbytes + rounding
        assert found["peak_device_bytes"] <= file.nbytes + most + rounding
        assert found["peak_host_bytes"] < MOST_HOST_BYTES
        gc.collect()
        assert requested_bytes(device, "current") == before


def test_a_model_holds_each_weight_once(large: Path) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    before = requested_bytes(device, "current")
    model = load_model(large, device)
    gc.collect()
    held = requested_bytes(device, "current") - before
    assert held <= model.file.nbytes + 4096 * len(model.file.tensors)
    assert {layer.attn.out.layout for layer in model.layers} == {1}
    assert model.output.layout == 1
    assert model.token_embd.weight.qlayout == 0
    logits = model(torch.tensor([[1, 2, 3]], device="cuda"))
    assert logits.is_cuda
    assert logits.isfinite().all()


@pytest.mark.parametrize("step", range(1, 60, 7))
def test_a_failed_load_frees_everything(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf", PRESETS["llama-small"], "Q4_K")
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    copies = []
    copy = CudaLink.copy

    def failing(self: CudaLink, target: torch.Tensor, source: torch.Tensor) -> None:
        copies.append(target.nbytes)
        if len(copies) == step:
            raise RuntimeError("the device is gone")
        copy(self, target, source)

    monkeypatch.setattr(CudaLink, "copy", failing)
    monkeypatch.setattr(async_loader, "RingSize", lambda: RingSize(buffer_bytes=1 << 16))
    with pytest.raises(RuntimeError, match=r"m.gguf: tensor '.*': cannot be loaded to cuda:0") as e:
        load_model(path, "cuda")
    gc.collect()
    assert "the device is gone" in str(e.value)
    assert torch.cuda.memory_allocated() == before, "memory is held while the exception is alive"


def test_no_room(large: Path) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    allowed = (torch.cuda.memory_reserved() + (1 << 29)) / total
    torch.cuda.set_per_process_memory_fraction(allowed)
    before = torch.cuda.memory_allocated()
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"large.gguf: tensor '.*': no room"):
            load_model(large, "cuda")
        gc.collect()
        assert torch.cuda.memory_allocated() == before
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_file_that_is_cut(large: Path, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", PRESETS["llama-small"])
    file = load_gguf(path)
    end = file.tensors.info("blk.2.ffn_up.weight").offset + 10
    fileno = reopen(file.tensors._shards[0])
    header = file.headers[0]
    with path.open("r+b") as opened:
        opened.truncate(end)
    infos = list(header.tensors.values())
    source = async_loader.OpenFile(header, fileno, infos)
    form = async_loader.Form(lambda info: False, lambda info, data: data)
    before = torch.cuda.memory_allocated()
    device = torch.device("cuda", torch.cuda.current_device())
    with pytest.raises(GGUFError, match=rf"tensor 'blk.2.ffn_up.weight'.*cut at byte {end}"):
        load_tensors([source], CudaLink(device), form, "cuda:0")
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_state_dict_holds_the_blocks_of_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", PRESETS["llama-small"], "Q6_K")
    gpu, cpu = load_model(path, "cuda", torch.float32), load_model(path)
    want = cpu.state_dict()
    got = gpu.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key].cpu(), want[key]) for key in want)
    ids = torch.tensor([[5, 6, 7]], device="cuda")
    before = gpu(ids)
    gpu.load_state_dict(want)
    assert torch.equal(gpu(ids), before)
    back = gpu.to("cpu")
    assert {layer.attn.out.layout for layer in back.layers} == {0}
    assert torch.equal(back(ids.cpu()), cpu(ids.cpu()))
