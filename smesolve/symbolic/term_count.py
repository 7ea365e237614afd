"""Bounds on the number of terms of a derivation, and the refusal of derivations that would take too long.

The bounds follow from the shape of expressions before anything is expanded: for a polynomial, the number of terms after
expansion of its brackets; for an expansion, the number of products of the functions of each variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb, prod

from sympy import Expr, Symbol

from smesolve.errors import SmesolveError

__all__ = ["MOST_TERMS", "MOST_VALUES", "check_products", "check_terms", "check_values", "monomial_bound"]

MOST_TERMS = 2**16
"""Largest number of terms of an expansion in the random variables; sympy takes minutes for it."""

MOST_VALUES = 64
"""Largest number of values of a law whose indicators are expanded: the orthogonal polynomials of K values take K^3
operations of sympy, 20 seconds for 64."""

MOST_PRODUCTS = 10**8
"""Largest number of products of two terms; sympy takes hours for it."""


Bound = tuple[float, Mapping[Symbol, int]]
"""A bound on the number of monomials, and the degree in each symbol."""


def monomial_bound(expression: Expr, symbols: Sequence[Symbol]) -> float:
    """Return a bound on the number of monomials of an expression in the symbols; other functions count as one monomial.

    Cost: one visit to each different part of the expression.
    """
    wanted = frozenset(symbols)
    known: dict[Expr, Bound] = {}

    def look(part: Expr) -> Bound:
        """Return the bound, and the degree in each symbol."""
        if part not in known:
            known[part] = _bound(part, [look(argument) for argument in part.args], part in wanted)
        return known[part]

    count, degrees = look(expression)
    return min(count, prod((1.0 + degree for degree in degrees.values()), start=1.0))


def _bound(part: Expr, parts: list[Bound], wanted: bool) -> Bound:
    """Return the bound of a part from the bounds of its arguments."""
    if wanted:
        return 1.0, {part: 1}
    involved = [(count, degrees) for count, degrees in parts if degrees]
    names = {name for _, degrees in involved for name in degrees}
    if part.is_Add:
        each = {name: max(degrees.get(name, 0) for _, degrees in involved) for name in names}
        return sum(count for count, _ in parts) if names else 1.0, each
    if part.is_Mul:
        each = {name: sum(degrees.get(name, 0) for _, degrees in involved) for name in names}
        return prod((count for count, _ in involved), start=1.0), each
    if part.is_Pow and part.exp.is_Integer and part.exp > 0 and names:
        count, power = parts[0][0], int(part.exp)
        each = {name: power * degree for name, degree in parts[0][1].items()}
        many = count > 1e6 or power > 1000
        return (count ** min(power, 50) if many else float(comb(int(count) + power - 1, power))), each
    return 1.0, dict.fromkeys(names, 1)


def check_terms(what: str, count: float, random: int, remedy: str) -> None:
    """Refuse an expansion of too many terms; the message holds the numbers."""
    if count > MOST_TERMS:
        raise SmesolveError(
            f"{what} would have up to {count:.3g} terms in {random} random symbols, more than {MOST_TERMS}; {remedy}."
        )


def check_values(symbol: Symbol, values: int, most: int = MOST_TERMS) -> None:
    """Refuse a law on too many values; the message holds the numbers."""
    if values > most:
        indicators = "" if most == MOST_TERMS else " as indicators, which a step that is not a polynomial in it needs"
        raise SmesolveError(
            f"random[{symbol}] has a law on {values} values, more than {most}{indicators}; take a law on fewer values."
        )


def check_products(what: str, count: float, columns: int, state: int) -> None:
    """Refuse sums of too many products; the message holds the numbers."""
    if count > MOST_PRODUCTS:
        raise SmesolveError(
            f"{what} would take {count:.3g} products of {columns} terms for {state} state variables, more than "
            f"{MOST_PRODUCTS:.3g}; take fewer random symbols, samples or parameters."
        )
