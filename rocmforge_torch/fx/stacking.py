"""The rows of several tensors as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rocmforge_torch.allocator.dlpack import bytes_at


def stack_rows(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [N_i, ...], alike but for N_i -> [sum of N_i, ...], their rows in their order.

    A view of the parts' memory where they lie in it one after the other, as weights of a mapped
    file often do; a copy elsewhere.
    """
    if not _are_neighbours(parts):
        return torch.cat([*parts])
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    if share_storage(parts):
        return first.detach().as_strided(shape, first.stride())
    if first.device.type != "cpu":
        return torch.cat([*parts])
    # Storages of their own over one piece of memory, which lives as long as they all do.
    memory = [part.detach() for part in parts]
    nbytes = sum(part.nbytes for part in parts)
    return (
        bytes_at(first.data_ptr(), nbytes, first.device, memory.clear).view(first.dtype).view(shape)
    )


def are_one(parts: Sequence[Tensor]) -> bool:
    """Whether contiguous tensors lie one after the other in one storage."""
    return share_storage(parts) and _follow_each_other(parts)


def share_storage(parts: Sequence[Tensor]) -> bool:
    return len({part.untyped_storage()._cdata for part in parts}) == 1


def _are_neighbours(parts: Sequence[Tensor]) -> bool:
    return (
        all(type(part) in (Tensor, torch.nn.Parameter) for part in parts)
        and all(part.is_contiguous() and part.nbytes > 0 for part in parts)
        and not any(part.requires_grad or part.is_meta for part in parts)
        and len({(part.device, part.dtype, part.shape[1:]) for part in parts}) == 1
        and _follow_each_other(parts)
    )


def _follow_each_other(parts: Sequence[Tensor]) -> bool:
    return all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in pairwise(parts))
