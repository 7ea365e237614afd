"""Functions of one random variable in a form that can be multiplied, averaged and expanded.

A step is a sum of products of functions of its random variables. For each variable these are either its powers
(`Powers`, for any law with moments) or, where the step is not a polynomial in it, the indicators of its values
(`Atoms`, for laws on finitely many values: then every function is a sum of indicators). Integer keys stand for the
functions; key 0 is the constant 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import sympy
from sympy import Expr, Integer

from smesolve.problem.masks import Law
from smesolve.symbolic.orthogonal_polynomials import OrthogonalPolynomials, exact, orthogonal_polynomials, tidy

__all__ = ["Atoms", "Powers", "VariableFunctions"]


class VariableFunctions(Protocol):
    """Functions f_0 = 1, f_1, f_2, ... of one variable, closed under products."""

    @property
    def polynomials(self) -> OrthogonalPolynomials:
        """The polynomials q_j in which functions are expanded."""

    @property
    def norms(self) -> tuple[Expr, ...]:
        """h_j = E q_j^2."""

    def product(self, a: int, b: int) -> int | None:
        """Return the key of f_a f_b; None where the product is 0."""

    def projection(self, key: int, degree: int) -> Expr:
        """Return E[f_key q_degree] / h_degree; for degree 0 this is the mean E f_key."""


@dataclass(frozen=True)
class Powers:
    """The powers f_j = X^j up to `degree`."""

    law: Law
    degree: int

    @cached_property
    def polynomials(self) -> OrthogonalPolynomials:
        """The law's orthogonal polynomials."""
        return orthogonal_polynomials(self.law, self.degree)

    @property
    def norms(self) -> tuple[Expr, ...]:
        """h_j = E q_j^2."""
        return self.polynomials.norms

    def product(self, a: int, b: int) -> int:
        """Return a + b."""
        return a + b

    def projection(self, key: int, degree: int) -> Expr:
        """Return E[X^key q_degree] / h_degree."""
        return tidy(self.polynomials.moment(key, degree) / self.norms[degree])


@dataclass(frozen=True)
class Atoms:
    """The indicators f_i = 1 where X is its i-th value (i = 1, ..., K), else 0."""

    support: tuple[list[Any], list[Any]]
    """Values and probabilities of the law."""

    @cached_property
    def values(self) -> list[Expr]:
        """The values of X, exactly."""
        return [exact(value) for value in self.support[0]]

    @cached_property
    def weights(self) -> list[Expr]:
        """The probabilities, exactly; the last one is 1 minus the others."""
        weights = [exact(weight) for weight in self.support[1][:-1]]
        return [*weights, sympy.expand(1 - sum(weights))]

    @cached_property
    def polynomials(self) -> OrthogonalPolynomials:
        """The orthogonal polynomials of all degrees below K."""
        return orthogonal_polynomials(_OnAtoms(self.values, self.weights), len(self.values) - 1)

    @property
    def norms(self) -> tuple[Expr, ...]:
        """h_j = E q_j^2."""
        return self.polynomials.norms

    def product(self, a: int, b: int) -> int | None:
        """Return the key of the product: indicators of different values have product 0."""
        if 0 in (a, b):
            return a + b
        return a if a == b else None

    def projection(self, key: int, degree: int) -> Expr:
        """Return P(X = x_key) q_degree(x_key) / h_degree."""
        if key == 0:
            return Integer(degree == 0)
        weight, value = self.weights[key - 1], self.values[key - 1]
        return tidy(weight * self.polynomials.value(degree, value) / self.norms[degree])


@dataclass(frozen=True)
class _OnAtoms(Law):
    """A law given by exact values and weights."""

    values: list[Expr]
    weights: list[Expr]

    @property
    def mean(self) -> Expr:
        return tidy(sum(w * x for x, w in zip(self.values, self.weights, strict=True)))

    def central_moment(self, j: int) -> Expr:
        return sum(w * (x - self.mean) ** j for x, w in zip(self.values, self.weights, strict=True))

    @property
    def support(self) -> tuple[list[Any], list[Any]]:
        return self.values, self.weights
