"""Derivatives of the value function along the gradient flow, and integrals of them, with error control.

The value function u_t(theta) = g(flow of theta from t to T) does not change along the flow of b = -grad L_S. Its
derivatives lam = grad u, Lam = Hess u and U = D^3 u at thetabar(t), the flow from theta0, obey with H = Hess L_S

    lam' = H lam                                                                                           (1)
    Lam' = H Lam + Lam H + D^3 L_S[lam]                                                                    (2)
    U'   = 3 sym(H U) + 3 sym(D^3 L_S Lam) + D^4 L_S[lam]                                                  (3)

backwards from the derivatives of g at T. Where b is not a gradient (`Problem.conservative`), H = -Db is transposed in
(1), and (2) and (3) do not hold. `along_flow` integrates a density, a function of t and these derivatives, as one more
component by SciPy's `solve_ivp`: thetabar forwards with dense output, the rest backwards, from break to break of a
schedule. It tries one tolerance after another until two results agree, and reports their difference as the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import OdeSolution, solve_ivp
from torch import Tensor

from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.problem.reverse_derivative import value_and_gradient
from smesolve.solver.ode import solve_ode

__all__ = ["BATCH_FLOATS", "NESTED_ARRAYS", "Density", "along", "along_flow"]

Density = Callable[[float, bool, Tensor, list[Tensor], list[Tensor]], Tensor]
"""(t, whether the limit from the left at t, thetabar, derivatives [lam (G, D), Lam (G, D, D), U (G, D, D, D)] up to the
wanted degree, and [Hess L_S (D, D), D^3 L_S (D, D, D)] at thetabar where the degree is more than 1) -> (G,)."""

TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
"""Relative tolerances of the integration in order; tolerances below the rounding of the dtype are left out."""

AGREEMENT = 1e-3
"""Relative difference between the results at two tolerances below which the finer result is accepted."""

ROUNDINGS = 64
"""Finest tolerance in units of the machine epsilon."""

BATCH_FLOATS = 2**18
"""Floats in one working array of a batch of directional derivatives (2 MiB)."""

NESTED_ARRAYS = 60
"""Number of working arrays of a batch for a fourth derivative of the loss, which is three nested backward
derivatives."""


def along_flow(
    problem: Problem,
    theta0: Tensor,
    time: float,
    observables: Mapping[str, Observable],
    derivatives: int,
    density: Density,
) -> dict[str, tuple[float, float]]:
    """Integrate a density from 0 to T for each observable, and return the integrals with their numerical errors.

    The density takes 1 or 3 derivatives of the value function. Where the integration fails, both numbers are NaN.

    Cost: for one derivative, a few gradients and a Hessian product per observable at some hundred times, and more where
    the horizon is many times 1/lambda_max(H), as the method is explicit; for three derivatives also D^2/2 fourth
    derivatives of L_S per observable.
    """
    finest = ROUNDINGS * torch.finfo(problem.dtype).eps
    tolerances = [tolerance for tolerance in TOLERANCES if tolerance >= finest]
    pieces = list(pairwise([0.0, *(end for end in problem.breaks if end < time), time]))

    def integral(tolerance: float) -> np.ndarray:
        paths, theta = [], theta0.cpu().double().numpy()
        try:
            for begin, end in pieces:
                paths.append(_flow(problem, theta0, theta, begin, end, tolerance / 10))
                theta = paths[-1](end)
            current = [_derivatives(problem, g, theta0.new_tensor(theta), derivatives) for g in observables.values()]
            state = [torch.stack(parts) for parts in zip(*current, strict=True)] + [theta0.new_zeros(len(observables))]
            for (begin, end), path in zip(reversed(pieces), reversed(paths), strict=True):
                state = _backwards(problem, path, begin, end, state, density, tolerance)
        except ArithmeticError:
            return np.full(len(observables), np.nan)
        return state[-1].cpu().double().numpy()

    integrals = [integral(tolerances[0])]
    for tolerance in tolerances[1:]:
        integrals.append(integral(tolerance))
        difference = np.abs(integrals[-1] - integrals[-2])
        if (difference <= AGREEMENT * np.abs(integrals[-1])).all():
            break
    return {
        name: (float(value), float(error))
        for name, value, error in zip(observables, integrals[-1], difference, strict=True)
    }


def along(gradient: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor) -> Tensor:
    """Compute the derivative at theta (..., D), along a direction (..., D), of a function that is a gradient.

    Its Jacobian is symmetric, so the derivative is that of gradient . direction: backward derivatives of backward
    derivatives cost several times less than nested forward ones.
    """
    found: Tensor = torch.func.grad(lambda at: (gradient(at) * direction).sum())(theta)
    return found


def _flow(problem: Problem, like: Tensor, theta: np.ndarray, begin: float, end: float, tolerance: float) -> OdeSolution:
    """Return thetabar(t) within one piece of a schedule. Raises an ArithmeticError where the integration fails."""

    def velocity(t: float, theta: Tensor) -> Tensor:
        return -problem.at(t, _from_left(t, begin, end)).mean_gradient(theta.to(like))

    return solve_ode(velocity, torch.from_numpy(theta), (begin, end), tolerance).sol


def _backwards(
    problem: Problem,
    path: OdeSolution,
    begin: float,
    end: float,
    state: list[Tensor],
    density: Density,
    tolerance: float,
) -> list[Tensor]:
    """Return derivatives and integral at `begin` from those at `end`.

    Raises:
        ArithmeticError: the integration fails.
    """
    like = state[-1]

    def parts(y: np.ndarray) -> list[Tensor]:
        pieces = torch.split(like.new_tensor(y), [part.numel() for part in state])
        return [piece.reshape(part.shape) for piece, part in zip(pieces, state, strict=True)]

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        from_left, theta = _from_left(t, begin, end), like.new_tensor(path(t))
        derivatives, now = parts(y)[:-1], problem.at(t, from_left)
        tensors = _loss_tensors(now, theta) if len(derivatives) > 1 else []
        changes = [*_changes(now, theta, derivatives, tensors), -density(t, from_left, theta, derivatives, tensors)]
        return _flat(changes)

    # Each component is held to the largest one of its kind; the integral, which starts from 0, to its relative error.
    largest = [max(float(part.abs().max()), 1e-12) for part in state[:-1]]
    absolute = np.repeat([*largest, 1e-3 * largest[0]], [part.numel() for part in state]) * tolerance
    ended = solve_ivp(velocity, (end, begin), _flat(state), "DOP853", rtol=tolerance, atol=absolute, t_eval=[begin])
    if not ended.success:
        raise ArithmeticError(ended.message)
    return parts(ended.y[:, -1])


def _flat(parts: list[Tensor]) -> np.ndarray:
    return np.asarray(torch.cat([part.flatten() for part in parts]).cpu().double().numpy())


def _from_left(t: float, begin: float, end: float) -> bool:
    """Return whether a time of the piece from begin to end means the limit from the left if it is a break."""
    return t > (begin + end) / 2


def _derivatives(problem: Problem, observable: Observable, theta: Tensor, count: int) -> list[Tensor]:
    """Return the gradient of an observable at theta (D,), and for count 3 its Hessian and third derivatives as well."""

    def slope(at: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda states: observable(states).sum())(at)
        return found

    def third(i: Tensor, j: Tensor) -> Tensor:
        return along(lambda at: along(slope, at, i), theta.expand_as(i), j)

    _, gradient = value_and_gradient(observable, theta)
    if count == 1:
        return [gradient]
    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    return [gradient, along(slope, theta.expand_as(identity), identity), _symmetric(problem, third, 1)]


def _changes(problem: Problem, theta: Tensor, derivatives: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Return the time derivatives of lam, Lam and U."""
    lam = derivatives[0]
    changes = [problem.adjoint_product(theta.expand_as(lam), lam)]  # (1)
    if len(derivatives) == 1:
        return changes
    (hessian, third), (Lam, U) = tensors, derivatives[1:]
    product = hessian @ Lam
    changes.append(product + product.mT + torch.einsum("gk,kij->gij", lam, third))  # (2)
    mixed = torch.einsum("ki,gkjl->gijl", hessian, U) + torch.einsum("gik,kjl->gijl", Lam, third)
    cyclic = mixed + mixed.permute(0, 2, 3, 1) + mixed.permute(0, 3, 1, 2)
    return [*changes, cyclic + _fourth(problem, theta, lam)]  # (3)


