"""Layers whose weights are in host memory, and in a buffer of the device while they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..gguf.link import Link
from ..gguf.scratch import round_up
from .stream import WeightStream

Tensors = dict[str, Any]  # of a module: its parameters, or its buffers


def stream_layers(
    layers: nn.ModuleList,
    chosen: Sequence[int],
    link: Link,
    prepare: Callable[[nn.Module], object] = lambda layer: None,
) -> None:
    """Let layers compute from buffers that their weights are copied to ahead of time.

    The modules stay what they are. Their own tensors become views of pinned host memory, so that
    state dicts are as before, and give way to views of a buffer while the layer computes.

    Args:
        layers: all layers of a model.
        chosen: the numbers of those to stream, in the order that they compute in.
        link: the way to the device.
        prepare: called with each of them before its tensors are moved, one after the other.
    """
    streamed = []
    for index in chosen:
        prepare(layers[index])
        streamed.append(_Streamed(layers[index], link))
    if streamed:
        stream = WeightStream(link, [layer.host for layer in streamed])
        for position, layer in enumerate(streamed):
            layer.attach(stream, position)


class _Streamed:
    """What is known of one layer: its host memory, and its tensors in every buffer."""

    def __init__(self, layer: nn.Module, link: Link) -> None:
        self.layer = layer
        self._places = list(_stored_tensors(layer))
        sizes = [round_up(group[name].nbytes) for group, name in self._places]
        self.host = link.host_buffer(sum(sizes))
        for (group, name), view in zip(self._places, self._views(self.host), strict=True):
            view.copy_(group[name])
            is_parameter = isinstance(group[name], nn.Parameter)
            group[name] = nn.Parameter(view, requires_grad=False) if is_parameter else view
        self._own = [group[name] for group, name in self._places]

    def attach(self, stream: WeightStream, position: int) -> None:
        """Compute from the buffers of a stream, whose piece number `position` is this layer's."""
        in_buffers = [self._views(buffer) for buffer in stream.buffers]

        def before(*_: Any) -> None:
            if torch.compiler.is_compiling():
                raise RuntimeError("streamed layers cannot be compiled: run the model eagerly")
            self._use(in_buffers[stream.take(position)])

        def after(*_: Any) -> None:
            self._use(self._own)
            stream.done(position)

        self.layer.register_forward_pre_hook(before)
        self.layer.register_forward_hook(after, always_call=True)
        self.layer.register_load_state_dict_post_hook(lambda *_: stream.forget())
        self.layer._apply = _stays  # type: ignore[method-assign]

    def _views(self, memory: Tensor) -> list[Tensor]:
        """The layer's tensors in a piece of memory, one behind the other."""
        views, start = [], 0
        for group, name in self._places:
            tensor = group[name]
            part = memory[start : start + tensor.nbytes]
            views.append(part.view(tensor.dtype).view(tensor.shape))
            start += round_up(tensor.nbytes)
        return views

    def _use(self, tensors: Sequence[Tensor]) -> None:
        for (group, name), tensor in zip(self._places, tensors, strict=True):
            group[name] = tensor


def _stored_tensors(layer: nn.Module) -> Iterator[tuple[Tensors, str]]:
    """Every parameter and buffer that a state dict holds, as the dictionary it is in and its name.

    Others, such as frequencies that layers share, stay where they are.
    """
    for module in layer.modules():
        parameters: Tensors = module._parameters
        buffers: Tensors = module._buffers
        for group in (parameters, buffers):
            for name, tensor in group.items():
                if tensor is not None and name not in module._non_persistent_buffers_set:
                    yield group, name


def _stays(fn: Callable[..., Any], recurse: bool = True) -> NoReturn:
    raise RuntimeError(
        "a model with streamed layers stays where it is: load it again for another device or dtype"
    )
