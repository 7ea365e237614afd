"""Derivatives and smoothness of expressions in real variables.

A step is real, so a symbol without assumptions is taken as real: the derivative of Abs(a) is sign(a) for a real symbol
a, and has no meaning for a complex one. At kinks the convention is sympy's: |x|' = sign(x) with sign(0) = 0, and
max(0, x)' = Heaviside(x) with Heaviside(0) = 1/2. Where a function jumps, `derivative` returns the derivative on both
sides of the jump, and `smoothness` names the function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import sympy
from sympy import Derivative, DiracDelta, Expr, Integer, Pow, Subs, Symbol, floor
from sympy.core.function import Application, AppliedUndef
from sympy.logic.boolalg import Boolean

__all__ = ["KINKED", "Smoothness", "as_real", "derivative", "in_terms_of_floor", "smoothness"]

SMOOTH = (
    sympy.exp, sympy.sin, sympy.cos, sympy.sinh, sympy.cosh, sympy.tanh, sympy.sech,
    sympy.atan, sympy.asinh, sympy.erf, sympy.erfc, sympy.sinc,
)  # fmt: skip
"""Functions with derivatives of every order on the real line."""

SMOOTH_INSIDE = (
    sympy.log, sympy.tan, sympy.cot, sympy.sec, sympy.csc, sympy.coth, sympy.csch, sympy.asin, sympy.acos,
    sympy.acosh, sympy.atanh, sympy.erfinv, sympy.LambertW, sympy.gamma, sympy.loggamma, sympy.polygamma,
)  # fmt: skip
"""Functions with derivatives of every order inside their domain, which is not the whole real line."""

KINKED = (
    sympy.Abs, sympy.sign, sympy.Max, sympy.Min, sympy.Piecewise, sympy.Heaviside, floor, sympy.ceiling, sympy.frac,
    sympy.Mod, sympy.KroneckerDelta,
)  # fmt: skip
"""Functions whose value or derivative jumps."""

JUMPING = (sympy.sign, sympy.Heaviside, floor, sympy.ceiling, sympy.KroneckerDelta)
"""Functions that are constant between their jumps."""

OF_COMPLEX_NUMBERS = (sympy.re, sympy.im, sympy.conjugate, sympy.arg)


def as_real(expression: Expr) -> tuple[Expr, dict[Symbol, Symbol]]:
    """Return the expression in real symbols, and the symbols that these stand for."""
    meaning = {
        type(symbol)(symbol.name, real=True): symbol
        for symbol in sorted(expression.free_symbols, key=sympy.default_sort_key)
        if symbol.is_real is None
    }
    return expression.xreplace({symbol: real for real, symbol in meaning.items()}), meaning


def derivative(expression: Expr, symbol: Symbol) -> Expr:
    """Return the derivative with respect to a symbol; at a jump, the derivative on both sides of it."""
    if not expression.has(*KINKED, *OF_COMPLEX_NUMBERS):
        return sympy.diff(expression, symbol)
    real, meaning = as_real(expression)
    real = in_terms_of_floor(real)
    variable = next((new for new, old in meaning.items() if old == symbol), symbol)
    result = sympy.diff(real, variable)
    jumps = [part for part in result.atoms(DiracDelta, Derivative, Subs) if _is_of_a_jump(part)]
    return result.xreplace(dict.fromkeys(jumps, Integer(0))).xreplace(meaning)


def _is_of_a_jump(part: Expr) -> bool:
    """Return whether this is the derivative of a function that is constant between its jumps."""
    if isinstance(part, Subs):
        part = part.expr
    return isinstance(part, DiracDelta) or (isinstance(part, Derivative) and isinstance(part.expr, JUMPING))


def in_terms_of_floor(expression: Expr) -> Expr:
    """Return the expression with floor in place of frac and Mod, whose derivatives sympy does not know."""
    if not expression.has(sympy.frac, sympy.Mod):
        return expression
    expression = expression.replace(sympy.frac, lambda x: x - floor(x))
    return expression.replace(sympy.Mod, lambda x, y: x - y * floor(x / y))


class Smoothness(NamedTuple):
    """The parts of expressions that do not have derivatives of every order."""

    kinks: tuple[Expr, ...]
    """Parts whose value or some derivative jumps, or is not known to be continuous."""
    domain: tuple[Expr, ...]
    """Parts that are smooth only inside their domain, such as log(a) and 1/a."""


def smoothness(expressions: Iterable[Expr], state: Collection[Symbol]) -> Smoothness:
    """Find the parts that depend on the state and are not smooth everywhere; undefined functions count as smooth."""
    kinks: dict[Expr, None] = {}
    domain: dict[Expr, None] = {}
    for expression in expressions:
        real, meaning = as_real(expression)
        variables = {new for new, old in meaning.items() if old in state} | set(state)
        for part in sorted(real.atoms(Application, Pow, sympy.Integral, Derivative), key=sympy.default_sort_key):
            if isinstance(part, Boolean) or part.free_symbols.isdisjoint(variables):
                continue
            found = _trouble(part)
            if found is not None:
                (kinks if found == "kink" else domain)[part.xreplace(meaning)] = None
    return Smoothness(tuple(kinks), tuple(domain))


def _trouble(part: Expr) -> str | None:
    """Return "kink" or "domain" where this function or power, apart from its arguments, is not smooth."""
    if part.has(AppliedUndef) or isinstance(part, SMOOTH):
        return None
    if isinstance(part, Pow):
        base, exponent = part.args
        if exponent.is_Integer:
            return None if exponent > 0 or base.is_nonzero else "domain"
        if base.is_positive:
            return None
        # Even roots of squares, |x|^q, reach zero from inside their domain.
        return "kink" if base.is_nonnegative or not exponent.is_Rational else "domain"
    if isinstance(part, SMOOTH_INSIDE):
        inside = isinstance(part, sympy.log) and part.args[0].is_positive
        return None if inside else "domain"
    return "kink"
