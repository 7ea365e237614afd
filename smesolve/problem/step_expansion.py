"""The expansion of a training step in its learning rate: theta + lr F + lr^2 F2 + lr^3 F3 + ..."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.function_trial import check_derivative
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["check_step", "taylor_terms"]


def taylor_terms(function: Callable[[Tensor], Tensor], like: Tensor, count: int) -> list[Tensor]:
    """Return the Taylor coefficients f^(k)(0) / k!, k = 0, ..., count, of a function f: () -> (...), smooth at 0.

    `like` is a tensor for dtype and device of its argument. Cost: 2^count times the operations that depend on the
    argument; others are computed once.
    """
    zero, one = like.new_zeros(()), like.new_ones(())

    def derivatives(number: Tensor, highest: int) -> list[Tensor]:
        if not highest:
            return [function(number)]
        values, slopes = forward_derivative(lambda at: derivatives(at, highest - 1), number, one)
        return [*values, slopes[-1]]

    return [value / math.factorial(power) for power, value in enumerate(derivatives(zero, count))]


def check_step(
    name: str, linear: bool, step: Callable[[Tensor], Tensor], theta: Tensor, first: Tensor | None = None
) -> None:
    """Check that a problem's own training step, as a function of lr, agrees with the problem's other declarations.

    `linear` says whether the problem declares the step of gradient descent (`linear_step`). The step is tried from
    theta (B, D); `first` is F, minus the gradient, (B, D), where it is known. Messages call the step `name`.

    Raises:
        SmesolveError: the step returns another shape or dtype, is not theta at lr = 0, or has another derivative there.
    """
    if linear:
        raise SmesolveError(f"{name} replaces the step of gradient descent, so the problem must set linear_step=False.")
    found = call_of_user(name, step, theta.new_zeros(()))
    if not isinstance(found, Tensor) or found.shape != theta.shape or found.dtype != theta.dtype:
        raise SmesolveError(
            f"{name} must return a {theta.dtype} tensor of shape {tuple(theta.shape)} for as many theta, got "
            f"{shown(found)}; all methods take any leading dimensions."
        )
    if not torch.allclose(found, theta):
        raise SmesolveError(f"{name} must return theta itself at lr=0; make it a smooth function of lr that does.")
    slope = call_of_user(name, taylor_terms, step, theta, 1)[1]
    if not slope.isfinite().any():
        raise SmesolveError(f"{name} must be a smooth function of lr at lr=0, but its derivative there is not finite.")
    zero, one = theta.new_zeros(()), theta.new_ones(())
    if not torch.equal(*(step(one / 64).nan_to_num(nan=1e30) for _ in range(2))):
        raise SmesolveError(f"{name} must draw no random numbers but those of its draw; make them in draw(uniforms).")
    check_derivative(f"{name}, as a function of lr,", step, zero, one, slope, one_sided=True)
    if first is not None and not torch.allclose(slope, first, equal_nan=True):
        raise SmesolveError(
            f"{name} must have the derivative -gradient(theta, draw) in lr at lr=0; return minus that derivative from "
            "gradient."
        )
