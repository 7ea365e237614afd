"""The stochastic modified equation of an explicit iteration.

For theta' = theta - lr g(theta; eta) with b0 = -E g and Sigma = Cov(g),

    order 1:  dTheta = b0 dt + sqrt(lr) C dW,
    order 2:  dTheta = (b0 + lr b1) dt + sqrt(lr) C dW,    b1 = -1/2 (D b0) b0,    C C^T = Sigma

(Li, Tai & E, JMLR 2019, sec. 3; for dropout Zhang, Li, Luo & Xu, ICLR 2024, eq. 8, where b0 = -grad L_S and
b1 = -1/4 grad |grad L_S|^2). C has as columns the coefficients of g on the orthonormal polynomials of the
masks (`mask_expansion`), so that C C^T = Sigma exactly and without a matrix root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import ImmutableMatrix, Rational, Symbol

from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.latex_code import equation_latex
from smesolve.symbolic.mask_expansion import expand_in_masks, gradient_covariance
from smesolve.symbolic.torch_code import TorchModifiedEquation
from smesolve.symbolic.verification import Verification, verify

__all__ = ["SymbolicModifiedEquation", "modified_equation"]


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
        size = len(self.iteration.parameters)
        for name, matrix, shape in [
            *((f"drift_terms[{a}]", term, (size, 1)) for a, term in enumerate(self.drift_terms)),
            ("diffusion", self.diffusion, (size, self.diffusion.cols)),
        ]:
            if matrix.shape != shape:
                raise ValueError(f"{name} has shape {matrix.shape}, expected {shape}: give one row for each parameter.")

    @property
    def drift(self) -> ImmutableMatrix:
        """sum_a lr^a b_a, (D, 1)."""
        size = len(self.iteration.parameters)
        weighted = (self.iteration.lr**a * term for a, term in enumerate(self.drift_terms))
        return ImmutableMatrix(sum(weighted, sympy.zeros(size, 1)))

    @cached_property
    def covariance(self) -> ImmutableMatrix:
        """Cov(gradient), (D, D), from the masks' moments: what diffusion diffusion^T has to equal."""
        return gradient_covariance(self.iteration)

    def verify(self) -> Verification:
        """Compare the one-step moments of iteration and SDE: the weak order proven, the first mismatch."""
        return verify(self.iteration, self.order, self.drift_terms, self.diffusion)

    def latex(self) -> str:
        """The equation, its drift and its diffusion columns as one align environment (amsmath)."""
        return equation_latex(self.iteration, self.drift_terms, self.diffusion)

    def to_torch(self, values: Mapping[Symbol | str, float], lr: float) -> TorchModifiedEquation:
        """The equation as a float64 SDE for `torchsde.sdeint`; `values` gives every constant a number."""
        return TorchModifiedEquation(self.iteration, self.drift, self.diffusion, values, lr)


def modified_equation(iteration: Iteration, order: int = 2) -> SymbolicModifiedEquation:
    """Derive the modified equation of weak order 1 or 2.

    Columns of the diffusion: as `expand_in_masks` orders them. Without noise it is one column of zeros.
    """
    if order not in (1, 2):
        raise ValueError(
            f"order must be 1 or 2, got {order}: at order 3 the third cumulant of the mask noise enters the "
            "one-step moments, and no SDE driven by Brownian motion has one."
        )
    mean, *columns = expand_in_masks(list(iteration.masks.values()), iteration.mask_monomials).values()
    b0 = -sympy.Matrix(mean)
    return SymbolicModifiedEquation(
        iteration=iteration,
        order=order,
        drift_terms=(b0,) if order == 1 else (b0, -Rational(1, 2) * b0.jacobian(iteration.parameters) * b0),
        diffusion=sympy.Matrix(columns).T if columns else sympy.zeros(len(mean), 1),
    )
