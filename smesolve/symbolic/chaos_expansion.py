"""Expansion of a function of independent random variables in orthonormal polynomials.

With q_l the orthogonal polynomials of each variable (`orthogonal_polynomials`), every polynomial in the variables, and
every function of variables with finitely many values, is a finite sum of uncorrelated terms (Hoeffding 1948; Xiu &
Karniadakis 2002):

    g(X) = E g + sum_{l != 0} c_l prod_k q_{l_k}(X_k) / sqrt(h_{l_k})                                                (1)
    Cov(g) = sum_{l != 0} c_l c_l^T.                                                                                 (2)

The coefficients are the columns of an exact diffusion factor, so that no matrix root is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod

import sympy
from sympy import Expr, ImmutableMatrix, Integer

from smesolve.entry_point import entry_point
from smesolve.symbolic.explicit_iteration import FEWER, Iteration, Monomials
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name
from smesolve.symbolic.term_count import check_terms
from smesolve.symbolic.variable_functions import Powers, VariableFunctions
from smesolve.validation import check_expression, check_instance

__all__ = ["expand", "expectation", "mean_of_product", "step_covariance", "step_moment"]


def expand(
    functions: Sequence[VariableFunctions], components: Sequence[Monomials]
) -> dict[tuple[int, ...], list[Expr]]:
    """Return {degrees l of the variables: coefficients c_l, one per component} for a vector of functions.

    c_l is the coefficient of the ORTHONORMAL product: prod_k sqrt(h_{l_k}) times the coefficient of the monic one.

    The mean (all degrees 0) comes first; the others are sorted by their largest degree, the number of variables, and
    the positions of these. For dropout on one layer these are the mean, m linear columns, the pairs k < r row by row,
    and, for laws on more than two values, one column of degree 2 per mask. Columns of zeros other than the mean are
    left out.
    """
    widths = [[_width(f, key) for f, key in zip(functions, keys, strict=True)] for one in components for keys in one]
    check_terms("the expansion of the step", sum(map(prod, widths)), len(functions), FEWER)
    terms: dict[tuple[int, ...], list[dict[Expr, list[Expr]]]] = {(0,) * len(functions): [{} for _ in components]}

    @cache
    def projections(variable: int, key: int) -> list[tuple[int, Expr]]:
        """Return degrees and coefficients of a function in the orthogonal polynomials of its variable."""
        function = functions[variable]
        found = ((j, function.projection(key, j)) for j in range(len(function.norms)))
        return [(j, coefficient) for j, coefficient in found if coefficient != 0]

    for component, monomials in enumerate(components):
        for keys, coefficient in monomials.items():
            for degrees, factor in _expanded_monomial(projections, keys).items():
                column = terms.setdefault(degrees, [{} for _ in components])
                column[component].setdefault(factor, []).append(coefficient)
    columns = {}
    for degrees in sorted(terms, key=_order):
        # A product of roots: sqrt(v) sqrt(v) is v, whereas sqrt(v^2) is |v|.
        norm = prod((sympy.sqrt(f.norms[j]) for f, j in zip(functions, degrees, strict=True)), start=Integer(1))
        column = [norm * _weighted_sum(entry) for entry in terms[degrees]]
        if any(column) or not any(degrees):
            columns[degrees] = column
    return columns


def _width(function: VariableFunctions, key: int) -> float:
    """Return a bound on the number of orthogonal polynomials that a function of one variable takes."""
    if key == 0:
        return 1.0
    return float(min(key + 1, len(function.norms)) if isinstance(function, Powers) else len(function.norms))


def _expanded_monomial(
    projections: Callable[[int, int], list[tuple[int, Expr]]], keys: tuple[int, ...]
) -> dict[tuple[int, ...], Expr]:
    """Return {degrees: coefficient} of a product of functions, one for each variable."""
    terms: dict[tuple[int, ...], Expr] = {(): Integer(1)}
    for variable, key in enumerate(keys):
        terms = {(*degrees, j): factor * c for degrees, factor in terms.items() for j, c in projections(variable, key)}
    return terms


def _weighted_sum(summands: Mapping[Expr, Sequence[Expr]]) -> Expr:
    return sympy.Add(*(weight * sympy.Add(*values) for weight, values in summands.items()))


def _order(degrees: tuple[int, ...]) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    variables = tuple(k for k, degree in enumerate(degrees) if degree)
    return max(degrees, default=0), len(variables), variables, tuple(-degree for degree in degrees)


@entry_point
def expectation(iteration: Iteration, expression: Expr) -> Expr:
    """Return the expectation of an expression over the iteration's random variables, such as its loss.

    Raises:
        SmesolveError: if the expression is not a polynomial in a variable that takes infinitely many values.
    """
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    expression = exact(check_expression("expression", expression))
    check_one_symbol_per_name({**iteration.roles, "expression": expression.free_symbols})
    functions = iteration.functions_for([("expression", expression)])
    return _expectation(functions, iteration.monomials(expression, functions))


def step_moment(iteration: Iteration, factors: Sequence[tuple[int, int]]) -> Expr:
    """Return E[s_a1,i1 s_a2,i2 ...] for factors (a, i), exactly, from the moments of the random variables.

    a = 0 stands for s_1, the part of the step that is linear in the small parameter.
    """
    return mean_of_product(iteration.functions, [iteration.step_monomials[a][i] for a, i in factors])


def mean_of_product(functions: Sequence[VariableFunctions], factors: Sequence[Monomials]) -> Expr:
    """Return the expectation of a product of functions of the random variables, exactly, from their moments."""
    product: Monomials = {(0,) * len(functions): Integer(1)}
    for factor in factors:
        product = _product(functions, product, factor)
    return _expectation(functions, product)


def step_covariance(iteration: Iteration) -> ImmutableMatrix:
    """Return Cov(s_1i, s_1j) = sum_ab c_ia c_jb (E f_a f_b - E f_a E f_b).

    Only moments enter, not the expansion (1), so that the result can be compared with (2).
    """
    functions, monomials = iteration.functions, iteration.step_monomials[0]

    @cache
    def monomial_covariance(a: tuple[int, ...], b: tuple[int, ...]) -> Expr:
        both = _joint(functions, a, b)
        return sympy.expand((0 if both is None else _mean(functions, both)) - _mean(functions, a) * _mean(functions, b))

    def covariance(i: int, j: int) -> Expr:
        i, j = min(i, j), max(i, j)
        terms: dict[Expr, list[Expr]] = {}
        for a, c in monomials[i].items():
            for b, d in monomials[j].items():
                terms.setdefault(monomial_covariance(a, b), []).append(c * d)
        return _weighted_sum(terms)

    size = len(iteration.state)
    return ImmutableMatrix(size, size, covariance)


def _product(functions: Sequence[VariableFunctions], first: Monomials, second: Monomials) -> Monomials:
    """Return the product of two functions of the random variables."""
    terms: dict[tuple[int, ...], list[Expr]] = {}
    for left, c in first.items():
        for right, d in second.items():
            both = _joint(functions, left, right)
            if both is not None:
                terms.setdefault(both, []).append(c * d)
    return {keys: sympy.Add(*summands) for keys, summands in terms.items()}


def _joint(functions: Sequence[VariableFunctions], a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the keys of the product of two monomials; None where it is 0."""
    keys = []
    for f, x, y in zip(functions, a, b, strict=True):
        key = f.product(x, y)
        if key is None:
            return None
        keys.append(key)
    return tuple(keys)


def _expectation(functions: Sequence[VariableFunctions], monomials: Monomials) -> Expr:
    terms: dict[Expr, list[Expr]] = {}
    for keys, coefficient in monomials.items():
        terms.setdefault(_mean(functions, keys), []).append(coefficient)
    return _weighted_sum(terms)


def _mean(functions: Sequence[VariableFunctions], keys: tuple[int, ...]) -> Expr:
    return prod((f.projection(key, 0) for f, key in zip(functions, keys, strict=True)), start=Integer(1))
