"""A pooled allocator for tensors."""

from rocmforge_torch.allocator.tensor_allocator import (
    AllocatorStats,
    TensorAllocator,
    allocator_stats,
    current_allocator,
    reset_allocator,
    with_allocator,
)

__all__ = [
    "AllocatorStats",
    "TensorAllocator",
    "allocator_stats",
    "current_allocator",
    "reset_allocator",
    "with_allocator",
]
