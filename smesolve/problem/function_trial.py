"""Trials of functions of the user: rows are independent, calls repeatable, and derivatives belong to the values.

torch reports a violation of none of the three. A mean over all paths in place of one over the last dimension can give a
tensor of the right shape. `.detach()`, `.data`, `.item()`, `float()` and a backward of your own cut off or replace a
derivative silently, and an equation of order 2 then has the drift of order 1. Values show it: the quotients

    (1)  q(h) = [f(at + h d) - f(at - h d)] / (2 h),
    (2)  q(h) = [4 f(at + h d) - f(at + 2 h d) - 3 f(at)] / (2 h)  if f begins at `at`,

for h and h/4 agree if f is smooth, and then reveal a wrong derivative. If they differ, at a kink of f or by rounding,
the derivative is accepted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["called", "check_derivative", "check_rows", "equal_up_to_rounding"]

LOST = (
    "write it without .detach(), .data, .item(), float() and numpy, and without operations whose own derivative is not "
    "that of their values"
)
"""Remedy for a derivative that does not belong to the values."""


def equal_up_to_rounding(values: Tensor, others: Tensor) -> bool:
    """Return whether values are equal up to rounding."""
    if values.shape != others.shape:
        return False
    if not values.is_floating_point():
        return torch.equal(values, others)
    size = float(others.nan_to_num(0.0, 0.0, 0.0).abs().max()) if others.numel() else 0.0
    tolerance = torch.finfo(values.dtype).eps ** 0.5
    return torch.allclose(values, others, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def called(what: str, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return function(values), after checking that the function does not write into the values.

    Args:
        what: name of the function in messages.
        function: the function.
        values: finite values.

    Raises:
        SmesolveError: the function changes what it is given, which a study would go on with.
    """
    given = values.clone()
    found = function(given)
    if not torch.equal(given, values):
        raise SmesolveError(
            f"{what} must leave what it is given unchanged, but it writes into it; let it work on a .clone(), or by "
            "operations that make new values, such as theta * 2 in place of theta.mul_(2)."
        )
    return found


def check_rows(what: str, function: Callable[[Tensor], Tensor], rows: Tensor, words: str = "path") -> None:
    """Check that a function (B, ...) -> (B, ...) acts on each row by itself, and that a second call gives the same.

    The rows (B, ...) are different, and shape and dtype of the function's values must have been checked before.
    Messages call the function `what`, and a row `words`.

    Raises:
        SmesolveError: the function draws random numbers, has a state, or mixes rows.
    """
    values, again = function(rows), function(rows)
    if not torch.equal(values.nan_to_num(nan=1e30), again.nan_to_num(nan=1e30)):
        raise SmesolveError(
            f"{what} must be a function of what it is given, but it returns other values when it is called again; let "
            "it draw no random numbers and count nothing (a module in training mode does: call its eval())."
        )
    turned, fewer = function(rows.flip(0)).flip(0), function(rows[:-1])
    if not (equal_up_to_rounding(turned, values) and equal_up_to_rounding(fewer, values[:-1])):
        raise SmesolveError(
            f"{what} must treat each {words} by itself, but its value for one depends on the others; take means, sums "
            "and norms over the last dimension (dim=-1), and combine tensors of the same shape."
        )


def check_derivative(
    what: str,
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    direction: Tensor,
    derivative: Tensor | None = None,
    one_sided: bool = False,
) -> None:
    """Check that the derivative of a function at a point along a direction agrees with its values, by (1) or (2).

    Default for the derivative: torch's forward derivative. `one_sided` says that the function is defined on one side of
    `at` only, in the direction. Messages call the function `what`. Cost: five to seven values.

    Raises:
        SmesolveError: the derivative differs from that of the values, or torch cannot compute it.
    """
    if not direction.any():
        return
    if derivative is None:
        derivative = call_of_user(
            f"{what}, whose derivative torch takes,", forward_derivative, function, at, direction
        )[1]
    eps = torch.finfo(at.dtype).eps
    h = 4 * eps**0.5 * (1 + float(at.abs().max())) / float(direction.abs().max())

    def quotient(step: float) -> Tensor:
        after = function(at + step * direction)
        if one_sided:
            return (4 * after - function(at + 2 * step * direction) - 3 * function(at)) / (2 * step)  # (2)
        return (after - function(at - step * direction)) / (2 * step)  # (1)

    quotients = quotient(h), quotient(h / 4)
    rounding = 16 * eps * function(at).abs().max() / (h / 4)
    uncertain = 10 * ((quotients[0] - quotients[1]).abs() + rounding)
    off = (derivative - quotients[1]).abs() > 0.01 * (derivative.abs() + quotients[1].abs()) + uncertain
    off &= derivative.isfinite() & quotients[0].isfinite() & quotients[1].isfinite()
    if off.any():
        given, found = float(derivative[off].flatten()[0]), float(quotients[1][off].flatten()[0])
        raise SmesolveError(
            f"{what} must have the derivative of its values, but torch's is {given:.3g} where differences give "
            f"{found:.3g}; {LOST}."
        )
