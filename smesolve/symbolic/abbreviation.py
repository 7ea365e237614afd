"""Long expressions in sentences."""

from __future__ import annotations

from sympy import Expr

__all__ = ["abbreviated"]

LONGEST = 400
"""Characters."""


def abbreviated(expression: Expr) -> str:
    """The expression, or its beginning and how long it is."""
    text = str(expression)
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} ... ({expression.count_ops()} operations in all)"
