"""A torch module as a function of its parameter vector and of given dropout masks.

Every call of torch's dropout in train mode, of single units or of whole channels, by a torch.nn.Dropout layer or by a
forward method itself, multiplies by a mask that the caller gives, in the order of the calls. The masks of a step can
therefore be drawn with a key, used twice, differentiated, and batched over paths by `torch.func.vmap`.
"""

from __future__ import annotations

import copy
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from smesolve.errors import SmesolveError
from smesolve.problem.decompositions import Decomposed, dropped_attention, drops_attention, multi_head_attention
from smesolve.problem.one_at_a_time import one_at_a_time
from smesolve.problem.padding_rows import padding_factors
from smesolve.problem.parameters import layer_name, trainable

__all__ = ["DropoutCall", "DropoutLayer", "ModuleFunction", "layers_of_call"]

MaskOf = Callable[[tuple[int, ...], float], Tensor | None]
"""(shape, drop probability) of a dropout call -> its mask, or None to leave the dropout out."""


@dataclass(frozen=True)
class DropoutCall:
    """One call of dropout in a forward pass."""

    layer: str
    """Name of the layer that makes the call."""
    shape: tuple[int, ...]
    """Shape of the mask: the shape of the dropped tensor, with 1 in the dimensions of a channel dropped as a whole."""
    drop_prob: float


@dataclass(frozen=True)
class DropoutLayer:
    """The layout of one call of dropout: the shape of its masks, and where the samples are in them.

    If samples can have masks of their own, masks are drawn with the samples first: (n, ...), or (1, ...) if all samples
    share one. The call may have the samples in another dimension, `axis`, and several masks per sample in it, `parts`,
    such as one per head of attention.
    """

    shape: tuple[int, ...]
    """Shape of the masks, of one sample if samples can have their own. The first dimension is `parts` if parts > 1."""
    keep_prob: float
    per_sample: bool
    """Whether the samples can have masks of their own. They cannot if a weight is dropped."""
    axis: int = 0
    """Dimension of the samples in the call."""
    parts: int = 1
    """Number of masks per sample in that dimension."""
    samples_outside: bool = True
    """Whether that dimension holds all parts of one sample after the other, instead of all samples of one part."""

    def placed(self, masks: Tensor, samples: int) -> Tensor:
        """Return masks (n or 1, ...) as the call takes them, n being `samples`."""
        if not self.per_sample:
            return masks
        if self.parts > 1:
            masks = masks.expand(samples, *masks.shape[1:])
            masks = (masks if self.samples_outside else masks.transpose(0, 1)).flatten(0, 1)
        return masks.movedim(0, self.axis)


def layers_of_call(
    shape: tuple[int, ...], few_shape: tuple[int, ...], keep_prob: float, samples: int, few: int
) -> list[DropoutLayer]:
    """Return the possible layouts of a call, given the shapes of its masks for all samples and for a few of them.

    The list is empty if no dimension, or more than one, holds the samples. It has two entries if samples and parts
    share a dimension, whose order the shapes do not show.
    """
    if shape == few_shape:
        return [DropoutLayer(shape, keep_prob, per_sample=False)]
    if len(shape) != len(few_shape):
        return []
    differ = [axis for axis, (one, other) in enumerate(zip(shape, few_shape, strict=True)) if one != other]
    axis, parts = differ[0], shape[differ[0]] // samples
    if len(differ) > 1 or (shape[axis], few_shape[axis]) != (parts * samples, parts * few):
        return []
    others = (*shape[:axis], *shape[axis + 1 :])
    if parts == 1:
        return [DropoutLayer(others, keep_prob, True, axis)]
    return [DropoutLayer((parts, *others), keep_prob, True, axis, parts, outside) for outside in (True, False)]


