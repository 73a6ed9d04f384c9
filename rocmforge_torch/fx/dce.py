"""Dead code elimination: what has no effect goes, with the parameters that only it used."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import run_nested


def eliminate_dead_code(gm: fx.GraphModule) -> PassResult:
    """Removes nodes that nobody can notice, then unused sub-modules, parameters and constants.

    Kept: what the output depends on; writes to inputs, to attributes and to anything that is read;
    random draws, since later ones depend on how many there were; asserts and other effects.
    """
    return run_nested(gm, lambda module: _remove_nodes(module) | _remove_attributes(module))


def _remove_nodes(gm: fx.GraphModule) -> bool:
    modified = False
    while True:
        live = _live_nodes(gm.graph)
        dead = [node for node in reversed(gm.graph.nodes) if node not in live]
        if not dead:
            return modified
        for node in dead:
            gm.graph.erase_node(node)
        # A dead node may have been all that made two others seem to share memory.
        modified = True


def _live_nodes(graph: fx.Graph) -> set[fx.Node]:
    memory = Memory(graph)
    writers: dict[fx.Node, list[fx.Node]] = {}
    live: set[fx.Node] = set()
    waiting: list[fx.Node] = []

    def revive(node: fx.Node) -> None:
        if node not in live:
            live.add(node)
            waiting.append(node)

    for node, behaviour in memory.behaviours.items():
        changed = {memory.group(n) for n in behaviour.writes | behaviour.reshapes}
        for group in changed:
            writers.setdefault(group, []).append(node)
        needed = node.op in ("placeholder", "output")
        if needed or behaviour.is_random or behaviour.is_effectful or changed & memory.outside:
            revive(node)
    while waiting:
        node = waiting.pop()
        for used in node.all_input_nodes:
            revive(used)
        for writer in writers.get(memory.group(node), ()):
            revive(writer)
    return live


def _remove_attributes(gm: fx.GraphModule) -> bool:
    used = {str(n.target) for n in gm.graph.nodes if n.op in ("get_attr", "call_module")}
    # A whole sub-module may be used through any of its parents or parts.
    kept = {name for path in used for name in _prefixes(path)}
    modified = False

    def sweep(module: torch.nn.Module, path: str) -> None:
        nonlocal modified
        for table in (module._parameters, module._buffers):
            for name in [n for n in table if path + n not in kept]:
                delattr(module, name)
                modified = True
        for name in [n for n, v in vars(module).items() if isinstance(v, torch.Tensor)]:
            if path + name not in kept:
                delattr(module, name)
                modified = True
        for name, child in list(module._modules.items()):
            if path + name not in kept:
                delattr(module, name)
                modified = True
            elif path + name not in used and child is not None:
                sweep(child, f"{path}{name}.")

    sweep(gm, "")
    return modified


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
