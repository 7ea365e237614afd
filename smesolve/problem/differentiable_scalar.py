"""Numbers, or differentiable tensors of shape ()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from smesolve.errors import invalid

__all__ = ["as_scalar", "checked_scalar", "value_of"]


def checked_scalar(name: str, value: Any, check: Callable[[str, Any], float]) -> Any:
    """Return a number that `check` accepts, or a floating-point tensor of shape () whose value it accepts.

    Raises:
        SmesolveError: value is neither of them.
    """
    if not isinstance(value, Tensor):
        return check(name, value)
    if value.ndim or not value.is_floating_point():
        raise invalid(name, "be a number, or a floating-point tensor of shape ()", value)
    check(name, value_of(value))
    return value


def value_of(scalar: Any) -> float:
    """Return the value of a number or of a tensor of shape () without its graph."""
    return float(scalar.detach() if isinstance(scalar, Tensor) else scalar)


def as_scalar(value: Any) -> Any:
    """Return a tensor as it is, and any other number as a float."""
    return value if isinstance(value, Tensor) else float(value)
