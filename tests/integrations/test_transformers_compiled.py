"""A compiled step of a transformers model is nearly the ops of our own decoder."""

from __future__ import annotations

import importlib
import operator
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor.utils import run_and_get_code
from transformers import StaticCache

from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import GGUFTensor
from rocmforge_torch.fx.backend import rocmforge
from rocmforge_torch.fx.behaviour import behaviour_of
from rocmforge_torch.integrations.transformers import RocmForgeCache, from_gguf
from rocmforge_torch.integrations.transformers.fused import FusedProjection

TOLERANCE = 1e-4  # of tests/models/test_architectures.py
PROMPT, ROOM = 70, 76  # beyond windows of 64
LAYERS = {"llama-small": 2, "qwen2-small": 2, "qwen3-small": 2, "gemma3-small": 6}
PLAIN = {"inductor": False}
# What a layer of our own decoder is, and what stands behind the last one.
LAYER = {"norm_quant_matmul": 2, "rope_kv_cache_write_": 1, "attention": 1, "quant_matmul": 2}
LOGITS = {"norm_quant_matmul": 1}
functionalized = torch.ops.higher_order.auto_functionalized_v2
MOST_OTHERS = 12  # in a step, however many layers there are

pytestmark = [
    pytest.mark.usefixtures("exact"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[fx.Graph]:
    """What passes made of the graphs that are compiled in a test."""
    torch._dynamo.reset()
    found: list[fx.Graph] = []
    for name in ("backend", "graph_pass"):
        module = importlib.import_module(f"rocmforge_torch.fx.{name}")

        def run(gm: fx.GraphModule, *args: Any, passes: Any = module.run_passes) -> None:
            passes(gm, *args)
            found.append(fx.Graph())
            found[-1].output(found[-1].graph_copy(gm.graph, {}))

        monkeypatch.setattr(module, "run_passes", run)
    return found


@pytest.fixture(params=LAYERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(request.param, tmp_path)


def write(name: str, folder: Path, qtype: str = "Q4_0") -> Path:
    shape = replace(PRESETS[name], layers=LAYERS[name])
    return write_model(folder / "model.gguf", shape, qtype)


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(5, 1900, (batch, length), generator=torch.Generator().manual_seed(length))


def of_transformers(path: Path) -> Any:
    """The same model without anything of ours: float32 weights and transformers' attention."""
    model = from_gguf(path, attn_implementation="eager")
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(weight, GGUFTensor):
            module.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
    return model


def steps(model: Any, step: Any, input_ids: Tensor, cache: Any) -> Tensor:
    """Log-probabilities of the tokens behind the prompt, each by a call of `step`."""
    model(input_ids[:, :PROMPT], past_key_values=cache)
    found = []
    for t in range(PROMPT, input_ids.shape[1]):
        positions = torch.full((1, 1), t)
        token = input_ids[:, t : t + 1].clone()
        found.append(step(token, position_ids=positions, past_key_values=cache).logits)
    return torch.cat(found, 1).log_softmax(-1)


def kernels(graph: fx.Graph) -> Counter[str]:
    """How often a graph has each op of ours, and how often others that compute something."""
    gm = fx.GraphModule({}, graph)
    counts: Counter[str] = Counter(others=0)
    for node in gm.graph.nodes:
        target = node.target
        if node.op != "call_function" or behaviour_of(node).is_view or writes_back(node):
            continue
        if target is functionalized:
            counts[node.args[0]._schema.name.partition("::")[2]] += 1
        elif isinstance(target, torch._ops.OpOverload) and target.namespace == "rocmforge":
            counts[target._schema.name.partition("::")[2]] += 1
        elif target not in (operator.getitem, torch.ops.aten.reshape.default):
            counts["others"] += 1
    return counts


def writes_back(node: fx.Node) -> bool:
    """Whether a node is the copy of a new cache to the old one that Inductor finds needless."""
    copied = node.args[1] if node.target is torch.ops.aten.copy_.default else None
    is_result = isinstance(copied, fx.Node) and copied.target is operator.getitem
    return is_result and copied.args[0].target is functionalized


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 2])
def test_values_and_ops_without_inductor(path: Path, batch: int, graphs: list[fx.Graph]) -> None:
    """Values are those of transformers in float32; ops are those of our decoder and a few more."""
    model, input_ids = from_gguf(path, fuse=True), ids(batch, ROOM)
    want = of_transformers(path)(input_ids, use_cache=False).logits.log_softmax(-1)
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=PLAIN)
    got = steps(model, step, input_ids, RocmForgeCache(model, ROOM, batch))
    assert (got - want[:, PROMPT:]).abs().max() <= TOLERANCE
    assert len(graphs) == 1, "a step after the first was compiled again"
    check_ops(graphs[0], len(model.model.layers))


def check_ops(graph: fx.Graph, layers: int) -> None:
    found = kernels(graph)
    assert found.pop("others") <= MOST_OTHERS
    assert found.pop("quant_embedding") == 1
    want = Counter({name: count * layers for name, count in LAYER.items()}) + Counter(LOGITS)
    assert found == want


