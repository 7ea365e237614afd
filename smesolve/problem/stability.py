"""Learning rates above which the mean iteration, linearized at a point, is unstable.

A linear map u' = (I + N) u with N = O(lr) is stable if all its eigenvalues 1 + nu lie inside the unit circle. For
gradient descent N = -lr Hess L_S, and the condition on an eigenvalue lambda of the Hessian is

    |1 - lr lambda| < 1,      lr < 2 / lambda_max.                                                               (1)

Modes with Re nu > 0 grow under the flow dtheta/dt = b as well, at any learning rate (at saddle points, for gradient
descent), so they set no limit. For steps that are not linear in lr, or whose Jacobian is not symmetric, the condition
is

    |1 + nu(lr)| < 1 for every eigenvalue nu(lr) of N(lr) with Re nu < 0.                                        (2)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, eigsh
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["curvature_limit", "step_limit"]

DENSE_DIM = 256
"""Largest D for which all eigenvalues in (2) are computed."""

LEADING, SUBSPACE, RESTARTS = 4, 48, 8
"""For larger D, the number of eigenvalues of largest modulus that are computed, of vectors in Arnoldi's method, and of
its restarts. Eigenvalues that have not converged by then lie close together, and are smaller than those that have."""

HALVINGS = 60
"""Number of factors of two within which a limit is sought."""

TOLERANCE = 1e-3
"""Relative tolerance of a limit."""


def curvature_limit(product: Callable[[Tensor], Tensor], theta: Tensor) -> float:
    """Return 2 / lambda_max of a symmetric matrix, eq. (1), or infinity where lambda_max is not positive.

    The matrix is given as a map (D,) -> (D,), and theta (D,) has its size, dtype and device.

    Raises:
        SmesolveError: products are not finite.
        ArithmeticError: Lanczos' method does not converge.
    """
    operator, start = _operator(product, theta)
    first = operator.matvec(start)
    if not np.isfinite(first).all():
        raise SmesolveError(
            f"theta has a Hessian whose entries are not finite in {theta.dtype}; take smaller parameters, or scale the "
            "data."
        )
    if not first.any():
        return math.inf
    if theta.numel() == 1:
        largest = float(operator.matvec(np.ones(1))[0])
    else:
        try:
            largest = float(eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0])
        except ArpackNoConvergence as failure:
            raise ArithmeticError(f"the largest Hessian eigenvalue at theta did not converge: {failure}") from failure
    return 2 / largest if largest > 0 else math.inf


def step_limit(change: Callable[[Tensor, float], Tensor], theta: Tensor, largest_lr: float) -> float:
    """Return the smallest learning rate at which (2) fails, at most `largest_lr`, or infinity if there is none.

    `change` maps theta (..., D) and lr to the mean change of theta in a step. Cost: about six spectra, each of D
    derivatives of `change` for D <= 256, else of some hundred.

    Raises:
        SmesolveError: derivatives are not finite.
        ArithmeticError: Arnoldi's method does not converge.
    """

    @cache
    def excess(lr: float) -> float:
        """Return max |1 + nu| - 1 over the eigenvalues in (2), which is negative if (2) holds."""
        nu = _leading_eigenvalues(lambda at: change(at, lr), theta)
        return float(np.abs(1 + nu[nu.real < 0]).max(initial=0.0)) - 1 - 1e-9

    # At the largest learning rate itself a second moment may be 0, whose root has no derivative.
    high = largest_lr * (1 - TOLERANCE)
    if math.isinf(high):
        rate = np.abs(_leading_eigenvalues(lambda at: change(at, 1.0), theta)).max()
        if rate == 0:
            return math.inf
        high = 1 / rate
        while excess(high) < 0:
            high *= 2
            if high > 2**HALVINGS / rate:
                return math.inf
    elif excess(high) < 0:
        return largest_lr
    low, least = high / 2, high / 2**HALVINGS
    while excess(low) > 0:
        low, high = low / 2, low
        if low < least:
            return low
    return float(brentq(excess, low, high, xtol=TOLERANCE * low))


def _leading_eigenvalues(function: Callable[[Tensor], Tensor], theta: Tensor) -> np.ndarray:
    """Return all eigenvalues of the Jacobian of a function at theta, or for large D those of largest modulus."""
    dim = theta.numel()
    if dim <= DENSE_DIM:
        identity = torch.eye(dim, dtype=theta.dtype, device=theta.device)
        _, rows = forward_derivative(function, theta.expand(dim, -1), identity)
        matrix = rows.mT.double().cpu().numpy()
        if not np.isfinite(matrix).all():
            raise _not_finite(theta)
        return np.asarray(np.linalg.eigvals(matrix))
    operator, start = _operator(lambda vector: forward_derivative(function, theta, vector)[1], theta)
    first = operator.matvec(start)
    if not np.isfinite(first).all():
        raise _not_finite(theta)
    if not first.any():
        return np.zeros(1)
    try:
        found = eigs(
            operator,
            k=LEADING,
            which="LM",
            ncv=SUBSPACE,
            maxiter=RESTARTS,
            tol=TOLERANCE,
            v0=start,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as failure:  # those that did converge are the largest ones
        found = failure.eigenvalues
        if not len(found):
            raise ArithmeticError(f"the spectrum of the step at theta did not converge: {failure}") from failure
    except ArpackError as failure:
        raise ArithmeticError(f"the spectrum of the step at theta is not known: {failure}") from failure
    return np.asarray(found)


def _operator(product: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[LinearOperator, np.ndarray]:
    """Return a product as an operator, and a random starting vector, which lies in no invariant subspace."""

    def matvec(vector: np.ndarray) -> np.ndarray:
        direction = torch.as_tensor(vector.reshape(-1), dtype=theta.dtype, device=theta.device)
        return product(direction).cpu().numpy()

    dim = theta.numel()
    return LinearOperator((dim, dim), matvec=matvec, dtype=np.float64), np.random.default_rng(0).standard_normal(dim)


def _not_finite(theta: Tensor) -> SmesolveError:
    return SmesolveError(
        f"theta has a training step whose derivatives are not finite in {theta.dtype}; take another start, of an "
        "adaptive optimiser a warm one (Training.warm)."
    )
