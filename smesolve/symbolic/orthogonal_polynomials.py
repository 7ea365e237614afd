"""Orthogonal polynomials of one random variable.

For X = E X + zeta, the Gram-Schmidt process on 1, zeta, zeta^2, ... with <f, g> = E f g gives monic polynomials

    q_k = zeta^k - sum_{j < k} <zeta^k, q_j>/h_j q_j,    h_k = E q_k^2 = <zeta^k, q_k>                               (1)

with q_0 = 1, q_1 = zeta, q_2 = zeta^2 - s zeta - v, h_1 = v, and h_2 = E zeta^4 - v^2 - s^2 v, the `chi_variance` of a
mask law. A law on K values has h_K = 0: then q_K = 0 almost surely, and this relation (for dropout zeta^2 = v + s zeta)
gives E zeta^(2K) and all higher moments. Polynomial chaos (Xiu & Karniadakis 2002, sec. 3) and the Hoeffding
decomposition (Hoeffding 1948; van der Vaart 1998, sec. 11.4) are built from these polynomials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import comb, prod
from typing import Any

import sympy
from sympy import Expr, Float, Integer, Rational

from smesolve.problem.masks import Law

__all__ = ["OrthogonalPolynomials", "exact", "orthogonal_polynomials", "tidy"]


@dataclass(frozen=True)
class OrthogonalPolynomials:
    """The orthogonal polynomials of one law that do not vanish, up to a degree."""

    law: Law
    polynomials: tuple[tuple[Expr, ...], ...]
    """Monic q_j as coefficients of 1, zeta, ..., zeta^j."""
    norms: tuple[Expr, ...]
    """h_j = E q_j^2, none of them zero."""
    relation: tuple[Expr, ...] | None
    """The monic polynomial of least degree that is 0 almost surely, or None where that degree is not reached."""
    _moments: dict[int, Expr]
    """E zeta^j by j, as far as they are known."""

    def central_moment(self, j: int) -> Expr:
        """Return E zeta^j, by the relation where there is one."""
        for k in range(len(self._moments), j + 1):
            if self.relation is None:
                self._moments[k] = _exact_moment(self.law, k)
            else:
                values = len(self.relation) - 1
                lower = (self._moments[k - values + i] for i in range(values))
                self._moments[k] = tidy(-sum(c * m for c, m in zip(self.relation, lower, strict=False)))
        return self._moments[j]

    def value(self, degree: int, point: Expr) -> Expr:
        """Return q_degree at X = point."""
        zeta = point - exact(self.law.mean)
        return tidy(sum(c * zeta**i for i, c in enumerate(self.polynomials[degree])))

    def mean_of_product(self, degrees: Sequence[int]) -> Expr:
        """Return E[q_i q_j ...] for the degrees i, j, ..."""
        factors = [self.polynomials[degree] for degree in degrees]
        terms = product(*(enumerate(q) for q in factors))
        return tidy(sum(prod(c for _, c in term) * self.central_moment(sum(i for i, _ in term)) for term in terms))

    def moment(self, power: int, degree: int = 0) -> Expr:
        """Return E[X^power q_degree], by the binomial theorem for X = E X + zeta."""
        mean = exact(self.law.mean)
        return tidy(
            sum(
                comb(power, i) * mean ** (power - i) * c * self.central_moment(i + j)
                for i in range(power + 1)
                for j, c in enumerate(self.polynomials[degree])
            )
        )


def orthogonal_polynomials(law: Law, degree: int) -> OrthogonalPolynomials:
    """Compute (1) from `law.central_moment`, up to `degree` or to the first polynomial of norm zero.

    Floats are read as decimals of 15 digits. For a law on finitely many values, the size of `law.support` is the degree
    at which the norm is zero, so that rounding in the moments, as of BernoulliMasks(0.8), cannot hide it. The expansion
    is then exact for a law on as many values whose first moments are those decimals.
    """
    values = None if law.support is None else len(law.support[0])
    moments: list[Expr] = []
    polynomials: list[tuple[Expr, ...]] = []
    norms: list[Expr] = []
    for k in range(degree + 1):
        while len(moments) < 2 * k:
            moments.append(_exact_moment(law, len(moments)))
        projections = [
            sum(c * moments[k + i] for i, c in enumerate(q)) / h for q, h in zip(polynomials, norms, strict=True)
        ]
        monic = [Integer(0)] * k + [Integer(1)]
        for projection, q in zip(projections, polynomials, strict=True):
            for i, c in enumerate(q):
                monic[i] -= projection * c
        polynomial = tuple(map(tidy, monic))  # q_k of (1)
        if k == values:
            return OrthogonalPolynomials(law, tuple(polynomials), tuple(norms), polynomial, dict(enumerate(moments)))
        while len(moments) < 2 * k + 1:
            moments.append(_exact_moment(law, len(moments)))
        norm = tidy(sum(c * moments[k + i] for i, c in enumerate(polynomial)))  # h_k of (1)
        if norm == 0:
            return OrthogonalPolynomials(law, tuple(polynomials), tuple(norms), polynomial, dict(enumerate(moments)))
        polynomials.append(polynomial)
        norms.append(norm)
    return OrthogonalPolynomials(law, tuple(polynomials), tuple(norms), None, dict(enumerate(moments)))


def exact(number: Any) -> Any:
    """Return a number, expression or matrix in which floats are read as decimals of 15 digits.

    A float that is nearest to a fraction with a denominator of at most 1000, such as 1/3, is read as that fraction;
    floats of higher precision keep their digits. sympy's own nsimplify(rational=True) would read 0.333333333333 as 1/3
    and 1.0000000000001 as 1.
    """
    expression = sympy.sympify(number)
    return expression.xreplace({entry: _fraction(entry) for entry in expression.atoms(Float)})


def _fraction(number: Float) -> Rational:
    if abs(number) < 10**15:
        simple = Fraction(float(number)).limit_denominator(1000)
        if float(simple) == number:
            return Rational(simple.numerator, simple.denominator)
    return Rational(str(number if number._prec > 53 else number.n(15)))


def tidy(expression: Expr) -> Expr:
    """Return the expression cancelled and expanded: one form for each rational function."""
    return sympy.expand(sympy.cancel(expression))


def _exact_moment(law: Law, j: int) -> Expr:
    # E zeta^0 = 1 and E zeta = 0 by definition, free of rounding.
    return Integer(1 - j) if j < 2 else tidy(exact(law.central_moment(j)))
