"""The orders of modified equations, and their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

__all__ = ["WITH_JUMPS", "Order", "equation_name", "orders_in_words", "sorted_orders", "weak_order"]

Order = int | Literal["quadratic", "poisson"]
"""Weak order 1, 2 or 3; "quadratic" for eq. (3) of `smesolve.solver.modified_equation`, which resums quadratic losses
(weak order 2 in its mean, 1 in general); or "poisson" for training steps at the times of a Poisson process (weak order
1)."""

WITH_JUMPS: tuple[Order, ...] = (3, "poisson")
"""Orders of the equations with jumps."""


def weak_order(order: Order) -> int:
    """Return the power of lr with which the weak error of an equation falls."""
    return 1 if isinstance(order, str) else order


def equation_name(order: Order) -> str:
    """Return the name of an equation in texts and tables: "order 2", or "poisson"."""
    return order if isinstance(order, str) else f"order {order}"


def orders_in_words(orders: Iterable[Order]) -> str:
    """Return the distinct orders in words, such as "orders 1 and 2" or "order 3 and poisson"."""
    found = sorted_orders(orders)
    plural = "s" if sum(not isinstance(order, str) for order in found) > 1 else ""
    head = f"order{plural} " if not isinstance(found[0], str) else ""
    *first, last = map(str, found)
    return f"{head}{', '.join(first)}{' and ' if first else ''}{last}"


def sorted_orders(orders: Iterable[Order]) -> list[Order]:
    """Return the distinct orders, numbers first."""
    return sorted(set(orders), key=lambda order: (isinstance(order, str), order))
