"""Passes over torch.fx graphs."""

from rocmforge_torch.fx.cse import eliminate_common_subexpressions
from rocmforge_torch.fx.dce import eliminate_dead_code
from rocmforge_torch.fx.fusion import fuse
from rocmforge_torch.fx.inductor_pass import inductor_pass
from rocmforge_torch.fx.memory_plan import MemoryPlan, plan_memory
from rocmforge_torch.fx.optimize import PASSES, optimize
from rocmforge_torch.fx.packing import pack_weights
from rocmforge_torch.fx.products import merge_products
from rocmforge_torch.fx.shapes import annotate
from rocmforge_torch.fx.views import cancel_views
from rocmforge_torch.fx.widening import widen_weights

__all__ = [
    "PASSES",
    "MemoryPlan",
    "annotate",
    "cancel_views",
    "eliminate_common_subexpressions",
    "eliminate_dead_code",
    "fuse",
    "inductor_pass",
    "merge_products",
    "optimize",
    "pack_weights",
    "plan_memory",
    "widen_weights",
]
