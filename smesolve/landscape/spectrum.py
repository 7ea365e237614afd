"""Leading eigenpairs by the Lanczos algorithm, and angles between the subspaces that they span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, subspace_angles
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.landscape.array_checks import check_array
from smesolve.validation import check_instance, check_integer, check_mapping, check_tolerance

__all__ = ["Eigenpairs", "check_operator", "check_operators", "leading_eigenpairs", "principal_angles"]


@dataclass(frozen=True)
class Eigenpairs:
    """The algebraically largest eigenvalues of a symmetric operator, in decreasing order."""

    values: np.ndarray
    """(k,)."""
    vectors: np.ndarray
    """(D, k), orthonormal columns."""
    residuals: np.ndarray
    """(k,), |A u - lambda u|: there is an eigenvalue within this distance of each value (Weinstein)."""


@entry_point
def leading_eigenpairs(operator: LinearOperator, count: int, tol: float = 1e-6) -> Eigenpairs:
    """Compute the `count` largest eigenvalues and their eigenvectors.

    Cost: tens of products per eigenpair; memory 2 k D.

    Args:
        operator: symmetric operator, D x D.
        count: number k of eigenpairs, less than D.
        tol: relative accuracy of the eigenvalues.

    Raises:
        SmesolveError: bad arguments, or products that are not finite.
        ArithmeticError: the Lanczos algorithm does not converge.
    """
    dim = check_operator("operator", operator).shape[0]
    check_integer("count", count, 1, dim - 1, f"the operator has D = {dim}")
    check_tolerance("tol", tol)
    start = np.random.default_rng(0).standard_normal(dim)  # a fixed start: results are reproducible
    image = operator @ start
    if not np.isfinite(image).all():
        raise SmesolveError("operator has products that are NaN or infinite; take it at smaller parameters.")
    if not image.any():  # the operator is zero, and the Lanczos algorithm cannot start
        values, vectors = np.zeros(count), np.eye(dim, count, count - dim)
    elif dim <= max(64, 2 * count + 1):
        values, vectors = eigh(operator @ np.eye(dim))
        values, vectors = values[-count:], vectors[:, -count:]
    else:
        try:
            values, vectors = eigsh(operator, k=count, which="LA", tol=tol, v0=start)
        except ArpackNoConvergence as failure:
            raise ArithmeticError(f"the {count} leading eigenvalues did not converge: {failure}") from failure
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    residuals = np.linalg.norm(operator @ vectors - values * vectors, axis=0)
    return Eigenpairs(values, vectors, residuals)


@entry_point
def principal_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angles in [0, pi/2], increasing, between the spans of columns (D, k) and (D, l).

    There are as many as the smaller span has dimensions: min(k, l), unless columns depend on each other.
    `scipy.linalg.subspace_angles` takes sines where cosines would lose small angles to rounding (Knyazev, Argentati,
    SIAM J. Sci. Comput. 23, 2002).
    """
    first, second = check_array("first", first, "(D, k)"), check_array("second", second, "(D, l)")
    if len(first) != len(second):
        raise invalid("second", f"have the {len(first)} rows of first", second)
    angles: np.ndarray = subspace_angles(first, second)
    return angles[::-1]


def check_operator(name: str, operator: LinearOperator, dim: int | None = None) -> LinearOperator:
    """Return a linear operator of real numbers that is square, D x D with D = `dim` where that is given."""
    words = "a LinearOperator of real numbers, such as hessian_operator(problem, theta)"
    check_instance(name, operator, LinearOperator, words)
    if np.dtype(operator.dtype).kind not in "fiub":
        raise invalid(name, f"be {words}", operator)
    rows, columns = operator.shape
    if rows != columns or (dim is not None and rows != dim):
        size = "be square" if dim is None else f"have shape {(dim, dim)}, as the others"
        raise invalid(name, size, (rows, columns), "take operators on the same parameters")
    return operator


def check_operators(
    name: str, operators: Mapping[str, LinearOperator], dim: int | None = None
) -> dict[str, LinearOperator]:
    """Return linear operators by name, all of them D x D, with D = `dim`. Default: D of the first one."""
    checked = check_mapping(name, operators, check_operator)
    size = next(iter(checked.values())).shape[0] if dim is None else dim
    return {key: check_operator(f"{name}[{key!r}]", operator, size) for key, operator in checked.items()}
