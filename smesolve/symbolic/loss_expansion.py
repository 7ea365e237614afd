"""Dropout on the last hidden layer at any width, for any loss that is a polynomial in the output.

With f(eta) = sum_r eta_r z_r + b, F = sum_r z_r + b, power sums P_c = sum_r z_r^c and the cumulants kappa_c of eta
(kappa_1 = 1), independence of the masks gives the mean loss of a sample and its derivatives in closed form:

    W_a = d^a/dF^a E loss(f(eta), y) = exp(sum_{c >= 2} kappa_c P_c/c! d^c/dF^c) loss^(a)(F, y).                     (1)

The gradient is the derivative of the random loss. So its expansion in orthonormal polynomials q_l of the masks is the
derivative of the expansion of the loss, which is one scalar, the noise potential

    Phi = sum_l sum_a W_{a_1 + ... + a_k} prod_j tau_{l_j, a_j} < xi_l, z^{a_1} (x) ... (x) z^{a_k} >                (2)
    T_l(s) = E[q_l(zeta) e^{s zeta}] / E e^{s zeta} / sqrt(h_l) = sum_{a >= l} tau_{l, a} s^a                        (3)

over degrees l = (l_1, ..., l_k) of distinct neurons, with independent standard normals xi in place of the orthonormal
products. Cotangents of the contributions follow by dW_a/dz_k = sum_{c >= 1} kappa_c W_{a+c} z_k^{c-1} / (c-1)!:

    mean   c_k = sum_{c >= 1} kappa_c W_c z_k^{c-1} / (c-1)!                                                         (4)
    noise  c_k = dPhi/dz_k.                                                                                          (5)

For squared error W_1 = e, W_2 = 1: the mean cotangent e + v z_k of Zhang, Li, Luo & Xu (ICLR 2024, sec. 4.1), and for
masks on two values the noise sqrt(v) [xi_k (e + s z_k) + sum_r xi_r z_r] + v sum_{r != k} Xi_kr z_r, an exact factor of
their covariance (sec. 5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, pairwise, product
from math import comb, factorial, prod
from typing import NamedTuple

import sympy
from sympy import Expr, Integer, Rational, Symbol

from smesolve.errors import SmesolveError, call_of_user
from smesolve.problem.masks import MaskLaw
from smesolve.symbolic.latex_code import align, shown
from smesolve.symbolic.orthogonal_polynomials import OrthogonalPolynomials, exact, orthogonal_polynomials, tidy
from smesolve.symbolic.symbol_roles import law_parameters
from smesolve.validation import check_callable, check_expression, check_instance

__all__ = ["LossExpansion", "Term"]

OUTPUT, TARGET = Symbol("F"), Symbol("y")


class Term(NamedTuple):
    """One term coefficient W_{sum powers} < xi_l, z^powers > of (2), summed over all tuples of distinct neurons."""

    degrees: tuple[int, ...]
    """The degrees l, in decreasing order."""
    powers: tuple[int, ...]
    """The powers a, sorted where degrees are equal; the coefficient counts their permutations."""
    coefficient: Expr


@dataclass(frozen=True)
class LossExpansion:
    """The expansion for one loss and one mask law.

    Args:
        loss: loss of an output and its target, a polynomial in the output; the loss of a sample is its sum over
            outputs.
        law: law of the masks.

    Raises:
        SmesolveError: if the loss is not a polynomial in the output.
    """

    loss: Callable[[Expr, Expr], Expr]
    law: MaskLaw

    def __post_init__(self) -> None:
        check_instance("law", self.law, MaskLaw, "a MaskLaw, such as BernoulliMasks(keep_prob)")
        value = call_of_user("loss", check_callable("loss", self.loss), OUTPUT, TARGET)
        expression = check_expression("the value of loss", value)
        unknown = sympy.sympify(expression).free_symbols - {OUTPUT, TARGET}
        if unknown or not sympy.sympify(expression).is_polynomial(OUTPUT) or self.degree < 1:
            raise SmesolveError(
                f"loss must be a polynomial of degree 1 or more in the output, got {expression} for output F and "
                "target y: take ModuleProblem for other losses."
            )
        taken = {OUTPUT.name, TARGET.name, *(P.name for P in self.power_sums.values())}
        for parameter in sorted(law_parameters(self.law), key=str):
            if parameter.name in taken:
                raise SmesolveError(
                    f"law is {self.law!r}, but {parameter} stands for the output, the target or a power sum here: take "
                    "a parameter of another name."
                )

    @cached_property
    def expression(self) -> Expr:
        """The loss as an expression in F and y, with floats read as decimals of 15 digits."""
        return exact(sympy.sympify(self.loss(OUTPUT, TARGET)))

    @cached_property
    def degree(self) -> int:
        """The degree d of the loss in the output."""
        return int(sympy.degree(self.expression, OUTPUT))

    @cached_property
    def power_sums(self) -> dict[int, Symbol]:
        """The symbols P_2, ..., P_d."""
        return {c: Symbol(f"P{c}") for c in range(2, self.degree + 1)}

    @cached_property
    def polynomials(self) -> OrthogonalPolynomials:
        """The polynomials q_l of the masks up to degree d."""
        return orthogonal_polynomials(self.law, self.degree)

    @cached_property
    def cumulants(self) -> list[Expr]:
        """The cumulants kappa_0 (unused), kappa_1 = 1, kappa_2, ..., kappa_d of eta."""
        moments = [self.polynomials.central_moment(j) for j in range(self.degree + 1)]
        kappa = [Integer(0)]
        for n in range(1, self.degree + 1):
            lower = sum(comb(n - 1, k - 1) * kappa[k] * moments[n - k] for k in range(1, n))
            kappa.append(tidy(moments[n] - lower))
        return [kappa[0], Integer(1), *kappa[2:]]

    @cached_property
    def averaged(self) -> list[Expr]:
        """W_0, ..., W_d of (1) in F, y and the power sums; W_d does not depend on F."""
        return [self._averaged(sympy.diff(self.expression, OUTPUT, a)) for a in range(self.degree + 1)]

    def _averaged(self, function: Expr) -> Expr:
        """Return exp(sum_c kappa_c P_c/c! d^c/dF^c) function of (1), by the series of exp(sum_c kappa_c P_c t^c/c!)."""
        series = [Integer(1)]
        for n in range(1, self.degree + 1):
            # n B_n = sum_c c x_c B_{n-c} for exp(sum_c x_c t^c) = sum_n B_n t^n
            parts = (
                c * self.cumulants[c] * P / factorial(c) * series[n - c] for c, P in self.power_sums.items() if c <= n
            )
            series.append(sympy.expand(sum(parts, Integer(0)) / n))
        return sympy.Add(*(B * sympy.diff(function, OUTPUT, n) for n, B in enumerate(series)))

    @cached_property
    def tau(self) -> dict[int, list[Expr]]:
        """{l: [tau_{l, 0}, ..., tau_{l, d}]} of (3) for every degree l >= 1 of the law."""
        d = self.degree
        moment = self.polynomials.central_moment
        rows = {}
        for degree in range(1, len(self.polynomials.norms)):
            quotient: list[Expr] = []
            for n in range(d + 1):
                shifted = sum(c * moment(i + n) for i, c in enumerate(self.polynomials.polynomials[degree]))
                known = sum(q * moment(n - a) / factorial(n - a) for a, q in enumerate(quotient))
                quotient.append(tidy(Rational(1, factorial(n)) * shifted - known))
            root = sympy.sqrt(self.polynomials.norms[degree])
            # (q / norm) root gives sqrt(v), whereas q / root would give v / sqrt(v).
            rows[degree] = [tidy(q / self.polynomials.norms[degree]) * root for q in quotient]
        return rows

    @cached_property
    def patterns(self) -> list[tuple[int, ...]]:
        """The tuples of degrees l, each decreasing and of sum at most d, sorted by largest degree and size."""
        found = [
            tuple(reversed(degrees))
            for size in range(1, self.degree + 1)
            for degrees in combinations_with_replacement(sorted(self.tau), size)
            if sum(degrees) <= self.degree
        ]
        return sorted(found, key=lambda degrees: (degrees[0], len(degrees), degrees))

    @cached_property
    def terms(self) -> list[Term]:
        """The terms of Phi in (2)."""
        terms = []
        for degrees in self.patterns:
            ranges = [range(degree, self.degree + 1) for degree in degrees]
            for powers in product(*ranges):
                pairs = list(zip(degrees, powers, strict=True))
                unsorted = any(left[0] == right[0] and left > right for left, right in pairwise(pairs))
                if unsorted or sum(powers) > self.degree:
                    continue
                repeats = prod(factorial(pairs.count(pair)) for pair in set(pairs))
                coefficient = prod((self.tau[degree][a] for degree, a in pairs), start=Rational(1, repeats))
                if coefficient != 0:
                    terms.append(Term(degrees, powers, coefficient))
        return terms

    def count(self, width: int) -> int:
        """Return M, the number of independent normals at a width: one for each set of neurons with their degrees."""
        return sum(self.tuples_count(degrees, width) for degrees in self.patterns)

    @staticmethod
    def tuples_count(degrees: tuple[int, ...], width: int) -> int:
        """Return the number of choices of distinct neurons for the degrees, equal degrees unordered."""
        ordered = prod(width - j for j in range(len(degrees)))
        return ordered // prod(factorial(degrees.count(degree)) for degree in set(degrees))

    @property
    def used_cumulants(self) -> list[tuple[int, Expr]]:
        """The pairs (c, kappa_c) of cumulants that do not vanish."""
        return [(c, kappa) for c, kappa in enumerate(self.cumulants) if kappa != 0]

    def __str__(self) -> str:
        cotangent = " + ".join(f"({kappa / factorial(c - 1)})*W_{c}*z_k**{c - 1}" for c, kappa in self.used_cumulants)
        lines = [*(f"W_{a} = {W}" for a, W in enumerate(self.averaged)), f"E c_k = {cotangent}"]
        for number, term in enumerate(self.terms):
            vectors = " (x) ".join(f"z^{a}" for a in term.powers)
            start = "    + " if number else "Phi = "
            lines.append(f"{start}({term.coefficient}) W_{sum(term.powers)} <xi_{term.degrees}, {vectors}>")
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        return shown(self.latex())

    def latex(self) -> str:
        """Return W_a, the mean cotangents (4) and the noise potential (2) as one align environment (amsmath)."""
        names = {P: Symbol(f"P_{c}") for c, P in self.power_sums.items()}
        lines = [f"W_{{{a}}} &= {sympy.latex(W.xreplace(names))}" for a, W in enumerate(self.averaged)]
        z = Symbol("z_k")
        mean = sympy.Add(
            *(kappa / factorial(c - 1) * Symbol(f"W_{c}") * z ** (c - 1) for c, kappa in self.used_cumulants)
        )
        lines.append(rf"\mathrm{{E}}\, c_k &= {sympy.latex(mean)}")
        for term in self.terms:
            tensor = rf"\xi^{{({','.join(map(str, term.degrees))})}}"
            vectors = r" \otimes ".join(f"z^{{{a}}}" for a in term.powers)
            weight = sympy.latex(term.coefficient * Symbol(f"W_{sum(term.powers)}"))
            start = r"\Phi &= " if term is self.terms[0] else r"&\quad + "
            lines.append(rf"{start}{weight} \left\langle {tensor}, {vectors} \right\rangle")
        return align(lines)
