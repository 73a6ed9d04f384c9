"""`quantize_`: any model's linear layers, with weights in GGUF blocks from now on."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ops.checks import FLOATS
from ..ops.reference import QUANTIZABLE, quantizable_names
from ..quant_types import QuantType, quant_type
from ..tensor import GGUFTensor

Filter = Callable[[nn.Module, str], bool]
Owners = list[tuple[str, nn.Module]]

_LISTED = 3  # names in a warning, for each reason


def quantize_(
    model: nn.Module, qtype: str | int | QuantType, filter_fn: Filter | None = None
) -> None:
    """Quantize the weights of a model's linear layers, in place.

    The layers stay what they are (`nn.Linear`, `nn.Embedding`); their `weight` becomes a frozen
    parameter that is a `GGUFTensor`. One weight after the other is quantized and freed, so that
    memory peaks at the model plus one quantized weight. Modules that share a weight share the
    quantized one, also where the filter chose only one of them. What cannot be quantized stays as
    it is and is listed, with the reasons, in one warning.

    Args:
        model: any module, on any device (on "meta" shapes are all that is computed).
        qtype: a GGML type with a quantizer, by name ("Q4_K") or number.
        filter_fn: called with every `nn.Linear` and `nn.Embedding` and its name in the model; says
            whether to quantize its weight. Default: the linear layers.

    Raises:
        ValueError: the type is unknown or has no quantizer.
    """
    row = quant_type(qtype)
    if row.id not in QUANTIZABLE:
        raise ValueError(
            f"qtype must be a type with a quantizer ({', '.join(quantizable_names())}), got "
            f"{row.name}"
        )
    choose = filter_fn or _is_linear
    skipped: dict[str, list[str]] = defaultdict(list)
    for name, module, owners in _chosen(model, choose):
        reason = _obstacle(module, owners, row)
        if reason:
            skipped[reason].append(name or type(module).__name__)
            continue
        assert isinstance(module.weight, Tensor)
        weight = _quantized(module.weight, row)
        for _, owner in owners:
            owner.weight = weight
    if skipped:
        _warn(skipped, row)


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear)


def _chosen(model: nn.Module, choose: Filter) -> list[tuple[str, nn.Module, Owners]]:
    """(name, module, all modules that have its weight), once for every weight."""
    owners: dict[int, Owners] = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners[id(parameter)].append((f"{name}.{key}".lstrip("."), module))
    found: dict[int, tuple[str, nn.Module, Owners]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and choose(module, name):
            key = id(module._parameters.get("weight", module))
            found.setdefault(key, (name, module, owners.get(key, [])))
    return list(found.values())


def _obstacle(module: nn.Module, owners: Owners, row: QuantType) -> str | None:
    """Why a module's weight cannot be quantized, if so."""
    weight = module._parameters.get("weight")
    if weight is None:
        return "the weight is no parameter of the module"
    if type(weight) is not nn.Parameter:
        held = f" of {quant_type(weight.qtype).name}" if isinstance(weight, GGUFTensor) else ""
        return f"the weight is a {type(weight).__name__}{held} already"
    if weight.dtype not in FLOATS:
        return f"the weight is {weight.dtype}"
    if weight.shape[-1] % row.block_size:
        return (
            f"rows of {weight.shape[-1]} elements are no multiple of {row.name}'s block of "
            f"{row.block_size}"
        )
    for name, owner in owners:
        if not (isinstance(owner, nn.Linear | nn.Embedding) and name.endswith("weight")):
            return f"the weight is shared with {name} of a {type(owner).__name__}"
        if isinstance(owner, nn.Embedding) and owner.max_norm is not None:
            return "an embedding with max_norm writes to its weight"
    return None


def _quantized(weight: Tensor, row: QuantType) -> nn.Parameter:
    with torch.no_grad():
        blocks = torch.ops.rocmforge.quantize(weight.detach(), row.id)
    return nn.Parameter(GGUFTensor(blocks, row.id, weight.dtype), requires_grad=False)


def _warn(skipped: dict[str, list[str]], row: QuantType) -> None:
    parts = []
    for reason, names in skipped.items():
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        parts.append(f"{', '.join(names[:_LISTED])}{more} ({reason})")
    warnings.warn(f"quantize_ to {row.name} skipped {'; '.join(parts)}", UserWarning, stacklevel=3)
