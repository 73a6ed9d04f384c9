"""The passes as one of Inductor's custom graph passes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

from rocmforge_torch.fx.optimize import PASSES, check_passes, run_passes
from rocmforge_torch.fx.shapes import complete

# The passes for graphs whose weights are inputs. `widen`, `merge` and `pack` need the weights
# themselves, the memory plan needs a graph that is run as it is.
GRAPH_PASSES = ("cse", "views", "fuse", "dce")


def others_than(names: Collection[str], disable: Collection[str]) -> set[str]:
    """The passes to leave out in order that of `names` those run that are not disabled."""
    return (PASSES.keys() - set(names)) | set(disable)


class InductorPass(CustomGraphPass):
    """See `fx.inductor_pass`."""

    def __init__(self, level: int, disable: Collection[str]) -> None:
        check_passes(disable, "fx.inductor_pass")
        self._level = level
        self._disable = sorted(others_than(GRAPH_PASSES, disable))

    def __call__(self, graph: fx.Graph) -> None:
        gm = graph.owning_module
        assert gm is not None, "the graph belongs to no module"
        run_passes(gm, self._level, self._disable, complete)

    def uuid(self) -> bytes:
        """Differs whenever the passes would do something else: Inductor caches what it compiles."""
        sources = tuple(str(path) for path in sorted(Path(__file__).parent.rglob("*.py")))
        return get_hash_for_files(sources, f"{self._level} {self._disable}")
