"""Abbreviation of long expressions in messages."""

from __future__ import annotations

from sympy import Expr

__all__ = ["abbreviated"]

MAX_CHARACTERS = 400


def abbreviated(expression: Expr) -> str:
    """Return the expression, or its beginning and its number of operations."""
    text = str(expression)
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} ... ({expression.count_ops()} operations in all)"