@torch.inference_mode()
def test_values_and_ops_with_inductor(path: Path, graphs: list[fx.Graph]) -> None:
    """The same; nothing copies a cache."""
    model, input_ids = from_gguf(path, fuse=True), ids(1, PROMPT + 2)
    want = of_transformers(path)(input_ids, use_cache=False).logits.log_softmax(-1)
    step: Any = torch.compile(model, backend=rocmforge, fullgraph=True)
    cache = RocmForgeCache(model, ROOM)
    with torch._inductor.config.patch(force_disable_caches=True):
        got, (code,) = run_and_get_code(steps, model, step, input_ids, cache)
    assert (got - want[:, PROMPT:]).abs().max() <= TOLERANCE
    check_ops(graphs[0], len(model.model.layers))
    shape = ", ".join(map(str, cache.layers[0].keys.shape))
    assert "rope_kv_cache_write_" in code
    assert f"empty_strided_cpu(({shape})" not in code


@torch.inference_mode()
@pytest.mark.parametrize("qtype", ["Q4_K", "Q8_0"])
@pytest.mark.parametrize("cache", ["q8_0", "static"])
def test_projections_apart(qtype: str, cache: str, tmp_path: Path, graphs: list[fx.Graph]) -> None:
    """A model that was not fused, and transformers' own static cache."""
    path = write("llama-small", tmp_path, qtype)
    model, input_ids = from_gguf(path), ids(2, ROOM)
    layers = len(model.model.layers)
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=PLAIN)
    if cache == "static":
        want = of_transformers(path)(input_ids, use_cache=False).logits.log_softmax(-1)
        got = steps(model, step, input_ids, StaticCache(model.config, max_cache_len=ROOM))
        assert (got - want[:, PROMPT:]).abs().max() <= TOLERANCE
    else:
        want = steps(model, model, input_ids, RocmForgeCache(model, ROOM, 2, cache))
        got = steps(model, step, input_ids, RocmForgeCache(model, ROOM, 2, cache))
        assert (got - want).abs().max() <= TOLERANCE
    found = kernels(graphs[0])
    assert found["quant_matmul"] + found["norm_quant_matmul"] == 7 * layers + 1
    assert found["attention"] == layers
    assert found["rope" if cache == "static" else "rope_kv_cache_write_"] >= layers
    assert found["silu_mul"] == layers


@torch.inference_mode()
def test_fused_projections(tmp_path: Path) -> None:
    """They give what they gave, packed or not, few rows or many; other types stay apart."""
    path = write("qwen2-small", tmp_path)
    plain, fused = from_gguf(path), from_gguf(path, fuse=True)
    names = ("q_proj", "k_proj", "v_proj")
    layer = fused.model.layers[0].self_attn
    assert all(isinstance(getattr(layer, name), FusedProjection) for name in names)
    for packed in (False, True):
        if packed:
            layer.q_proj.layer.pack_()
        for rows in (1, 200):
            x = torch.randn(1, rows, 512)
            for name in names:
                want = getattr(plain.model.layers[0].self_attn, name)(x)
                torch.testing.assert_close(getattr(layer, name)(x), want, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in plain.parameters())


def test_a_weight_that_is_written_to_is_folded_again(
    tmp_path: Path, graphs: list[fx.Graph]
) -> None:
    """The 1 + w of Gemma's norms is computed once, until w is another."""
    model = from_gguf(write("gemma3-small", tmp_path), fuse=True)
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=PLAIN)
    with torch.no_grad():
        for scale in (1.0, 1.5):
            model.model.norm.weight.mul_(scale)
            got, want = (m(ids(1, 1), use_cache=False).logits for m in (step, model))
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    adds = [node for node in graphs[0].nodes if node.target is torch.ops.aten.add.Tensor]
    assert not [node for node in adds if any(type(one) is float for one in node.args)]


@torch.inference_mode()
def test_the_demo_model(demo_model_path: Path, graphs: list[fx.Graph]) -> None:
    """One key head, and layers whose values have a type, and so a product, of their own."""
    model = from_gguf(demo_model_path, fuse=True)
    plain = from_gguf(demo_model_path, attn_implementation="eager")
    input_ids = torch.randint(
        1000, 200000, (1, PROMPT + 2), generator=torch.Generator().manual_seed(0)
    )
    want = plain(input_ids, use_cache=False).logits
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=PLAIN)
    got = steps(model, step, input_ids, RocmForgeCache(model, ROOM))
    difference = (got - want[:, PROMPT:].log_softmax(-1)).abs().max()
    assert difference <= TOLERANCE * want.std()  # as in test_transformers_demo.py
    found, layers = kernels(graphs[0]), len(model.model.layers)
    assert found["rope_kv_cache_write_"] == found["attention"] == layers
    products = found["norm_quant_matmul"] + found["quant_matmul"]
    assert products <= 5 * layers + 1
    assert found["others"] <= MOST_OTHERS
