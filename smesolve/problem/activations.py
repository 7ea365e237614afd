"""Activations and their derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Activation", "curvatures", "slopes"]

Activation = Callable[[Tensor], Tensor]
"""Elementwise and differentiable by `torch.func`."""


def tanh(pre: Tensor) -> Tensor:
    """2 sigmoid(2 x) - 1: exact up to the rounding of numbers of size 1; torch's sigmoid is faster than its tanh."""
    return 2 * torch.sigmoid(2 * pre) - 1


def identity(pre: Tensor) -> Tensor:
    """x."""
    return pre


ACTIVATIONS: dict[str, Activation] = {
    "tanh": tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "identity": identity,
}
"""Activations by name; add to it to name one of your own."""

Derivative = Callable[[Tensor, Tensor], Tensor]

# First and second derivatives from x and sigma(x), where they are cheaper than by automatic differentiation.
_SLOPES: dict[Activation, Derivative] = {
    tanh: lambda pre, value: 1 - value * value,
    torch.relu: lambda pre, value: (pre > 0).to(pre.dtype),
    torch.sigmoid: lambda pre, value: value * (1 - value),
    identity: lambda pre, value: torch.ones_like(pre),
}
_CURVATURES: dict[Activation, Derivative] = {
    tanh: lambda pre, value: 2 * value * (value * value - 1),
    torch.relu: lambda pre, value: torch.zeros_like(pre),
    torch.sigmoid: lambda pre, value: value * (1 - value) * (1 - 2 * value),
    identity: lambda pre, value: torch.zeros_like(pre),
}


def slopes(activation: Activation, pre: Tensor, value: Tensor) -> Tensor:
    """sigma'(x), given x and sigma(x)."""
    if activation in _SLOPES:
        return _SLOPES[activation](pre, value)
    return torch.func.jvp(activation, (pre,), (torch.ones_like(pre),))[1]


def curvatures(activation: Activation, pre: Tensor, value: Tensor) -> Tensor:
    """sigma''(x), given x and sigma(x)."""
    if activation in _CURVATURES:
        return _CURVATURES[activation](pre, value)
    return torch.func.jvp(lambda at: slopes(activation, at, value), (pre,), (torch.ones_like(pre),))[1]
