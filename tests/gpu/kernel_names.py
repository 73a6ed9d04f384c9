"""Kernels whose names depend on the card."""

import torch


def tile_kernel() -> str:
    """Hopper's matrix units have a kernel of their own."""
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    return "tile_warpgroup_kernel" if hopper else "tile_kernel"
