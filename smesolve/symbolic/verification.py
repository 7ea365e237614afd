"""Proof of the weak order by one-step moments.

Let Delta be the increment of one step from theta. If for all multi-indices i_1 ... i_j, j = 1 .. order,

    E[Delta_i1 ... Delta_ij] of the iteration = that of the SDE at time lr + O(lr^(order+1))                         (1)

and E |Delta|^(order+1) = O(lr^(order+1)), then the weak error on a fixed horizon is O(lr^order) (Milstein 1986; Li, Tai
& E, JMLR 2019, sec. 3, under growth conditions, which algebra cannot decide).

lr is the small parameter of the iteration; for momentum it is the square root of the learning rate. Milstein requires
(1) for j up to 2 order + 1, because his Delta is O(sqrt(lr)). Here the noise is small and Delta = O(lr): in the
iteration every Delta carries one lr, and in the SDE each operator lr^(a+1) L_a below removes at most a + 1 factors of
Delta. So the coefficient of lr^q in a moment of degree j > q is zero on both sides, and degrees up to q suffice.

The theorem requires a step and an equation with continuous derivatives up to some order. Where they have kinks, the
moments are compared away from the kinks, and no order is proven. The state is assumed to stay inside the domain of
expressions such as log(a) and 1/a. All symbols are real.

    iteration:  E[Delta_i1 ... Delta_ij] with Delta = sum_a lr^a s_a, from the moments of the random variables       (2)
    SDE:        E f(Theta_lr) = exp(lr L) f,    L = sum_a lr^a L_a                                                   (3)
                L_a f = b_a . grad f  (+ 1/2 (C C^T) : Hess f for a = 1)                                             (4)
    jumps:      at rate 1/lr, of size lr J, J = sum_e lr^e J_e, in place of the diffusion:
                L_a f = b_a . grad f + sum_d 1/d! sum E[J_e1 ... J_ed] : D^d f,   e1 + ... + ed = a + 1 - d          (5)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from math import comb, factorial
from typing import NamedTuple

import sympy
from sympy import Expr, ImmutableMatrix, Integer, Rational, Symbol

from smesolve.sampling.progress import Progress
from smesolve.symbolic.chaos_expansion import step_moment
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.latex_code import align, shown, words
from smesolve.symbolic.real_calculus import Smoothness, derivative, smoothness
from smesolve.symbolic.term_count import check_products
from smesolve.symbolic.zero_test import abbreviated, vanishes

__all__ = ["Generator", "MomentCheck", "Verification", "check_proof", "diffusion_terms", "verify"]

DeltaPolynomial = dict[tuple[int, ...], Expr]
"""{sorted indices m: c_m(theta)} of sum_m c_m Delta_m, a function of theta near theta_0 = theta - Delta."""


class MomentCheck(NamedTuple):
    """The coefficient of lr^power in E[Delta_i1 ... Delta_ij], iteration minus SDE."""

    indices: tuple[int, ...]
    """i_1 <= ... <= i_j."""
    power: int
    difference: Expr


@dataclass(frozen=True)
class Verification:
    """The result of a comparison of one-step moments."""

    claimed: int
    """The weak order that the equation claims."""
    agreement: int
    """All coefficients up to lr^agreement agree, away from kinks. The largest value that is tried is claimed + 1."""
    checked: tuple[MomentCheck, ...]
    """Every comparison, in order; a proven one has difference 0."""
    first_mismatch: MomentCheck | None
    """The first coefficient that differs; None where none does up to lr^(claimed+1)."""
    state: tuple[Symbol, ...]
    small: Symbol
    smoothness: Smoothness
    """Smoothness of the step, the drift and the diffusion as functions of the state."""

    @property
    def order(self) -> int:
        """The proven weak order; 0 where there are kinks, which the theorem excludes."""
        return 0 if self.smoothness.kinks else self.agreement

    @property
    def holds(self) -> bool:
        """Whether the claimed order is proven."""
        return self.order >= self.claimed

    @property
    def assumption(self) -> str:
        """Assumptions about the state, or the reason why there is no proof; empty where there is neither."""
        if self.smoothness.kinks:
            return (
                f"Not smooth, or not known to be: {_listed(self.smoothness.kinks)}. The moments are compared away from "
                "kinks; the theorem requires functions with continuous derivatives, so that no order is proven."
            )
        if self.smoothness.domain:
            return f"The state is assumed to stay where {_listed(self.smoothness.domain)} can be differentiated."
        return ""

    def __str__(self) -> str:
        agreeing = sum(check.difference == 0 for check in self.checked)
        verdict = "holds" if self.holds else "is NOT PROVEN" if self.agreement >= self.claimed else "FAILS"
        lines = [
            f"weak order {self.claimed} {verdict}: one-step moments agree up to {self.small}^{self.agreement} "
            f"({agreeing} coefficients proven equal)"
        ]
        if self.assumption:
            lines.append(self.assumption)
        if self.first_mismatch is None:
            lines.append(f"no mismatch up to {self.small}^{self.claimed + 1}")
        else:
            indices, power, difference = self.first_mismatch
            moment = " ".join(f"Delta[{self.state[i]}]" for i in indices)
            lines.append(
                f"first mismatch at {self.small}^{power} in E[{moment}], iteration minus SDE: {abbreviated(difference)}"
            )
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        verdict = "holds" if self.holds else "is not proven" if self.agreement >= self.claimed else "fails"
        small = sympy.latex(self.small)
        agree = words(f"weak order {self.claimed} {verdict}: one-step moments agree up to ")
        lines = [rf"& {agree} {small}^{{{self.agreement}}}"]
        if self.assumption:
            lines.append(f"& {words(self.assumption)}")
        if self.first_mismatch is not None:
            indices, power, difference = self.first_mismatch
            moment = r" \, ".join(rf"\Delta_{{{sympy.latex(self.state[i])}}}" for i in indices)
            first = words("first mismatch, iteration minus SDE: ")
            lines.append(rf"& {first} {small}^{{{power}}} \text{{ in }} \mathrm{{E}}[{moment}]:")
            lines.append(rf"& \quad {sympy.latex(difference)}")
        return shown(align(lines))


def check_proof(iteration: Iteration, order: int) -> None:
    """Refuse a comparison of one-step moments with too many products of terms before it begins."""
    size, terms = len(iteration.state), _most_terms(iteration)
    products = sum(comb(size + j - 1, j) * float(terms) ** j for j in range(1, order + 2))
    check_products(f"the proof of order {order}", products, terms, size)


def _most_terms(iteration: Iteration) -> int:
    """Return the number of terms of the longest entry of the step: a moment of degree j takes up to its j-th power."""
    return max(len(m) for term in iteration.step_monomials for m in term)


def verify(iteration: Iteration, order: int, generator: Generator, equation: Sequence[Expr]) -> Verification:
    """Compare both sides of (1) for lr^1, lr^2, ..., until a coefficient differs or lr^(order+1) is reached.

    `order` is the claimed weak order, and `equation` holds the entries of drift and noise, whose smoothness the theorem
    requires.

    Raises:
        SmesolveError: if the comparison takes too many products, or a difference cannot be decided (`vanishes`).
    """
    check_proof(iteration, order)
    checked: list[MomentCheck] = []

    def shown_by(agreement: int, mismatch: MomentCheck | None) -> Verification:
        steps = (c for term in iteration.step_monomials for monomials in term for c in monomials.values())
        smooth = smoothness([*steps, *equation], iteration.state)
        return Verification(order, agreement, tuple(checked), mismatch, tuple(iteration.state), iteration.small, smooth)

    size, terms = len(iteration.state), float(max(1, _most_terms(iteration)))
    expected = [(power, degree) for power in range(1, order + 1) for degree in range(1, power + 1)]
    # Of the next power a moment of low degree differs as a rule, which ends the comparison.
    total = sum(comb(size + degree - 1, degree) * terms**degree for _, degree in [*expected, (order + 1, 1)])
    with Progress(False, 1.0) as bar:
        for power in range(1, order + 2):
            for degree in range(1, power + 1):
                for index in combinations_with_replacement(range(size), degree):
                    discrete = _moment_coefficient(iteration, index, power)
                    difference = discrete - generator.taylor_coefficient({index: Integer(1)}, power)
                    proven = vanishes(difference)
                    checked.append(MomentCheck(index, power, Integer(0) if proven else difference))
                    bar.done(terms**degree / total)
                    if not proven:
                        return shown_by(power - 1, checked[-1])
    return shown_by(order + 1, None)


def _listed(parts: Sequence[Expr]) -> str:
    """Return the first parts, and the number of the others."""
    first = ", ".join(abbreviated(part) for part in parts[:3])
    return first if len(parts) <= 3 else f"{first} and {len(parts) - 3} more"


def _moment_coefficient(iteration: Iteration, index: Sequence[int], power: int) -> Expr:
    """Return the coefficient of lr^power in (2): E[s_a1,i1 ... s_aj,ij] with a1 + ... + aj = power."""
    terms = range(len(iteration.step_terms))
    return sympy.Add(
        *(
            step_moment(iteration, tuple(zip(chosen, index, strict=True)))
            for chosen in product(terms, repeat=len(index))
            if sum(a + 1 for a in chosen) == power
        )
    )


def diffusion_terms(diffusion: ImmutableMatrix) -> list[dict[tuple[int, ...], Expr]]:
    """Return the `noise_terms` of a diffusion by (4): none for a = 0, and 1/2 C C^T for a = 1."""
    covariance = diffusion * diffusion.T
    pairs = combinations_with_replacement(range(covariance.rows), 2)
    return [{}, {(i, j): covariance[i, j] * (Rational(1, 2) if i == j else 1) for i, j in pairs}]


@dataclass(frozen=True)
class Generator:
    """The generator L of (3) with drift terms b_a (D, 1), acting on functions that are polynomials in Delta.

    The noise terms hold for each a the coefficient of each derivative of f in L_a beyond the drift, by the sorted
    indices of the derivative: 1/2 C C^T of (4), as `diffusion_terms` writes it, or the moments of (5).
    """

    state: Sequence[Symbol]
    drift_terms: Sequence[ImmutableMatrix]
    noise_terms: Sequence[Mapping[tuple[int, ...], Expr]]

    def taylor_coefficient(self, f: DeltaPolynomial, power: int, applied: int = 0) -> Expr:
        """Return the coefficient of lr^power in exp(lr L) f at Delta = 0: all words L_a1 ... L_an / n!."""
        within_reach = {index: c for index, c in f.items() if len(index) <= power}
        if power == 0:
            return within_reach.get((), Integer(0)) / factorial(applied)
        if not within_reach:
            return Integer(0)
        operators = range(min(max(len(self.drift_terms), len(self.noise_terms)), power))
        return sympy.Add(
            *(self.taylor_coefficient(self.apply(a, within_reach), power - a - 1, applied + 1) for a in operators)
        )

    def apply(self, a: int, f: DeltaPolynomial) -> DeltaPolynomial:
        """Return L_a f by (4) or (5)."""
        summands: dict[tuple[int, ...], list[Expr]] = {}

        def add(weight: Expr, g: DeltaPolynomial) -> None:
            for index, c in g.items():
                summands.setdefault(index, []).append(weight * c)

        derivatives: dict[tuple[int, ...], DeltaPolynomial] = {(): f}

        def derivative_of_f(index: tuple[int, ...]) -> DeltaPolynomial:
            if index not in derivatives:
                derivatives[index] = self.derivative(derivative_of_f(index[:-1]), index[-1])
            return derivatives[index]

        if a < len(self.drift_terms):
            for i in range(len(self.state)):
                add(self.drift_terms[a][i], derivative_of_f((i,)))
        if a < len(self.noise_terms):
            for index, weight in self.noise_terms[a].items():
                add(weight, derivative_of_f(index))
        return {index: sympy.Add(*terms) for index, terms in summands.items()}

    def derivative(self, f: DeltaPolynomial, i: int) -> DeltaPolynomial:
        """Return df/dtheta_i by the product rule for the coefficients and the factors Delta_i."""
        summands: dict[tuple[int, ...], list[Expr]] = {}
        for index, c in f.items():
            summands.setdefault(index, []).append(derivative(c, self.state[i]))
            if i in index:
                position = index.index(i)
                lowered = index[:position] + index[position + 1 :]
                summands.setdefault(lowered, []).append(index.count(i) * c)
        total = {index: sympy.Add(*terms) for index, terms in summands.items()}
        return {index: c for index, c in total.items() if c != 0}
