"""Orthonormal polynomials of one mask.

For a mask eta = 1 + zeta, E zeta = 0, Gram-Schmidt on 1, zeta, zeta^2, ... under <f, g> = E f g gives
monic polynomials q_0 = 1, q_1 = zeta, q_2 = zeta^2 - s zeta - v, ... with norms h_j = E q_j^2; h_1 = v, and
h_2 = E zeta^4 - v^2 - s^2 v is the law's `chi_variance`. A law on K values has h_K = 0: then q_K = 0 almost
surely, and that one relation (for dropout zeta^2 = v + s zeta) fixes every moment from 2K - 1 on.
These are the building stones of polynomial chaos (Xiu & Karniadakis 2002, sec. 3) and of the Hoeffding
decomposition (Hoeffding 1948; van der Vaart 1998, sec. 11.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import sympy
from sympy import Expr, Integer

from smesolve.problem.masks import MaskLaw

__all__ = ["MaskPolynomials", "mask_polynomials"]


@dataclass(frozen=True)
class MaskPolynomials:
    """The orthogonal polynomials of one law that do not vanish, up to the degree asked for."""

    law: MaskLaw
    polynomials: tuple[tuple[Expr, ...], ...]
    """Monic q_j as coefficients of 1, zeta, ..., zeta^j."""
    norms: tuple[Expr, ...]
    """h_j = E q_j^2, none of them zero."""
    relation: tuple[Expr, ...] | None
    """The monic polynomial of least degree that is 0 almost surely, where one was met."""
    _moments: tuple[Expr, ...]

    def central_moment(self, j: int) -> Expr:
        """E zeta^j, through the relation where there is one."""
        if j < len(self._moments):
            return self._moments[j]
        if self.relation is None:
            return _exact_moment(self.law, j)
        values = len(self.relation) - 1
        return _tidy(-sum(c * self.central_moment(j - values + i) for i, c in enumerate(self.relation[:values])))

    def moment(self, j: int) -> Expr:
        """E eta^j = sum_i binom(j, i) E zeta^i."""
        return _tidy(sum(comb(j, i) * self.central_moment(i) for i in range(j + 1)))

    def coefficient(self, power: int, degree: int) -> Expr:
        """E[eta^power q_degree] / h_degree: the coefficient of q_degree in eta^power."""
        inner = sum(
            comb(power, i) * c * self.central_moment(i + j)
            for i in range(power + 1)
            for j, c in enumerate(self.polynomials[degree])
        )
        return _tidy(inner / self.norms[degree])


def mask_polynomials(law: MaskLaw, degree: int) -> MaskPolynomials:
    """Gram-Schmidt from `law.central_moment`, up to `degree` or to the first polynomial of norm zero.

    Floats are read as decimals of 15 digits, and `law.support`, where there is one, says at which
    degree the norm is zero, so that rounding in the moments of BernoulliMasks(0.8) cannot hide it: the
    expansion is then exact for a law on as many values whose first moments are those decimals.
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
        polynomial = tuple(map(_tidy, monic))
        if k == values:
            return MaskPolynomials(law, tuple(polynomials), tuple(norms), polynomial, tuple(moments))
        while len(moments) < 2 * k + 1:
            moments.append(_exact_moment(law, len(moments)))
        norm = _tidy(sum(c * moments[k + i] for i, c in enumerate(polynomial)))
        if norm == 0:
            return MaskPolynomials(law, tuple(polynomials), tuple(norms), polynomial, tuple(moments))
        polynomials.append(polynomial)
        norms.append(norm)
    return MaskPolynomials(law, tuple(polynomials), tuple(norms), None, tuple(moments))


def _exact_moment(law: MaskLaw, j: int) -> Expr:
    # E zeta^0 = 1 and E zeta = 0 hold by the definition of a mask law, whatever rounding makes of them.
    return Integer(1 - j) if j < 2 else _tidy(sympy.nsimplify(law.central_moment(j), rational=True))


def _tidy(expression: Expr) -> Expr:
    return sympy.expand(sympy.cancel(expression))
