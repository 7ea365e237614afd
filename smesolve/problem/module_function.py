"""A torch module as a function of its parameter vector, with its dropout masks given.

Every call of torch.nn.functional.dropout in train mode, by a torch.nn.Dropout layer or by a forward method itself,
multiplies by a mask that the caller hands over, in the order of the calls. So the masks of a step can be drawn with a
key, used twice, differentiated by, and batched over paths by `torch.func.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["DropoutLayer", "ModuleFunction"]

REFUSED_DROPOUT = (
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
)


@dataclass(frozen=True)
class DropoutLayer:
    """One call of dropout in a forward pass."""

    shape: tuple[int, ...]
    """Shape of its input, samples first."""
    keep_prob: float


class ModuleFunction:
    """(theta, x, masks) -> module(x) with parameters theta (D,) in the order of `parameters_to_vector`.

    Buffers stay as they are. The module's own train and eval flags say which dropout layers are active.

    Args:
        module: any torch module that `torch.func` can differentiate and batch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._names = [name for name, _ in module.named_parameters()]
        self._shapes = [parameter.shape for parameter in module.parameters()]
        self._sizes = [parameter.numel() for parameter in module.parameters()]
        self.dim = sum(self._sizes)

    def __call__(self, theta: Tensor, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Outputs for inputs x; None for masks leaves dropout out.

        Raises:
            ValueError: batch normalisation in train mode, or a kind of dropout other than elementwise.
        """
        return self._run(theta, x, _without_dropout if masks is None else _Given(masks))

    def dropout_layers(self, theta: Tensor, x: Tensor) -> list[DropoutLayer]:
        """The dropout calls of a forward pass on x. Cost: two passes.

        Raises:
            ValueError: two passes without dropout differ: the module draws random numbers of its own.
        """
        layers: list[DropoutLayer] = []

        def record(values: Tensor, drop_prob: float) -> Tensor:
            layers.append(DropoutLayer(tuple(values.shape), 1 - drop_prob))
            return values

        first, second = self._run(theta, x, record), self._run(theta, x, _without_dropout)
        if isinstance(first, Tensor) and not torch.allclose(first, second, rtol=1e-5, atol=1e-8, equal_nan=True):
            raise ValueError(
                "module draws random numbers of its own, such as dropout inside torch's attention or recurrent layers, "
                "which no key names; set them to zero, or draw by torch.nn.functional.dropout."
            )
        return layers

    def _run(self, theta: Tensor, x: Tensor, dropout: Callable[[Tensor, float], Tensor]) -> Tensor:
        pieces = theta.split(self._sizes)
        parameters = {
            name: piece.view(shape) for name, shape, piece in zip(self._names, self._shapes, pieces, strict=True)
        }
        with _DropoutCalls(dropout):
            return functional_call(self.module, parameters, (x,))


class _Given:
    """The masks of one forward pass, in the order of its dropout calls."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self._masks = iter(masks)

    def __call__(self, values: Tensor, drop_prob: float) -> Tensor:
        return values * next(self._masks)


def _without_dropout(values: Tensor, drop_prob: float) -> Tensor:
    return values


class _DropoutCalls(TorchFunctionMode):
    """Hands every active dropout call to a function of its input and drop probability."""

    def __init__(self, dropout: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self._dropout = dropout

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            values, drop_prob, training = _dropout_arguments(*args, **kwargs)
            return self._dropout(values, drop_prob) if training and drop_prob > 0 else values
        if func in REFUSED_DROPOUT and kwargs.get("training", True):
            raise ValueError(
                f"module uses {func.__name__}, whose masks are not elementwise; use torch.nn.Dropout, or put the layer "
                "into eval mode."
            )
        if func is functional.batch_norm and kwargs.get("training"):
            raise ValueError(
                "module has batch normalisation in train mode, which couples the samples of a batch; freeze it by "
                ".eval() on its batch-norm layers, or use group or layer normalisation."
            )
        return func(*args, **kwargs)


def _dropout_arguments(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool]:
    """The signature of torch.nn.functional.dropout."""
    return input, p, training
