"""A decision whether an expression vanishes identically.

A nonzero value at a random rational point refutes it; the value is computed to 60 and to 120 digits, with undefined
functions and their derivatives as further free numbers. Algebra proves it: the expression is 0 in a polynomial ring
over QQ, modulo the relations of roots and after clearing denominators (`indeterminates`). Where the value is zero and
the ring element is not (functions that depend on each other, such as tanh w and tanh 2w), `sympy.simplify` in terms of
exp decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import mpmath
import sympy
from sympy import QQ, Basic, Eq, Expr, Ge, Gt, Heaviside, Integer, Le, Lt, Ne
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.core.function import AppliedUndef
from sympy.polys.rings import PolyElement, PolyRing

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.symbolic.indeterminates import Indeterminates
from smesolve.symbolic.real_calculus import KINKED, as_real, in_terms_of_floor
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name
from smesolve.validation import check_expression

__all__ = ["abbreviated", "is_zero_in_ring", "vanishes"]

DIGITS = 60

MAX_CHARACTERS = 400
"""Longest expression that a message shows whole."""


@entry_point
def vanishes(expression: Expr) -> bool:
    """Return True if the expression is proven to be 0 for all real values of its symbols, and False if it is not 0.

    Points at which functions have kinks, or at which an equation in a condition holds, are left out.

    Raises:
        SmesolveError: if neither can be shown.
    """
    expression = sympy.sympify(check_expression("expression", expression))
    check_one_symbol_per_name({"expression": expression.free_symbols})
    expression = in_terms_of_floor(as_real(expression)[0])
    if expression.is_Number:
        return bool(expression == 0)
    if _value_is_not_zero(expression):
        return False
    if _is_proven_zero(expression) or all(map(_is_proven_zero, _branches(expression))):
        return True
    raise SmesolveError(
        f"expression {abbreviated(expression)} is 0 up to rounding at random points, but sympy does not simplify it to "
        "0; write it in fewer functions that depend on each other."
    )


def _is_proven_zero(expression: Expr) -> bool:
    return is_zero_in_ring(expression) or bool(sympy.simplify(expression.rewrite(sympy.exp)) == 0)


def _value_is_not_zero(expression: Expr) -> bool:
    jets = expression.atoms(AppliedUndef, sympy.Subs, sympy.Derivative)
    expression = expression.xreplace({jet: sympy.Dummy(real=True) for jet in jets})
    symbols = sorted(expression.free_symbols, key=sympy.default_sort_key)
    rng = random.Random(0)
    # Inside (1/4, 3/4), where a keep_prob is valid and no activation saturates.
    first = [-1 if symbol.is_negative else 1 for symbol in symbols]
    numerators = [sign * rng.randint(2500, 7500) for sign in first]
    parts = [*expression.atoms(*KINKED), *(p for p in expression.atoms(sympy.Pow) if not p.exp.is_integer)]
    branching = [part for part in parts if part.free_symbols <= set(symbols)]
    # cse would take sub-expressions out of integrals and sums, which bind symbols of their own.
    cse = not expression.has(ExprWithLimits)
    value = sympy.lambdify(symbols, [expression, *branching], [MORE_FUNCTIONS, "mpmath"], cse=cse)
    if _at(value, numerators)[0]:
        return True
    for _ in range(POINTS if branching else 0):
        # All branches are visited, and points where roots are not real are skipped.
        signs = [
            sign if symbol.is_nonnegative or symbol.is_nonpositive else rng.choice([-1, 1])
            for symbol, sign in zip(symbols, first, strict=True)
        ]
        found, real = _at(value, [sign * rng.randint(1, 30000) for sign in signs])
        if found and real:
            return True
    return False


def _at(value: Callable[..., list[Any]], numerators: list[int]) -> tuple[bool, bool]:
    """Return whether the first value is not 0, and whether all values are real.

    A nonzero value is the same with twice as many digits, however small it is; a rounding error is not.
    """
    try:
        values, precise = (_with(digits, value, numerators) for digits in (DIGITS, 2 * DIGITS))
    except ZeroDivisionError:
        return False, False
    rounding = abs(values[0] - precise[0])
    is_not_zero = precise[0] != 0 and rounding <= abs(precise[0]) * mpmath.mpf(10) ** (-DIGITS // 6)
    return bool(is_not_zero), all(mpmath.im(x) == 0 for x in values)


def _with(digits: int, value: Callable[..., list[Any]], numerators: list[int]) -> list[Any]:
    with mpmath.workdps(digits):
        return value(*(mpmath.mpf(numerator) / 10007 for numerator in numerators))


POINTS = 32
"""Number of further points at which an expression with several branches is tried."""

MORE_FUNCTIONS = {
    "Heaviside": lambda x, at_zero: mpmath.mpf(x > 0) if x else at_zero,
    "KroneckerDelta": lambda i, j: mpmath.mpf(i == j),
}
"""Functions that mpmath lacks."""


def _branches(expression: Expr) -> Iterator[Expr]:
    """Yield the expression on each side of its kinks, for every combination of signs of their arguments."""
    steps = expression.rewrite((sympy.Abs, sympy.sign, sympy.Max, sympy.Min), Heaviside)
    # An equation between different functions holds at points only, which are left out.
    steps = steps.xreplace(
        {
            gate: sympy.true if isinstance(gate, Ne) else sympy.false
            for gate in steps.atoms(Eq, Ne)
            if _value_is_not_zero(gate.lhs - gate.rhs)
        }
    )
    sides: dict[Expr, list[tuple[Basic, bool]]] = {}
    for gate in steps.atoms(Heaviside, Gt, Ge, Lt, Le):
        difference = gate.args[0] if isinstance(gate, Heaviside) else gate.gts - gate.lts
        primitive = sympy.expand(difference).primitive()[1]
        flipped = primitive.could_extract_minus_sign()
        sides.setdefault(-primitive if flipped else primitive, []).append((gate, flipped))
    if not 0 < len(sides) <= MOST_GATES:
        yield expression if sides else steps
        return
    for positive in product((True, False), repeat=len(sides)):
        truth = {
            gate: sympy.true if side != flipped else sympy.false
            for side, gates in zip(positive, sides.values(), strict=True)
            for gate, flipped in gates
        }
        yield steps.xreplace(
            {gate: Integer(bool(on)) if isinstance(gate, Heaviside) else on for gate, on in truth.items()}
        )


MOST_GATES = 6
"""Largest number of kinks for which all combinations of sides are tried."""


def is_zero_in_ring(expression: Expr) -> bool:
    """Return True if the expression is 0 as a polynomial in free indeterminates, which proves that it vanishes."""
    indeterminates = Indeterminates()
    polynomial = indeterminates.replace(expression)
    relations = indeterminates.relations
    symbols = polynomial.free_symbols.union(*(relation.base.free_symbols for relation in relations))
    if not symbols:
        return bool(polynomial == 0)
    ring = PolyRing(sorted(symbols, key=sympy.default_sort_key), QQ)
    element = ring.from_expr(polynomial)
    # The base of the last relation holds symbols of earlier relations only.
    for relation in reversed(relations):
        element = _reduced(element, ring(relation.symbol), relation.exponent, ring.from_expr(relation.base))
    return bool(element == 0)


def _reduced(element: PolyElement, symbol: PolyElement, exponent: int, base: PolyElement) -> PolyElement:
    """Reduce by symbol^exponent = base: powers of a root, or the denominator of a reciprocal."""
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


def abbreviated(expression: Expr) -> str:
    """Return the expression, or its beginning and its number of operations."""
    text = str(expression)
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} ... ({expression.count_ops()} operations in all)"
