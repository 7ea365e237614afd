"""Expansion of a polynomial in independent masks.

With q_l the orthonormal polynomials of each mask (`mask_polynomials`), every polynomial in the masks is

    g(eta) = E g + sum_{l != 0} c_l prod_k q_{l_k}(zeta_k),

a finite sum of uncorrelated terms (Hoeffding 1948; Xiu & Karniadakis 2002). So Cov(g) = sum_l c_l c_l^T:
the coefficients are the columns of an exact diffusion factor, and no matrix root is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod

import sympy
from sympy import Expr, ImmutableMatrix, Integer

from smesolve.problem.masks import MaskLaw
from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.mask_polynomials import MaskPolynomials, mask_polynomials

__all__ = ["expand_in_masks", "gradient_covariance", "gradient_moment", "polynomials_of"]

Monomials = Mapping[tuple[int, ...], Expr]


def polynomials_of(laws: Sequence[MaskLaw], components: Sequence[Monomials]) -> list[MaskPolynomials]:
    """Each mask's orthonormal polynomials up to the degree in which the mask occurs."""
    return [
        mask_polynomials(law, max(exponents[k] for monomials in components for exponents in monomials))
        for k, law in enumerate(laws)
    ]


def expand_in_masks(laws: Sequence[MaskLaw], components: Sequence[Monomials]) -> dict[tuple[int, ...], list[Expr]]:
    """{degrees l of the masks: coefficients c_l, one a component}, for a vector of mask polynomials.

    c_l is taken on the ORTHONORMAL product: prod_k sqrt(h_{l_k}) times the coefficient on the monic one.

    Order: the mean (all degrees 0), then by the largest degree, by the number of masks, by which masks
    they are. For dropout on one layer that is the mean, m linear columns, the pairs k < r row by row, and
    then, for laws on more than two values, one column of degree 2 for each mask. Columns that are zero are
    left out, the mean never is.
    """
    polynomials = polynomials_of(laws, components)
    terms: dict[tuple[int, ...], list[dict[Expr, list[Expr]]]] = {(0,) * len(laws): [{} for _ in components]}
    for component, monomials in enumerate(components):
        for exponents, coefficient in monomials.items():
            for degrees, factor in _expanded_monomial(polynomials, exponents).items():
                column = terms.setdefault(degrees, [{} for _ in components])
                column[component].setdefault(factor, []).append(coefficient)
    columns = {}
    for degrees in sorted(terms, key=_order):
        # Root by root: sqrt(v) sqrt(v) is v, whereas sqrt(v^2) is |v|.
        norm = prod((sympy.sqrt(p.norms[j]) for p, j in zip(polynomials, degrees, strict=True)), start=Integer(1))
        column = [norm * _weighted_sum(entry) for entry in terms[degrees]]
        if any(column) or not any(degrees):
            columns[degrees] = column
    return columns


def _expanded_monomial(
    polynomials: Sequence[MaskPolynomials], exponents: tuple[int, ...]
) -> dict[tuple[int, ...], Expr]:
    terms: dict[tuple[int, ...], Expr] = {(): Integer(1)}
    for polynomial, power in zip(polynomials, exponents, strict=True):
        coefficients = [polynomial.coefficient(power, j) for j in range(len(polynomial.norms))]
        terms = {
            (*degrees, j): factor * c for degrees, factor in terms.items() for j, c in enumerate(coefficients) if c != 0
        }
    return terms


def _weighted_sum(summands: Mapping[Expr, Sequence[Expr]]) -> Expr:
    return sympy.Add(*(weight * sympy.Add(*values) for weight, values in summands.items()))


def _order(degrees: tuple[int, ...]) -> tuple:
    masks = tuple(k for k, degree in enumerate(degrees) if degree)
    return max(degrees, default=0), len(masks), masks, tuple(-degree for degree in degrees)


def gradient_moment(iteration: Iteration, index: Sequence[int]) -> Expr:
    """E[g_i1 g_i2 ... ] over the masks, exactly, from the moments E eta^j."""
    product: dict[tuple[int, ...], Expr] = {(0,) * len(iteration.masks): Integer(1)}
    for i in index:
        terms: dict[tuple[int, ...], list[Expr]] = {}
        for left, c in product.items():
            for right, d in iteration.mask_monomials[i].items():
                exponents = tuple(a + b for a, b in zip(left, right, strict=True))
                terms.setdefault(exponents, []).append(c * d)
        product = {exponents: sympy.Add(*summands) for exponents, summands in terms.items()}
    polynomials = polynomials_of(list(iteration.masks.values()), iteration.mask_monomials)
    return sympy.Add(*(c * _moment(polynomials, exponents) for exponents, c in product.items()))


def gradient_covariance(iteration: Iteration) -> ImmutableMatrix:
    """Cov(g_i, g_j) = sum_ab c_ia c_jb (E eta^(a+b) - E eta^a E eta^b), from moments alone.

    It does not use the expansion, so that it can be compared with the expansion's C C^T.
    """
    monomials = iteration.mask_monomials
    polynomials = polynomials_of(list(iteration.masks.values()), monomials)

    @cache
    def monomial_covariance(a: tuple[int, ...], b: tuple[int, ...]) -> Expr:
        both = tuple(x + y for x, y in zip(a, b, strict=True))
        return sympy.expand(_moment(polynomials, both) - _moment(polynomials, a) * _moment(polynomials, b))

    def covariance(i: int, j: int) -> Expr:
        i, j = min(i, j), max(i, j)
        terms: dict[Expr, list[Expr]] = {}
        for a, c in monomials[i].items():
            for b, d in monomials[j].items():
                terms.setdefault(monomial_covariance(a, b), []).append(c * d)
        return _weighted_sum(terms)

    size = len(iteration.parameters)
    return ImmutableMatrix(size, size, covariance)


def _moment(polynomials: Sequence[MaskPolynomials], exponents: tuple[int, ...]) -> Expr:
    return prod((p.moment(power) for p, power in zip(polynomials, exponents, strict=True)), start=Integer(1))
