"""Functionalized ops write in place again, so that running a graph copies no cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from torch._inductor.fx_passes.post_grad import decompose_auto_functionalized
from torch._inductor.fx_passes.reinplace import reinplace_inplaceable_ops
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from rocmforge_torch.fx.shapes import complete


def reinplace(gm: fx.GraphModule) -> None:
    """Undoes what AOTAutograd's functionalization did to writes, where nothing reads the old value.

    Inductor's own passes decide where that is; elsewhere a copy is made first, as it must be.
    """
    values = tree_leaves([n.meta.get("val") for n in gm.graph.nodes])
    modes = [v.fake_mode for v in values if isinstance(v, FakeTensor)]
    if not modes:
        return
    updater: Any = SimpleNamespace(incremental_update=lambda: complete(gm))
    with V.set_fake_mode(modes[0]):
        reinplace_inplaceable_ops(updater, gm.graph)
        decompose_auto_functionalized(gm.graph)
    for node in gm.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0] is node.args[1]:
            gm.graph.erase_node(node)
    gm.graph.lint()
    gm.recompile()
