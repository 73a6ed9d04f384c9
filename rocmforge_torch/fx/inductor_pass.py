"""The passes inside of PyTorch's own compiler."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._inductor.custom_graph_pass import CustomGraphPass


def inductor_pass(level: int = 3, disable: Collection[str] = ()) -> CustomGraphPass:
    """The passes for `torch._inductor.config.post_grad_custom_pre_pass`, to keep the stock backend.

    Those run that need no weights (cse, views, fuse, dce), on forward and backward graphs.

    Args:
        level: of the passes, as for `fx.optimize`.
        disable: names of passes to leave out, of fx.PASSES.

    Raises:
        ValueError: `disable` names no pass.
    """
    from rocmforge_torch.fx.graph_pass import InductorPass  # Inductor takes seconds to import

    return InductorPass(level, disable)
