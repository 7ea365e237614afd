"""Expressions as polynomials: every sub-expression that is not polynomial becomes an indeterminate.

Each of sigma(w x), sigma'(w x), tanh(w x), exp(a), ... is replaced by a symbol of its own. A root b^(1/q) and a
reciprocal 1/b are replaced as well, and the relation R^q = b or R^(-1) = b is kept. The result consists of sums,
products and powers of numbers and symbols, which the polynomial rings of sympy decide exactly and fast. The values of
an undefined function and its derivatives at different points are independent numbers (a smooth function may have any
jet at any finite set of points), so that nothing is lost for these.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sympy import Dummy, Expr, Rational, Symbol

__all__ = ["Indeterminates", "Relation"]


class Relation(NamedTuple):
    """symbol^exponent = base, with exponent q > 1 for a q-th root and -1 for a reciprocal."""

    symbol: Dummy
    exponent: int
    base: Expr


class Indeterminates:
    """A growing dictionary between non-polynomial sub-expressions and the symbols that stand for them.

    Args:
        variables: symbols that are kept. A sub-expression without any of them becomes one indeterminate, so that the
            result is a polynomial in the variables only and none of its coefficients is expanded. Default: all.
    """

    def __init__(self, variables: Collection[Symbol] | None = None) -> None:
        self._variables = None if variables is None else frozenset(variables)
        self._token_of: dict[Expr, Dummy] = {}
        self._relation_of: dict[tuple[Expr, int], Relation] = {}
        self._converted: dict[Expr, Expr] = {}

    def replace(self, expression: Expr) -> Expr:
        """Return the expression with symbols in place of sub-expressions that are not polynomial."""
        known = self._converted.get(expression)
        if known is None:
            known = self._converted[expression] = self._replace(expression)
        return known

    @property
    def relations(self) -> list[Relation]:
        """Relations of roots and reciprocals; the base of each holds symbols of earlier relations only."""
        return list(self._relation_of.values())

    @property
    def meaning(self) -> dict[Dummy, Expr]:
        """The sub-expression that each symbol stands for; substitution of these undoes `replace`."""
        meaning = {token: expression for expression, token in self._token_of.items()}
        for symbol, exponent, base in self.relations:
            meaning[symbol] = base.xreplace(meaning) ** Rational(1, exponent)
        return meaning

    def _replace(self, expression: Expr) -> Expr:
        if expression.is_Rational or expression.is_Symbol:
            return expression
        if self._variables is not None and self._variables.isdisjoint(expression.free_symbols):
            return self._token(expression)
        if expression.is_Add or expression.is_Mul:
            return expression.func(*map(self.replace, expression.args))
        if expression.is_Pow and isinstance(expression.exp, Rational):
            base = self.replace(expression.base)
            whole, rest = divmod(expression.exp.p, expression.exp.q)
            power = base**whole if whole >= 0 else self._related(base, -1) ** -whole
            return power * self._related(base, expression.exp.q) ** rest if rest else power
        return self._token(expression)

    def _token(self, expression: Expr) -> Dummy:
        return self._token_of.setdefault(expression, Dummy(f"t{len(self._token_of)}"))

    def _related(self, base: Expr, exponent: int) -> Dummy:
        relation = Relation(Dummy(f"r{len(self._relation_of)}"), exponent, base)
        return self._relation_of.setdefault((base, exponent), relation).symbol
