"""The modified equation of weak order 3: a drift, and jumps at the times of a Poisson process.

The third cumulant of a training step is of an order in lr at which a diffusion has none (`cumulants`). Jumps of
the size of a step, one per time lr on average, have the right third cumulant by themselves. For theta' = theta + lr s_1
+ lr^2 s_2 + lr^3 s_3 + ... with b0 = E s_1, xi = s_1 - b0 and Sigma = Cov(s_1),

    dTheta = (b0 + lr b1 + lr^2 b2) dt + jumps of size lr (xi + lr xi_1) at rate 1/lr                                (1)
    b1   = E s_2 - 1/2 (D b0) b0                                                                                     (2)
    b2   = E s_3 - 1/6 (D^2 b0 [b0, b0] + (D b0)^2 b0) - 1/2 ((D b1) b0 + (D b0) b1) - 1/4 D^2 b0 : Sigma            (3)
    xi_1 = s_2 - E s_2 - 1/2 ((D xi) b0 + (D b0) xi)                                                                 (4)

The generator of (1) agrees with (1/lr) log P through lr^2, where P is the expectation after one step:

    (1/lr) log P = P_1 + lr (P_2 - 1/2 P_1^2) + lr^2 (P_3 - 1/2 (P_1 P_2 + P_2 P_1) + 1/3 P_1^3) + O(lr^3)           (5)

with P = 1 + lr P_1 + lr^2 P_2 + ... Both parts of a jump have mean zero, so no compensator is needed. For gradient
steps (s_2 = s_3 = 0) b2 = 1/3 (D b0)^2 b0 + 1/12 D^2 b0 [b0, b0] - 1/4 D^2 b0 : Sigma. The equation exists for every
law of the random variables. There is none of order 4 in general: see `cumulants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import factorial, prod

import sympy
from sympy import Expr, ImmutableMatrix, Matrix, Symbol
from torch import nn

from smesolve.entry_point import entry_point
from smesolve.symbolic.chaos_expansion import mean_of_product, step_covariance, step_moment
from smesolve.symbolic.explicit_iteration import Iteration, Monomials
from smesolve.symbolic.latex_code import jump_latex, shown
from smesolve.symbolic.real_calculus import derivative
from smesolve.symbolic.torch_code import jump_module
from smesolve.symbolic.verification import Generator, Verification, verify
from smesolve.validation import check_mapping, check_number, check_positive

__all__ = ["SymbolicJumpEquation", "derive_jump_equation"]

ORDER = 3


@dataclass(frozen=True)
class SymbolicJumpEquation:
    """Equation (1), which claims weak order 3. `modified_equation(iteration, order=3)` derives it.

    `dataclasses.replace` makes an equation with another drift or other jumps, of which `verify` finds the order.
    """

    iteration: Iteration
    drift_terms: tuple[ImmutableMatrix, ...]
    """b0, b1, b2, each (D, 1)."""
    jump_terms: tuple[ImmutableMatrix, ...]
    """xi, xi_1, each (D, 1), in the random symbols of the iteration, drawn anew at every jump."""

    order = ORDER

    @property
    def drift(self) -> ImmutableMatrix:
        """The drift b0 + lr b1 + lr^2 b2, (D, 1)."""
        return _power_series(self.iteration.small, self.drift_terms)

    @property
    def jump(self) -> ImmutableMatrix:
        """The size lr (xi + lr xi_1) of a jump, (D, 1), in the random symbols; jumps come at rate 1/lr."""
        return ImmutableMatrix(self.iteration.small * _power_series(self.iteration.small, self.jump_terms))

    @cached_property
    def covariance(self) -> ImmutableMatrix:
        """Sigma = Cov(s_1), (D, D): lr Sigma is the covariance of the jumps per unit time, to leading order."""
        return step_covariance(self.iteration)

    def verify(self) -> Verification:
        """Compare the one-step moments of iteration and equation: prove the weak order, or find a mismatch."""
        jumps = _jump_monomials(self.iteration, self.jump_terms)
        moments = [jump_moments(self.iteration, jumps, power) for power in range(ORDER + 1)]
        generator = Generator(self.iteration.state, self.drift_terms, moments)
        functions = [c for term in jumps for monomials in term for c in monomials.values()]
        return verify(self.iteration, ORDER, generator, [*functions, *(e for term in self.drift_terms for e in term)])

    def latex(self) -> str:
        """Return the equation, its drift and its jumps as one align environment (amsmath)."""
        return jump_latex(self.iteration, self.drift_terms, self.jump_terms)

    def _repr_latex_(self) -> str:
        return shown(self.latex())

    def python_module(self) -> str:
        """Return the source of a Python module with drift, jump and rate as a class, without this package."""
        return jump_module(self.iteration, self.drift, self.jump).source

    @entry_point
    def to_torch(self, values: Mapping[Symbol | str, float], lr: float) -> nn.Module:
        """Return the class of `python_module` with numbers for its constants: `rate`, `drift` and `jump`.

        It has no `f` and no `g`: torchsde integrates diffusions, and this equation is not a diffusion.

        Args:
            values: a number for every constant, by its symbol or its name.
            lr: value of the small parameter, whatever its name.
        """
        values, lr = check_mapping("values", values, check_number, least=0), check_positive("lr", lr)
        return jump_module(self.iteration, self.drift, self.jump).instance(values, lr)


def derive_jump_equation(iteration: Iteration) -> SymbolicJumpEquation:
    """Derive (1) by (2), (3) and (4)."""
    state = iteration.state
    size = range(len(state))
    s1, s2 = (_step_term(iteration, a) for a in range(2))
    b0, mean_2, mean_3 = (_mean_step(iteration, a) for a in range(ORDER))

    def along(field: Matrix, direction: Matrix) -> Matrix:
        """Return (D field) direction."""
        return Matrix([sum(derivative(entry, state[i]) * direction[i] for i in size) for entry in field])

    def second(field: Matrix, tensor: Matrix) -> Matrix:
        """Return D^2 field : tensor for a symmetric tensor (D, D)."""
        return Matrix(
            [
                sum(
                    derivative(derivative(entry, state[i]), state[j]) * tensor[i, j] * (1 if i == j else 2)
                    for i, j in combinations_with_replacement(size, 2)
                )
                for entry in field
            ]
        )

    acceleration = along(b0, b0)  # (D b0) b0
    b1 = mean_2 - acceleration / 2  # (2)
    b2 = (
        mean_3
        - (second(b0, b0 * b0.T) + along(b0, acceleration)) / 6
        - (along(b1, b0) + along(b0, b1)) / 2
        - second(b0, step_covariance(iteration)) / 4
    )  # (3)
    xi = s1 - b0
    xi_1 = s2 - mean_2 - (along(xi, b0) + along(b0, xi)) / 2  # (4)
    return SymbolicJumpEquation(
        iteration, tuple(map(ImmutableMatrix, (b0, b1, b2))), tuple(map(ImmutableMatrix, (xi, xi_1)))
    )


def jump_moments(iteration: Iteration, jumps: Sequence[Sequence[Monomials]], power: int) -> dict[tuple[int, ...], Expr]:
    """Return the coefficient of lr^power in the generator of the jumps, (1/lr) (E f(theta + lr J) - f(theta)).

    It is sum_d 1/d! sum E[J_e1,i1 ... J_ed,id] d^d f / d theta_i1 ... d theta_id over e1 + ... + ed = power + 1 - d.
    A sorted index i stands for all of its permutations, so that 1/d! becomes 1/prod n!, where n counts equal entries.
    """
    moments = {}
    for degree in range(1, power + 2):
        for index in combinations_with_replacement(range(len(iteration.state)), degree):
            chosen = (e for e in product(range(len(jumps)), repeat=degree) if sum(e) == power + 1 - degree)
            factors = ([jumps[e][i] for e, i in zip(each, index, strict=True)] for each in chosen)
            means = [mean_of_product(iteration.functions, each) for each in factors]
            if means:
                moments[index] = sympy.Add(*means) / prod(factorial(index.count(i)) for i in set(index))
    return {index: moment for index, moment in moments.items() if moment != 0}


def _jump_monomials(iteration: Iteration, terms: Sequence[ImmutableMatrix]) -> list[list[Monomials]]:
    """Return the entries of the jump terms as functions of the random variables."""
    return [
        [iteration.monomials(entry, iteration.functions, f"jump_terms[{e}]") for entry in term]
        for e, term in enumerate(terms)
    ]


def _step_term(iteration: Iteration, a: int) -> Matrix:
    """Return s_(a+1), (D, 1)."""
    return Matrix(iteration.step_terms[a]) if a < len(iteration.step_terms) else sympy.zeros(len(iteration.state), 1)


def _mean_step(iteration: Iteration, a: int) -> Matrix:
    """Return E s_(a+1), (D, 1)."""
    if a >= len(iteration.step_terms):
        return sympy.zeros(len(iteration.state), 1)
    return Matrix([step_moment(iteration, [(a, i)]) for i in range(len(iteration.state))])


def _power_series(small: Symbol, terms: Sequence[ImmutableMatrix]) -> ImmutableMatrix:
    """Return sum_a lr^a terms[a]."""
    return ImmutableMatrix(sum((small**a * term for a, term in enumerate(terms)), sympy.zeros(terms[0].rows, 1)))
