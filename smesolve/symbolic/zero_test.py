"""Does an expression vanish identically? Decided, not guessed.

Refuted by a value: at a random rational point, computed to 60 digits, with undefined functions and their
derivatives as further free numbers. Proven by algebra: as an element of a polynomial ring over QQ, modulo
the relations of roots and after clearing denominators (`indeterminates`). Where the value is zero and the
ring element is not (functions that depend on each other, such as tanh w and tanh 2w), `sympy.simplify` in
terms of exp has the last word.
"""

from __future__ import annotations

import random

import mpmath
import sympy
from sympy import QQ, Expr
from sympy.core.function import AppliedUndef
from sympy.polys.rings import PolyElement, PolyRing

from smesolve.arguments import EXPRESSION, checked
from smesolve.symbolic.abbreviation import abbreviated
from smesolve.symbolic.indeterminates import Indeterminates
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name

__all__ = ["is_zero_in_ring", "vanishes"]

DIGITS = 60


@checked(expression=EXPRESSION)
def vanishes(expression: Expr) -> bool:
    """True if the expression is proven to be 0, False if it is shown not to be."""
    expression = sympy.sympify(expression)
    check_one_symbol_per_name({"expression": expression.free_symbols})
    if expression.is_Number:
        return expression == 0
    if _value_is_not_zero(expression):
        return False
    if is_zero_in_ring(expression) or sympy.simplify(expression.rewrite(sympy.exp)) == 0:
        return True
    raise ArithmeticError(
        f"it could not be decided whether {abbreviated(expression)} vanishes: its value at a random point is 0 "
        f"to {DIGITS // 2} digits, but sympy does not simplify it to 0."
    )


def _value_is_not_zero(expression: Expr) -> bool:
    jets = expression.atoms(AppliedUndef, sympy.Subs, sympy.Derivative)
    expression = expression.xreplace({jet: sympy.Dummy() for jet in jets})
    symbols = sorted(expression.free_symbols, key=sympy.default_sort_key)
    rng = random.Random(0)
    # Inside (1/4, 3/4): a keep_prob, and within reach of every activation.
    numerators = [rng.randint(2500, 7500) for _ in symbols]
    value = sympy.lambdify(symbols, expression, "mpmath", cse=True)
    with mpmath.workdps(DIGITS):
        point = [mpmath.mpf(numerator) / 10007 for numerator in numerators]
        return bool(abs(value(*point)) > mpmath.mpf(10) ** (-DIGITS // 2))


def is_zero_in_ring(expression: Expr) -> bool:
    """True proves that the expression is 0; False says so only of the polynomial in free indeterminates."""
    indeterminates = Indeterminates()
    polynomial = indeterminates.replace(expression)
    relations = indeterminates.relations
    symbols = polynomial.free_symbols.union(*(relation.base.free_symbols for relation in relations))
    if not symbols:
        return polynomial == 0
    ring = PolyRing(sorted(symbols, key=sympy.default_sort_key), QQ)
    element = ring.from_expr(polynomial)
    # The last one first: what it brings back are earlier ones.
    for relation in reversed(relations):
        element = _reduced(element, ring(relation.symbol), relation.exponent, ring.from_expr(relation.base))
    return element == 0


def _reduced(element: PolyElement, symbol: PolyElement, exponent: int, base: PolyElement) -> PolyElement:
    """Reduce by symbol^exponent = base: powers of a root, or the denominator that a reciprocal stands for."""
    position = element.ring.gens.index(symbol)
    by_power: dict[int, PolyElement] = {}
    for monomial, coefficient in element.terms():
        power = monomial[position]
        rest = (*monomial[:position], 0, *monomial[position + 1 :])
        by_power.setdefault(power, element.ring.zero)[rest] = coefficient
    if exponent == -1:
        highest = max(by_power, default=0)
        reduced = (part * base ** (highest - power) for power, part in by_power.items())
    else:
        reduced = (
            part * base ** (power // exponent) * symbol ** (power % exponent) for power, part in by_power.items()
        )
    return sum(reduced, element.ring.zero)