class ModuleFunction:
    """(theta, x, masks) -> module(x) with trainable parameters theta (D,), in the order of `parameters_to_vector`.

    Frozen parameters (requires_grad=False) keep the module's values, and rows of padding are 0, whatever theta holds.
    The module's own train and eval flags say which dropout layers are active. A call leaves the module unchanged:
    buffers that count or average do so on a copy, and attributes, including the items of lists and dicts in attributes,
    are restored.

    Args:
        module: any torch module that `torch.func` can differentiate and batch.
        name: name of the module in messages.

    Raises:
        SmesolveError: an embedding has a row of padding that is not 0, or that another layer trains.
    """

    def __init__(self, module: nn.Module, name: str = "module") -> None:
        self.module, self.name, self._layers = module, name, list(module.modules())
        self._buffers = [name for name, _ in module.named_buffers()]
        with one_at_a_time:  # another thread may have its own parameters in the module
            shapes = {name: parameter.shape for name, parameter in trainable(module).items()}
            self._padding = padding_factors(name, module)
        self.changing: frozenset[str] = frozenset()
        """Names of the buffers that a call changes; under `torch.func.vmap` each path changes its own."""
        self._names, self._shapes = list(shapes), list(shapes.values())
        self._sizes = [shape.numel() for shape in self._shapes]
        self.dim = sum(self._sizes)

    def __call__(self, theta: Tensor, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Return outputs for inputs x, with one mask per dropout call. With masks None, nothing is dropped.

        Raises:
            SmesolveError: batch normalisation in train mode.
        """
        if masks is None:
            return self._run(theta, x, lambda shape, drop_prob: None)
        remaining = iter(masks)
        return self._run(theta, x, lambda shape, drop_prob: next(remaining))

    def dropout_calls(self, theta: Tensor, x: Tensor) -> tuple[Tensor, list[DropoutCall]]:
        """Return outputs for inputs x without dropout, and the dropout calls in the forward pass."""
        with one_at_a_time, _attributes_put_back(self._layers):
            return self._recorded(self._values(theta), x)

    def called_twice(self, theta: Tensor, x: Tensor) -> tuple[list[tuple[Tensor, list[DropoutCall]]], list[str]]:
        """Return the results of `dropout_calls` for two calls in a row, without restoring the module in between.

        Returns:
            The results of both calls, and the names of the buffers that they change.
        """
        values = self._values(theta)
        with one_at_a_time, _attributes_put_back(self._layers):
            both = [self._recorded(values, x) for _ in range(2)]
        changed = [name for name in self._buffers if not torch.equal(values[name], self.module.get_buffer(name))]
        return both, changed

    @torch.no_grad()
    def layer_floats(self, theta: Tensor, x: Tensor) -> int:
        """Return the number of floats in the outputs of all calls of layers with parameters, without dropout."""
        function, total = copy.deepcopy(self), 0

        def count(layer: nn.Module, given: Any, outputs: Any) -> None:
            nonlocal total
            total += _floats(outputs)

        for layer in function.module.modules():
            if next(layer.parameters(recurse=False), None) is not None:
                layer.register_forward_hook(count)
        function(theta, x)
        return total

    def running_layer(self, frames: Iterable[FrameType] | None = None) -> str:
        """Return the name of the innermost layer whose method is running, or is among the frames (innermost first)."""
        layers = {id(layer): layer_name(key, layer) for key, layer in self.module.named_modules()}
        if frames is None:
            frames = (frame for frame, _ in traceback.walk_stack(None))
        owners = (id(frame.f_locals.get("self")) for frame in frames)
        return next((layers[owner] for owner in owners if owner in layers), "")

    def _run(self, theta: Tensor, x: Tensor, mask_of: MaskOf) -> Tensor:
        with one_at_a_time, _attributes_put_back(self._layers):
            return self._call(self._values(theta), x, mask_of)

    def _values(self, theta: Tensor) -> dict[str, Tensor]:
        """Return parameters, and copies of the buffers, by name."""
        pieces = zip(self._names, self._shapes, theta.split(self._sizes), strict=True)
        buffers = {name: self.module.get_buffer(name).clone() for name in self._buffers}
        if self.changing:
            own = torch.zeros_like(
                theta
            ).sum()  # batched and differentiated as theta, so that such values can be written
            buffers |= {name: buffers[name] + own for name in self.changing if buffers[name].is_floating_point()}
        values = {name: piece.view(shape) for name, shape, piece in pieces}
        for name, factor in self._padding.items():
            values[name] = values[name] * factor
        return values | buffers

    def _recorded(self, values: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[DropoutCall]]:
        calls: list[DropoutCall] = []

        def record(shape: tuple[int, ...], drop_prob: float) -> None:
            calls.append(DropoutCall(self.running_layer(), shape, float(drop_prob)))

        return self._call(values, x, record), calls

    def _call(self, values: dict[str, Tensor], x: Tensor, mask_of: MaskOf) -> Tensor:
        """Return the outputs; new values of buffers go into `values`."""
        # Of the kernels for attention, this one has forward derivatives.
        with _TorchCalls(self, mask_of), sdpa_kernel(SDPBackend.MATH):
            outputs: Tensor = functional_call(self.module, values, (x,))
            return outputs


@contextmanager
def _attributes_put_back(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the attributes after a forward pass under `torch.func`, whose tensors cannot be copied or pickled."""
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    values = [before[name] for _, before in attributes for name in before.keys() - _OF_EVERY_MODULE]
    containers = [
        (value, list(value.items()) if isinstance(value, dict) else list(value))
        for value in values
        if isinstance(value, (dict, list, set, deque))
    ]
    try:
        yield
    finally:
        for now, before in attributes:
            for name in now.keys() - before.keys():
                del now[name]
            now.update(before)
        for container, items in containers:
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(items)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class _TorchCalls(Decomposed):
    """Multiplies by a given mask at every active dropout call, in place if the call is in place."""

    def __init__(self, function: ModuleFunction, mask_of: MaskOf) -> None:
        super().__init__()
        self._function, self._mask_of = function, mask_of

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUT_ARGUMENTS:
            values, drop_prob, training, inplace = _DROPOUT_ARGUMENTS[func](*args, **kwargs)
            mask = self._mask_of(_mask_shape(func, values), drop_prob) if training and drop_prob != 0 else None
            if mask is None:
                return values
            return values.mul_(mask) if inplace else values * mask
        if func is functional.scaled_dot_product_attention and drops_attention(*args, **kwargs):
            with self:  # whose dropout is the one above
                return dropped_attention(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **kwargs)
        if func is functional.batch_norm and kwargs.get("training"):
            raise SmesolveError(
                f"{self._function.name} has batch normalisation in train mode in its {self._function.running_layer()}, "
                "which couples the samples of a batch; freeze it by .eval() on its batch-norm layers, where they track "
                "running statistics, or use group or layer normalisation."
            )
        return super().__torch_function__(func, types, args, kwargs)


def _dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool, bool]:
    return input, p, training, inplace


