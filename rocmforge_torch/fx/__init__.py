"""Passes over torch.fx graphs."""

from rocmforge_torch.fx.cse import eliminate_common_subexpressions
from rocmforge_torch.fx.dce import eliminate_dead_code

__all__ = ["eliminate_common_subexpressions", "eliminate_dead_code"]
