"""The stochastic modified equation of an explicit iteration.

For theta' = theta + lr s_1(theta; X) + lr^2 s_2(theta; X) + ... with b0 = E s_1 and Sigma = Cov(s_1),

    order 1:  dTheta = b0 dt + sqrt(lr) C dW,
    order 2:  dTheta = (b0 + lr b1) dt + sqrt(lr) C dW,    b1 = E s_2 - 1/2 (D b0) b0,    C C^T = Sigma

(Li, Tai & E, JMLR 2019, sec. 3; for dropout Zhang, Li, Luo & Xu, ICLR 2024, eq. 8, where s_1 = -grad R_S(theta; eta),
s_2 = 0, so b0 = -grad L_S and b1 = -1/4 grad |grad L_S|^2). lr is the small parameter of the iteration, which for
momentum is the square root of the learning rate. C has as columns the coefficients of s_1 on the orthonormal
polynomials of the random variables (`chaos_expansion`), with the sign of -s_1, which is the gradient: C C^T = Sigma
exactly and without a matrix root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import ImmutableMatrix, Rational, Symbol
from torch import nn

from smesolve.arguments import Instance, checked
from smesolve.errors import SmesolveError
from smesolve.symbolic.chaos_expansion import expand, step_covariance, step_moment
from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.latex_code import equation_latex
from smesolve.symbolic.real_calculus import derivative
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name
from smesolve.symbolic.torch_code import python_module, torch_equation
from smesolve.symbolic.verification import Verification, verify

__all__ = ["SymbolicModifiedEquation", "modified_equation"]


MATRIX = Instance((sympy.MatrixBase,), "a sympy matrix")


@checked(drift_terms=MATRIX, diffusion=MATRIX)
@dataclass(frozen=True)
class SymbolicModifiedEquation:
    """dTheta = sum_a lr^a drift_terms[a] dt + sqrt(lr) diffusion dW, claimed to be of weak order `order`.

    `modified_equation` derives it. Any other drift or diffusion can be put in by `dataclasses.replace`, and
    `verify` says what its order is.
    """

    iteration: Iteration
    order: int
    drift_terms: tuple[ImmutableMatrix, ...]
    """b0, b1, ..., each (D, 1)."""
    diffusion: ImmutableMatrix
    """C (D, M), without the factor sqrt(lr)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "drift_terms", tuple(map(ImmutableMatrix, self.drift_terms)))
        object.__setattr__(self, "diffusion", ImmutableMatrix(self.diffusion))
        size = len(self.iteration.state)
        for name, matrix, shape in [
            *((f"drift_terms[{a}]", term, (size, 1)) for a, term in enumerate(self.drift_terms)),
            ("diffusion", self.diffusion, (size, self.diffusion.cols)),
        ]:
            if matrix.shape != shape:
                raise SmesolveError(
                    f"{name} has shape {matrix.shape}, expected {shape}: give one row for each state variable."
                )
            check_one_symbol_per_name({**self.iteration.roles, name: matrix.free_symbols})
            for symbol in sorted(
                matrix.free_symbols.intersection((*self.iteration.random, self.iteration.small)), key=str
            ):
                raise SmesolveError(
                    f"{name} contains {symbol}, which is random or the small parameter: average over what is random, "
                    "and give the coefficient of each power of the small parameter as an entry of drift_terms."
                )

    @property
    def drift(self) -> ImmutableMatrix:
        """sum_a lr^a b_a, (D, 1)."""
        size = len(self.iteration.state)
        weighted = (self.iteration.small**a * term for a, term in enumerate(self.drift_terms))
        return ImmutableMatrix(sum(weighted, sympy.zeros(size, 1)))

    @cached_property
    def covariance(self) -> ImmutableMatrix:
        """Cov(s_1), (D, D), from the moments of the random variables: what diffusion diffusion^T has to equal."""
        return step_covariance(self.iteration)

    def verify(self) -> Verification:
        """Compare the one-step moments of iteration and SDE: the weak order proven, the first mismatch."""
        return verify(self.iteration, self.order, self.drift_terms, self.diffusion)

    def latex(self) -> str:
        """The equation, its drift and its diffusion columns as one align environment (amsmath)."""
        return equation_latex(self.iteration, self.drift_terms, self.diffusion)

    def python_module(self) -> str:
        """A Python module, to be saved and imported without this package, with the SDE as a class."""
        return python_module(self.iteration, self.drift, self.diffusion)

    @checked
    def to_torch(self, values: Mapping[Symbol | str, float], lr: float) -> nn.Module:
        """The class of `python_module` with a number for every constant: an SDE for `torchsde.sdeint`.

        `lr` is the number of the small parameter, whatever its name.
        """
        return torch_equation(self.iteration, self.drift, self.diffusion, values, lr)


@checked
def modified_equation(iteration: Iteration, order: int = 2) -> SymbolicModifiedEquation:
    """Derive the modified equation of weak order 1 or 2.

    Columns of the diffusion: as `expand` orders them. Without noise it is one column of zeros. Where b0 has kinks or
    jumps, D b0 is its derivative away from them, and `verify` proves no order.
    """
    if order not in (1, 2):
        raise SmesolveError(
            f"order must be 1 or 2, got {order}: at order 3 the third cumulant of the noise enters the "
            "one-step moments, and no SDE driven by Brownian motion has one."
        )
    mean, *columns = expand(iteration.functions, iteration.step_monomials[0]).values()
    b0 = sympy.Matrix(mean)
    drift_terms = [b0]
    if order == 2:
        second = sympy.zeros(len(mean), 1)
        if len(iteration.step_terms) > 1:
            second = sympy.Matrix([step_moment(iteration, [(1, i)]) for i in range(len(mean))])
        jacobian = sympy.Matrix([[derivative(entry, theta) for theta in iteration.state] for entry in b0])
        drift_terms.append(second - Rational(1, 2) * jacobian * b0)
    return SymbolicModifiedEquation(
        iteration=iteration,
        order=order,
        drift_terms=tuple(drift_terms),
        diffusion=-sympy.Matrix(columns).T if columns else sympy.zeros(len(mean), 1),
    )