_DROPOUT_ARGUMENTS: Mapping[Any, Callable[..., tuple[Tensor, float, bool, bool]]] = {
    functional.dropout: _dropout,
    functional.dropout1d: _dropout,
    functional.dropout2d: _dropout,
    functional.dropout3d: _dropout,
    torch.dropout: lambda input, p, train: (input, p, train, False),
    torch.dropout_: lambda input, p, train: (input, p, train, True),
}
"""The functions of dropout, each with a function that reads its arguments."""

_CHANNELWISE: Mapping[Any, tuple[tuple[int, ...], Callable[[int], bool]]] = {
    functional.dropout1d: ((2, 3), lambda dims: dims == 3),
    functional.dropout2d: ((2, 3, 4), lambda dims: True),
    functional.dropout3d: ((4, 5), lambda dims: dims == 5),
}
"""Dropout of whole channels: the numbers of dimensions that it takes, and whether samples come before channels then.
torch takes the first dimension of three for samples in two of them, and for channels in the other."""


def _mask_shape(func: Any, values: Tensor) -> tuple[int, ...]:
    if func not in _CHANNELWISE:
        return tuple(values.shape)
    taken, samples_first = _CHANNELWISE[func]
    if values.ndim not in taken:
        raise SmesolveError(
            f"module gives {func.__name__} a tensor of {values.ndim} dimensions, which drops whole channels of "
            f"{' or '.join(map(str, taken))}; use dropout, which drops single units."
        )
    lead = 2 if samples_first(values.ndim) else 1
    return (*values.shape[:lead], *[1] * (values.ndim - lead))


def _floats(outputs: Any) -> int:
    """Return the number of floats in a tensor, or in nested tuples of tensors as recurrent layers return them."""
    if isinstance(outputs, Tensor):
        return outputs.numel()
    return sum(map(_floats, outputs)) if isinstance(outputs, (tuple, list)) else 0
