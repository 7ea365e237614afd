"""Gradients that are affine in theta, as matrices, and the linear maps of their second moments.

With psi = (1, theta), the drift -grad L_S is B psi and column j of the noise factor is U_j psi; the first rows of B and
of U_j are zero, as psi_0 = 1 does not move. The second moments P = E psi psi^T obey

    iteration   P' = G P G^T + sum_j W_j P W_j^T,    G = I + lr B,    W_j = lr U_j                 (1)
    equation    dP/dt = A P + P A^T + lr sum_j V_j P V_j^T                                         (2)
    order 1     A = B,                      V_j = U_j                                              (3)
    order 2     A = B + lr (B_2 - B^2/2),   V_j = U_j                                              (4)
    quadratic   A = log(I + lr B)/lr,       V_j = S(lr H) U_j,    S(z)^2 = 2 log(1 - z)/(z (z - 2))    (5)

with the Hessian H of L_S, which is -B without its first row and column, and E F2 = B_2 psi, which is 0 for gradient
descent. For another step that is affine in theta, `Problem.mean_step` gives G and `Problem.step_noise` gives W_j.
Moments E psi^(x q) of degree q obey, with F^(i) the map F on factor i,

    diffusion   d/dt = sum_i A^(i) + lr sum_{i<j} sum_l V_l^(i) V_l^(j)                                    (6)
    jumps       d/dt = sum_i A^(i) + 1/lr (E (I + K)^(x q) - I)                                            (7)
    iteration   E (I + lr G)^(x q) in one step                                                             (8)

where psi jumps by K psi, and lr G psi is the change in a step, both for a random draw; the means are over all draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.linalg import logm
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.problem import Problem
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import WITH_JUMPS, Order

__all__ = ["MAX_DIM", "AffineGradient", "AffineStep", "affine_matrix", "start_moments"]

MAX_DIM = 24
"""Largest D: the linear maps of second moments have (D + 1)^4 entries."""

MOST_DRAWS = 4096
"""Largest number of draws that are enumerated."""

SMALL = 1e-8
"""|z| below which S(z) is 1 up to rounding."""


@dataclass(frozen=True)
class AffineStep:
    """One step of the iteration on psi = (1, theta), eq. (1)."""

    mean: np.ndarray
    """G (D + 1, D + 1)."""
    columns: np.ndarray
    """W_j up to a common factor (M, D + 1, D + 1)."""
    square: float
    """The square of that factor."""

    def moments(self, P: np.ndarray) -> np.ndarray:
        """Return P after the step."""
        noise = np.einsum("jab,bc,jdc->ad", self.columns, P, self.columns, optimize=True)
        return np.asarray(self.mean @ P @ self.mean.T + self.square * noise)

    def moment_map(self) -> np.ndarray:
        """Return the linear map of vec P in the step."""
        return np.asarray(np.kron(self.mean, self.mean) + self.square * sum(np.kron(W, W) for W in self.columns))


@dataclass(frozen=True)
class AffineGradient:
    """A problem whose gradient is affine in theta, as matrices on psi = (1, theta)."""

    drift: np.ndarray
    """B (D + 1, D + 1)."""
    columns: np.ndarray
    """U_j (M, D + 1, D + 1)."""
    problem: Problem
    """The problem of the gradient."""

    @classmethod
    def of(cls, problem: Problem) -> AffineGradient:
        """Return the matrices of a problem.

        Raises:
            SmesolveError: the gradient is not affine in theta, the problem is in float32, or D > 24.
        """
        if problem.dim > MAX_DIM:
            raise SmesolveError(f"problem must have D of at most {MAX_DIM} for exact moments, got D={problem.dim}.")
        if problem.dtype != torch.float64:
            raise SmesolveError(
                f"problem must be in torch.float64 for exact moments, got {problem.dtype}; make it of float64 data."
            )
        drift = affine_matrix(lambda theta: -problem.mean_gradient(theta), problem)
        return cls(drift, _columns(lambda theta: problem.noise_factor(theta).mT, problem), problem)

    def step(self, lr: float) -> AffineStep:
        """Return one step of the iteration."""
        problem, identity = self.problem, np.eye(len(self.drift))
        if problem.linear_step:
            return AffineStep(identity + lr * self.drift, self.columns, lr**2)
        normals = torch.eye(problem.noise_dim, dtype=problem.dtype, device=problem.device)
        change = affine_matrix(lambda theta: problem.mean_step(theta, lr) - theta, problem)
        columns = _columns(lambda theta: problem.step_noise(theta[..., None, :], normals, lr), problem)
        return AffineStep(identity + change, columns, 1.0)

    def generator(self, lr: float, order: Order, degree: int = 2) -> np.ndarray:
        """Return the linear map of the flat moments of a degree in the moment equation (6) or (7).

        Raises:
            SmesolveError: jumps with more than 4096 different draws, or an lr at which "quadratic" does not exist.
        """
        A, columns = self.drift, self.columns  # (3)
        if order == 2:
            A = self.drift - lr / 2 * self.drift @ self.drift  # (4)
            if not self.problem.linear_step:
                A = A + lr * affine_matrix(self.problem.mean_second_term, self.problem)
        elif order == "quadratic":
            A, columns = self._resummed(lr)
        elif order in WITH_JUMPS:
            return self._jump_generator(lr, order, degree)
        size = len(A)
        drift = sum(_on_factors({i: A}, degree, size) for i in range(degree))
        pairs = combinations(range(degree), 2)
        noise = sum(_on_factors({i: V, j: V}, degree, size) for i, j in pairs for V in columns)
        return np.asarray(drift + lr * noise)  # (6)

    def iteration_map(self, lr: float, degree: int) -> np.ndarray:
        """Return the linear map of the flat moments of a degree in one step of the iteration (8).

        Raises:
            SmesolveError: more than 4096 different draws.
        """
        steps, weights = self._of_all_draws(lambda theta, draw: self.problem.step(theta, draw, lr) - theta)
        return _mean_power(steps, weights, degree)

    def _jump_generator(self, lr: float, order: Order, degree: int) -> np.ndarray:
        equation = ModifiedEquation(self.problem, lr, order)
        dynamics = equation.jumps
        assert dynamics is not None
        jumps, weights = self._of_all_draws(lambda theta, draw: dynamics.jump(theta, draw)[0])
        size = len(self.drift)
        result = (_mean_power(jumps, weights, degree) - np.eye(size**degree)) / lr
        if order == 3:
            A = affine_matrix(lambda theta: equation.drift(0.0, theta), self.problem)
            result = result + sum(_on_factors({i: A}, degree, size) for i in range(degree))
        return np.asarray(result)  # (7)

    def _of_all_draws(self, function: Callable[[Tensor, Any], Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrices (K, D + 1, D + 1) of an affine function of theta for every draw, and probabilities."""
        if self.problem.draw_count > MOST_DRAWS:
            raise SmesolveError(
                f"problem must have at most {MOST_DRAWS} different draws for exact moments that no diffusion has, got "
                f"{self.problem.draw_count:g}; take fewer masks, or a law on finitely many values."
            )
        draws, weights = self.problem.all_draws()

        def together(theta: Tensor) -> Tensor:
            starts = theta[:, None].expand(-1, len(weights), -1)
            return torch.stack([function(start, draws) for start in starts])

        return _columns(together, self.problem), weights.cpu().numpy()

    def _resummed(self, lr: float) -> tuple[np.ndarray, np.ndarray]:
        """Return A and V_j of the equation that resums quadratic losses (5).

        Raises:
            SmesolveError: lr is not below 1/lambda_max(H), where log(I - lr H) ends.
        """
        values, vectors = np.linalg.eigh(-self.drift[1:, 1:])
        z = lr * values
        if z.max() >= 1:
            raise SmesolveError(
                f"lr={lr:g} is not below 1/lambda_max = {1 / values.max():.4g}, beyond which the equation 'quadratic' "
                "does not exist; take a smaller lr."
            )
        A = np.real(logm(np.eye(len(self.drift)) + lr * self.drift)) / lr
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.where(np.abs(z) < SMALL, 1.0, np.sqrt(2 * np.log1p(-z) / (z * (z - 2))))
        columns = self.columns.copy()
        columns[:, 1:] = vectors @ (root[:, None] * vectors.T) @ columns[:, 1:]
        return A, columns


