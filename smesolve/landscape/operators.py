"""Curvature and noise at a point theta as scipy linear operators: products only, no D x D array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.problem.dropout import DropoutProblem

__all__ = ["covariance_operator", "hessian_operator"]


def hessian_operator(problem: DropoutProblem, theta: Tensor) -> LinearOperator:
    """Hess L_S(theta), theta (D,), as a symmetric D x D operator. Cost of a product: about two gradients."""
    return _symmetric(problem, lambda vector: problem.hessian_product(theta, vector))


def covariance_operator(problem: DropoutProblem, theta: Tensor) -> LinearOperator:
    """Sigma(theta) = Cov(grad R_S(theta; eta)), theta (D,), as a symmetric D x D operator.

    Sigma v = C (C^T v): the transposed product is one pullback through `noise_product`, which is linear in its
    normals. Cost of a product: about three gradients; memory M numbers.
    """
    origin = torch.zeros(problem.noise_dim, dtype=problem.dtype, device=problem.device)
    _, transposed = torch.func.vjp(lambda normals: problem.noise_product(theta, normals), origin)
    return _symmetric(problem, lambda vector: problem.noise_product(theta, transposed(vector)[0]))


def _symmetric(problem: DropoutProblem, product: Callable[[Tensor], Tensor]) -> LinearOperator:
    def on_arrays(vector: np.ndarray) -> np.ndarray:
        given = torch.as_tensor(vector.reshape(-1), dtype=problem.dtype, device=problem.device)
        return product(given).detach().cpu().numpy()

    return LinearOperator((problem.dim, problem.dim), matvec=on_arrays, rmatvec=on_arrays, dtype=np.float64)
