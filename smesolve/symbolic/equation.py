"""The stochastic modified equation of an explicit iteration.

For theta' = theta + lr s_1(theta; X) + lr^2 s_2(theta; X) + ... with b0 = E s_1 and Sigma = Cov(s_1),

    order 1:  dTheta = b0 dt + sqrt(lr) C dW,                 C C^T = Sigma                                          (1)
    order 2:  dTheta = (b0 + lr b1) dt + sqrt(lr) C dW,       b1 = E s_2 - 1/2 (D b0) b0                             (2)

(Li, Tai & E, JMLR 2019, sec. 3; for dropout Zhang, Li, Luo & Xu, ICLR 2024, eq. 8, where s_1 = -grad R_S(theta; eta)
and s_2 = 0, hence b0 = -grad L_S and b1 = -1/4 grad |grad L_S|^2). lr is the small parameter of the iteration; for
momentum it is the square root of the learning rate. The columns of C are the coefficients of s_1 on the orthonormal
polynomials of the random variables (`chaos_expansion`), with the sign of the gradient -s_1: C C^T = Sigma exactly,
without a matrix root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import sympy
from sympy import ImmutableMatrix, Rational, Symbol
from torch import nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.symbolic.chaos_expansion import expand, step_covariance, step_moment
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.jump_equation import SymbolicJumpEquation, derive_jump_equation
from smesolve.symbolic.latex_code import equation_latex, shown
from smesolve.symbolic.real_calculus import derivative
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name
from smesolve.symbolic.torch_code import diffusion_module
from smesolve.symbolic.verification import Generator, Verification, diffusion_terms, verify
from smesolve.validation import check_instance, check_integer, check_list, check_mapping, check_number, check_positive

__all__ = ["SymbolicModifiedEquation", "modified_equation"]


@dataclass(frozen=True)
class SymbolicModifiedEquation:
    """The equation dTheta = sum_a lr^a drift_terms[a] dt + sqrt(lr) diffusion dW, which claims weak order `order`.

    `modified_equation` derives it. `dataclasses.replace` makes an equation with another drift or diffusion, of which
    `verify` finds the order.
    """

    iteration: Iteration
    order: int
    drift_terms: tuple[ImmutableMatrix, ...]
    """b0, b1, ... of (2), each (D, 1)."""
    diffusion: ImmutableMatrix
    """C (D, M), without the factor sqrt(lr)."""

    def __post_init__(self) -> None:
        check_instance("iteration", self.iteration, Iteration, "an Iteration, such as dropout(network, masks)")
        check_integer("order", self.order)
        terms = check_list("drift_terms", self.drift_terms, _checked_matrix)
        object.__setattr__(self, "drift_terms", tuple(map(ImmutableMatrix, terms)))
        object.__setattr__(self, "diffusion", ImmutableMatrix(_checked_matrix("diffusion", self.diffusion)))
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
        """The drift sum_a lr^a b_a, (D, 1)."""
        size = len(self.iteration.state)
        weighted = (self.iteration.small**a * term for a, term in enumerate(self.drift_terms))
        return ImmutableMatrix(sum(weighted, sympy.zeros(size, 1)))

    @cached_property
    def covariance(self) -> ImmutableMatrix:
        """Sigma = Cov(s_1), (D, D), from the moments of the random variables; C C^T of (1) must equal it."""
        return step_covariance(self.iteration)

    def verify(self) -> Verification:
        """Compare the one-step moments of iteration and SDE: prove the weak order, or find the first mismatch."""
        generator = Generator(self.iteration.state, self.drift_terms, diffusion_terms(self.diffusion))
        return verify(
            self.iteration, self.order, generator, [e for m in (*self.drift_terms, self.diffusion) for e in m]
        )

    def latex(self) -> str:
        """Return the equation, its drift and its diffusion columns as one align environment (amsmath)."""
        return equation_latex(self.iteration, self.drift_terms, self.diffusion)

    def _repr_latex_(self) -> str:
        return shown(self.latex())

    def python_module(self) -> str:
        """Return the source of a Python module with the SDE as a class, which does not import this package."""
        return diffusion_module(self.iteration, self.drift, self.diffusion).source

    @entry_point
    def to_torch(self, values: Mapping[Symbol | str, float], lr: float) -> nn.Module:
        """Return an SDE for `torchsde.sdeint`: the class of `python_module` with numbers for its constants.

        Args:
            values: a number for every constant, by its symbol or its name.
            lr: value of the small parameter, whatever its name.
        """
        values, lr = check_mapping("values", values, check_number, least=0), check_positive("lr", lr)
        return diffusion_module(self.iteration, self.drift, self.diffusion).instance(values, lr)


def _checked_matrix(name: str, value: Any) -> sympy.MatrixBase:
    return check_instance(name, value, sympy.MatrixBase, "a sympy matrix")


@overload
def modified_equation(iteration: Iteration, order: Literal[3]) -> SymbolicJumpEquation: ...
@overload
def modified_equation(iteration: Iteration, order: Literal[1, 2] = 2) -> SymbolicModifiedEquation: ...
@overload
def modified_equation(iteration: Iteration, order: int) -> SymbolicModifiedEquation | SymbolicJumpEquation: ...
@entry_point
def modified_equation(iteration: Iteration, order: int = 2) -> SymbolicModifiedEquation | SymbolicJumpEquation:
    """Derive the modified equation of weak order 1, 2 or 3.

    The equations of order 1 and 2 are diffusions. No diffusion has order 3, because the third cumulant of the noise
    enters the one-step moments: the equation of order 3 has jumps (`smesolve.symbolic.jump_equation`). From order 4 on,
    there is no equation in general (`fourth_cumulant`).

    The columns of the diffusion are in the order of `expand`; without noise there is one column of zeros. Where b0 has
    kinks or jumps, D b0 is its derivative away from them, and `verify` proves no order.
    """
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    remedy = "order 4 would take jumps with the fourth cumulant of the noise, which is negative in general"
    check_integer("order", order, 1, 3, remedy)
    if order == 3:
        return derive_jump_equation(iteration)
    mean, *columns = expand(iteration.functions, iteration.step_monomials[0]).values()
    b0 = sympy.Matrix(mean)
    drift_terms = [b0]
    if order == 2:
        second = sympy.zeros(len(mean), 1)
        if len(iteration.step_terms) > 1:
            second = sympy.Matrix([step_moment(iteration, [(1, i)]) for i in range(len(mean))])
        jacobian = sympy.Matrix([[derivative(entry, theta) for theta in iteration.state] for entry in b0])
        drift_terms.append(second - Rational(1, 2) * jacobian * b0)  # b1 of (2)
    return SymbolicModifiedEquation(
        iteration=iteration,
        order=order,
        drift_terms=tuple(drift_terms),
        diffusion=-sympy.Matrix(columns).T if columns else sympy.zeros(len(mean), 1),
    )
