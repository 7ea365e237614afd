"""Leading eigenpairs by Lanczos, and angles between the subspaces they span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, subspace_angles
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from smesolve.arguments import checked
from smesolve.errors import SmesolveError

__all__ = ["Eigenpairs", "leading_eigenpairs", "principal_angles"]


@dataclass(frozen=True)
class Eigenpairs:
    """The algebraically largest eigenvalues of a symmetric operator, in decreasing order."""

    values: np.ndarray
    """(k,)."""
    vectors: np.ndarray
    """(D, k), orthonormal columns."""
    residuals: np.ndarray
    """(k,), |A u - lambda u|: within this distance of each value there is an eigenvalue (Weinstein)."""


@checked
def leading_eigenpairs(operator: LinearOperator, count: int, tol: float = 1e-6) -> Eigenpairs:
    """The `count` largest eigenvalues and their vectors. Cost: tens of products an eigenpair; memory 2 count D.

    Args:
        operator: symmetric, D x D.
        count: k, less than D.
        tol: relative accuracy of the eigenvalues.

    Raises:
        SmesolveError: count is not from 1 to D - 1.
        ArithmeticError: Lanczos did not converge.
    """
    dim = operator.shape[0]
    if not 1 <= count < dim:
        raise SmesolveError(f"count must lie from 1 to D - 1 = {dim - 1}, got {count!r}.")
    if dim <= max(64, 2 * count + 1):
        values, vectors = eigh(operator @ np.eye(dim))
        values, vectors = values[-count:], vectors[:, -count:]
    else:
        start = np.random.default_rng(0).standard_normal(dim)  # fixed, so that a result can be repeated
        try:
            values, vectors = eigsh(operator, k=count, which="LA", tol=tol, v0=start)
        except ArpackNoConvergence as failure:
            raise ArithmeticError(f"the {count} leading eigenvalues did not converge: {failure}") from failure
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    residuals = np.linalg.norm(operator @ vectors - values * vectors, axis=0)
    return Eigenpairs(values, vectors, residuals)


@checked
def principal_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles in [0, pi/2], increasing, between the spans of columns (D, k) and (D, l): (min(k, l),).

    By sines where cosines would lose small angles to rounding (Knyazev, Argentati, SIAM J. Sci. Comput. 23, 2002).
    """
    return subspace_angles(first, second)[::-1]
