"""A small GGUF file, and the fixture that runs a command in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from commands import Result, Run

from rocmforge_torch import cli, config


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command line in this process, on a terminal 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    exact, threads = config.exact, torch.get_num_threads()

    def run_here(*args: str | Path) -> Result:
        capsys.readouterr()
        code = cli.run([str(arg) for arg in args])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(code, printed.out, printed.err)

    yield run_here
    config.exact = exact
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that holds one of everything: every kind of key, several types and shapes."""
    path = tmp_path_factory.mktemp("cli") / "small.gguf"
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("test.uint8", 200)
    writer.add_int8("test.int8", -3)
    writer.add_uint16("test.uint16", 60000)
    writer.add_int16("test.int16", -30000)
    writer.add_uint32("test.uint32", 4_000_000_000)
    writer.add_int32("test.int32", -5)
    writer.add_uint64("test.uint64", 1 << 60)
    writer.add_int64("test.int64", -(1 << 60))
    writer.add_float32("test.float32", 0.5)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "[bold]a\nline\x1b[2J")
    writer.add_array("test.strings", [f"token {i}" for i in range(40)])
    writer.add_key_value(
        "test.bytes", [1, 2, 250], gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT8
    )
    writer.add_array("test.floats", [0.25] * 9)
    writer.add_array("test.bools", [True, False])
    writer.add_file_type(0)
    for name, shape, dtype in (
        ("token_embd.weight", (24, 512), np.float32),
        ("blk.0.attn_q.weight", (16, 512), np.float16),
        ("blk.0.ffn_up.weight", (8, 96), np.float32),
        ("blk.0.ffn_odd.weight", (8, 30), np.float32),
        ("blk.0.ffn_gate_inp.weight", (4, 512), np.float32),
        ("blk.0.attn_norm.weight", (512,), np.float32),
        ("blk.0.experts.weight", (3, 4, 256), np.float32),
    ):
        writer.add_tensor(name, rng.standard_normal(shape).astype(dtype))
    q8 = gguf.quants.quantize(
        rng.standard_normal((6, 512)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("output.weight", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WIDTH, LAYERS, HEADS, CONTEXT = 32, 2, 2, 256


def write_tiny_model(path: Path, template: str | None = None) -> Path:
    """A llama with random weights and a vocabulary of bytes."""
    rng = np.random.default_rng(8)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    matrices = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (2 * WIDTH, WIDTH),
        "ffn_up": (2 * WIDTH, WIDTH),
        "ffn_down": (WIDTH, 2 * WIDTH),
    }
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in matrices.items()}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        q8_0 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", q8_0, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    norms = [f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes with a chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("cli") / "tiny.gguf", TEMPLATE)


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a template."""
    return write_tiny_model(tmp_path_factory.mktemp("cli") / "plain.gguf")
