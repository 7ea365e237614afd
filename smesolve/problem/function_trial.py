"""Functions that users write, tried: each row by itself, the same at every call, with the derivative of their values.

None of the three is an error to torch. A mean over all paths where one over the last dimension was meant gives a tensor
of the right shape. `.detach()`, `.data`, `.item()`, `float()` and a backward of one's own cut a derivative off or
replace it without a word, and an equation of order 2 then has the drift of order 1. Values do not lie: with

    (1)  q(h) = [f(at + h d) - f(at - h d)] / (2 h),
    (2)  q(h) = [4 f(at + h d) - f(at + 2 h d) - 3 f(at)] / (2 h)  where f begins at `at`,

q(h) and q(h/4) agree where f is smooth, and tell a derivative that is not that of f. Where they differ, at a kink of f
or by rounding, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["check_derivative", "check_rows", "equal_up_to_rounding"]

LOST = (
    "write it without .detach(), .data, .item(), float() and numpy, and without operations whose own derivative is not "
    "that of their values"
)
"""What can be done about a derivative that is not that of the values."""


def equal_up_to_rounding(values: Tensor, others: Tensor) -> bool:
    """Return whether values are equal up to rounding."""
    if values.shape != others.shape:
        return False
    if not values.is_floating_point():
        return torch.equal(values, others)
    size = float(others.nan_to_num(0.0, 0.0, 0.0).abs().max()) if others.numel() else 0.0
    tolerance = torch.finfo(values.dtype).eps ** 0.5
    return torch.allclose(values, others, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def check_rows(what: str, function: Callable[[Tensor], Tensor], rows: Tensor, words: str = "path") -> None:
    """Check that a function (B, ...) -> (B, ...) is one of each row by itself, and the same at the second call.

    Args:
        what: the function in messages.
        function: it has been called before, so that shape and dtype of what it returns are known.
        rows: (B, ...), different ones.
        words: what a row is.

    Raises:
        SmesolveError: it draws random numbers, has a state, or mixes rows.
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
    """Check that the derivative of a function along a direction is that of its values, by (1) or (2).

    Cost: five values.

    Args:
        what: the function in messages.
        function: of a tensor like `at`.
        at: where it is tried.
        direction: of the shape of `at`.
        derivative: as it is computed. Default: torch's forward derivative.
        one_sided: whether the function begins at `at`.

    Raises:
        SmesolveError: it is another one, or torch cannot take it.
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