def _loss_tensors(problem: Problem, theta: Tensor) -> list[Tensor]:
    """Return Hess L_S (D, D) and D^3 L_S (D, D, D) at theta (D,)."""
    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    hessian = problem.hessian_product(theta.expand_as(identity), identity)

    def third(i: Tensor, j: Tensor) -> Tensor:
        return along(lambda at: along(problem.mean_gradient, at, i), theta.expand_as(i), j)

    return [hessian, _symmetric(problem, third, 1)]


def _fourth(problem: Problem, theta: Tensor, vectors: Tensor) -> Tensor:
    """Return D^4 L_S[vector] (G, D, D, D) at theta (D,) for vectors (G, D)."""

    def fourth(i: Tensor, j: Tensor) -> Tensor:
        each = vectors[:, None].expand(-1, *i.shape)
        product = lambda at: along(problem.mean_gradient, at, each)  # noqa: E731
        return along(lambda at: along(product, at, i.expand_as(each)), theta.expand_as(each), j.expand_as(each))

    return _symmetric(problem, fourth, len(vectors))


def _symmetric(problem: Problem, function: Callable[[Tensor, Tensor], Tensor], work: int) -> Tensor:
    """Return function(e_i, e_j) (..., D) as a tensor (..., D, D, D) that is symmetric in i and j, in batches of pairs.

    The function takes unit vectors (B, D) each, and evaluates the problem at `work` points per pair.
    """
    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    rows, columns = torch.triu_indices(problem.dim, problem.dim, device=problem.device)
    size = max(1, BATCH_FLOATS // (problem.floats_per_path * work))
    batches = zip(rows.split(size), columns.split(size), strict=True)
    values = torch.cat([function(identity[i], identity[j]) for i, j in batches], dim=-2)
    made = values.new_empty(*values.shape[:-2], problem.dim, problem.dim, problem.dim)
    made[..., rows, columns, :] = made[..., columns, rows, :] = values
    return made
