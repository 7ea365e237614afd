"""Derivatives by reverse differentiation at plain points.

`torch.func.grad` and `torch.func.vjp` return the same numbers, and can be nested. Their first call in a process loads
torch's compiler, which takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smesolve.entry_point import plain_surroundings

__all__ = ["linear_transpose", "scalar_hessian_product", "value_and_gradient"]


def value_and_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (...,) of a function of each row of (..., D), and its gradients (..., D).

    The gradient of a function that does not depend on the point, or has no derivative there, is zero.
    """
    with plain_surroundings(), torch.enable_grad():
        _, value, gradient = _with_gradient(function, at, create_graph=False)
        return value.detach(), gradient


def scalar_hessian_product(function: Callable[[Tensor], Tensor], at: Tensor, vectors: Tensor) -> Tensor:
    """Return the Hessian of a function (..., D) -> (...,) of each row, times vectors (..., D): (..., D)."""
    with plain_surroundings(), torch.enable_grad():
        point, _, gradient = _with_gradient(function, at.expand_as(vectors), create_graph=True)
        return _gradient_of((gradient * vectors).sum(), point)


def linear_transpose(function: Callable[[Tensor], Tensor], zeros: Tensor, vectors: Tensor) -> Tensor:
    """Return rows C^T u (..., M), for rows u (..., D), of a linear function v -> C v of each row of zeros (..., M)."""
    with plain_surroundings(), torch.enable_grad():
        point = zeros.clone().requires_grad_()
        return _gradient_of((function(point) * vectors).sum(), point)


def _with_gradient(
    function: Callable[[Tensor], Tensor], at: Tensor, create_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    point = at.detach().clone().requires_grad_()
    value = function(point.clone())  # not the leaf itself, which torch would not let a function overwrite
    return point, value, _gradient_of(value.sum(), point, create_graph)


def _gradient_of(value: Tensor, point: Tensor, create_graph: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(point)
    gradient: Tensor
    (gradient,) = torch.autograd.grad(
        value, point, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return gradient