def _columns(factor: Callable[[Tensor], Tensor], problem: Problem) -> np.ndarray:
    """Return the matrices (M, D + 1, D + 1) of the rows (M, D) that a factor has at theta (..., D)."""
    dim = problem.dim
    rows = affine_matrix(lambda theta: factor(theta).flatten(-2), problem)[1:].reshape(-1, dim, dim + 1)
    return np.concatenate([np.zeros((len(rows), 1, dim + 1)), rows], axis=1)


def _on_factors(maps: Mapping[int, np.ndarray], degree: int, size: int) -> np.ndarray:
    """Return the Kronecker product of maps on some factors and identities on the others."""
    return reduce(np.kron, (maps.get(factor, np.eye(size)) for factor in range(degree)))


def _mean_power(changes: np.ndarray, weights: np.ndarray, degree: int) -> np.ndarray:
    """Return sum_k w_k (I + K_k)^(x degree)."""
    identity = np.eye(changes.shape[-1])
    return np.asarray(sum(w * reduce(np.kron, [identity + K] * degree) for w, K in zip(weights, changes, strict=True)))


def start_moments(theta0: Tensor) -> np.ndarray:
    """Return psi psi^T (D + 1, D + 1) of the start (D,)."""
    psi = np.concatenate([[1.0], theta0.cpu().numpy()])
    return np.outer(psi, psi)


def affine_matrix(function: Callable[[Tensor], Tensor], problem: Problem) -> np.ndarray:
    """Return the matrix on psi = (1, theta) of an affine function of a problem's theta (..., D), its first row zero.

    Raises:
        SmesolveError: the function is not affine.
    """
    dim = problem.dim
    identity = torch.eye(dim, dtype=problem.dtype, device=problem.device)
    values = function(torch.cat([torch.zeros_like(identity[:1]), identity]))
    matrix = torch.cat([values[:1], values[1:] - values[:1]]).mT
    trial = torch.linspace(-1.3, 2.1, dim, dtype=problem.dtype, device=problem.device)
    predicted = matrix @ torch.cat([torch.ones_like(trial[:1]), trial])
    if not torch.allclose(function(trial[None])[0], predicted, rtol=1e-9, atol=1e-9):
        raise SmesolveError(
            "problem must have a gradient affine in theta for exact moments; use LinearNetwork, of which only the "
            "readout is trained."
        )
    return np.concatenate([np.zeros((1, dim + 1)), matrix.cpu().numpy()])
