"""Exact moments of iteration, equations and schemes where the gradient is affine in theta."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from scipy.linalg import expm, null_space
from torch import Tensor

from smesolve.comparison.exact.affine_gradient import AffineGradient, affine_matrix, start_moments
from smesolve.comparison.exact.quadratic_observable import QuadraticObservable
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.solver.integration import check_scheme
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import Order
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import (
    check_choice,
    check_diffusion_order,
    check_integer,
    check_optional,
    check_parameters,
    check_positive,
    check_problem,
    check_weak_order,
)

__all__ = ["LinearMoments"]

MOST_MOMENTS = 1024
"""Largest number of moments of one degree."""

NEUTRAL = 1e-12
"""Growth, in units of the largest curvature or of one step, that counts as rounding. Constant moments, such as those of
features that are never on, are not an instability."""

LIMIT_TOLERANCE = 1e-12
"""Relative tolerance of a stability limit."""

LARGEST_LIMIT = 1e6
"""Stability limits, in units of one over the largest curvature, that count as infinite."""


class LinearMoments:
    """Exact moments where the gradient is affine in theta, for any learning rate and number of steps.

    The second moments P of (1, theta) obey the linear equations of `affine_gradient`. Observables must be quadratic in
    theta: "loss", "modified_loss", "squared_norm", coordinates, or a quadratic callable.

    Args:
        problem: what is trained.
        theta0: (D,), the start.

    Raises:
        SmesolveError: the gradient is not affine or follows a schedule, the dtype is float32, or D > 24.
    """

    @entry_point
    def __init__(self, problem: Problem, theta0: Tensor) -> None:
        self.problem = check_problem("problem", problem)
        theta0 = check_parameters("theta0", theta0, problem)
        if not problem.autonomous:
            raise SmesolveError(
                f"problem must not follow a schedule, which this {type(problem).__name__} does; use ScheduledMoments."
            )
        self._gradient = AffineGradient.of(problem)
        self._start = start_moments(theta0)

    @entry_point
    def iteration(self, lr: float, steps: int, observable: str | Observable = "loss") -> float:
        """Compute E g(theta_steps) of the discrete iteration."""
        lr, steps = check_positive("lr", lr), check_integer("steps", steps)
        quadratic = QuadraticObservable.of(self.problem, observable)
        P, step = self._start, self._gradient.step(lr)
        for _ in range(steps):
            P = step.moments(P)
        return quadratic.expectation(P)

    @entry_point
    def equation(self, lr: float, order: Order, horizon: float, observable: str | Observable = "loss") -> float:
        """Compute E g(Theta_horizon) of the modified equation."""
        lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
        order, quadratic = check_weak_order("order", order), QuadraticObservable.of(self.problem, observable)
        P = expm(horizon * self._gradient.generator(lr, order)) @ self._start.flatten()
        return quadratic.expectation(P.reshape(self._start.shape))

    @entry_point
    def moments(self, lr: float, order: Order | None, horizon: float, degree: int = 3) -> np.ndarray:
        """Compute E psi^(x degree), psi = (1, theta), of the equation of an order, or of the iteration for order None.

        Returns:
            An array (D + 1, ..., D + 1) with `degree` dimensions: entry (i, j, k) is E psi_i psi_j psi_k, where psi_0
            is 1, so that the array holds all lower moments.

        Raises:
            SmesolveError: bad arguments, lr that does not divide the horizon (order None), more than 1024 entries, or,
                for the iteration and equations with jumps, more than 4096 different draws.

        Cost: the exponential, or a power, of a matrix with one row per entry.
        """
        lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
        order, degree = check_optional("order", order, check_weak_order), check_integer("degree", degree)
        size = len(self._start)
        if size**degree > MOST_MOMENTS:
            raise SmesolveError(
                f"degree={degree} has (D + 1)^degree = {size}^{degree} moments, more than {MOST_MOMENTS}; take a "
                "smaller degree."
            )
        if order is None:
            steps = grid_steps(horizon, lr, "horizon", "lr")
            moved = np.linalg.matrix_power(self._gradient.iteration_map(lr, degree), steps)
        else:
            moved = expm(horizon * self._gradient.generator(lr, order, degree))
        psi = self._start[0]
        return np.asarray((moved @ reduce(np.kron, [psi] * degree)).reshape((size,) * degree))

    @entry_point
    def error(self, lr: float, order: Order, horizon: float, observable: str | Observable = "loss") -> float:
        """Compute the exact weak error E g(Theta_horizon) - E g(theta_k), k = horizon/lr."""
        lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
        steps = grid_steps(horizon, lr, "horizon", "lr")
        return self.equation(lr, order, horizon, observable) - self.iteration(lr, steps, observable)

    @entry_point
    def stationary(self, lr: float, order: Order | None, observable: str | Observable = "loss") -> float:
        """Compute E g in the stationary state of the modified equation, or of the iteration for order None.

        Moments that the dynamics conserve, such as those of parameters of features that are never on, keep their values
        at the start.

        Raises:
            SmesolveError: there is no stationary state, as lr is not below `stability_limit(order)`.
        """
        lr, quadratic = check_positive("lr", lr), QuadraticObservable.of(self.problem, observable)
        limit = self.stability_limit(order)
        if lr >= limit:
            raise SmesolveError(f"lr={lr:g} has no stationary state; take lr below the limit {limit:.6g}.")
        size = len(self._start)
        if order is None:
            operator = self._gradient.step(lr).moment_map() - np.eye(size**2)
        else:
            operator = self._gradient.generator(lr, order)
        # P is the null vector with P_00 = 1; the first equation is void, as psi_0 does not move.
        moving, constant, start = operator[1:, 1:], operator[1:, 0], self._start.flatten()[1:]
        conserved = null_space(moving.T).T  # w with w A = 0: w P is conserved
        equations = np.concatenate([moving, conserved])
        P = np.linalg.lstsq(equations, np.concatenate([-constant, conserved @ start]), rcond=None)[0]
        return quadratic.expectation(np.concatenate([[1.0], P]).reshape(size, size))

    @entry_point
    def stability_limit(self, order: Order | None = None) -> float:
        """Compute the lr from which second moments grow without bound.

        It is found by bisection, to a relative tolerance of 1e-12, from the spectral radius of the moment map or the
        spectral abscissa of the moment generator, without the constant component.

        Args:
            order: order of the equation. Default: the iteration.

        Returns:
            The limit; infinity where no lr below 1e6/|H| is unstable.
        """
        order = check_optional("order", order, check_weak_order)
        moving = np.flatnonzero(np.outer(*[np.arange(len(self._start))] * 2).flatten())

        def unstable(lr: float) -> bool:
            if order is None:
                radius = np.abs(np.linalg.eigvals(self._gradient.step(lr).moment_map()[np.ix_(moving, moving)])).max()
                return bool(radius > 1 + NEUTRAL)
            growth = np.linalg.eigvals(self._gradient.generator(lr, order)[np.ix_(moving, moving)]).real.max()
            return bool(growth > NEUTRAL * curvature)

        curvature = float(np.abs(np.linalg.eigvals(self._gradient.drift)).max())
        if curvature == 0:  # nothing moves
            return float("inf")
        low, high = 0.0, 1e-3 / curvature
        while not unstable(high):
            low, high = high, 2 * high
            if order == "quadratic" and high >= 1 / curvature:
                return 1 / curvature  # log(1 - lr H) ends there
            if high > LARGEST_LIMIT / curvature:
                return float("inf")
        while high - low > LIMIT_TOLERANCE * high:
            middle = (low + high) / 2
            low, high = (low, middle) if unstable(middle) else (middle, high)
        return (low + high) / 2

    @entry_point
    def scheme(
        self, lr: float, order: Order, horizon: float, scheme: str, dt: float, observable: str | Observable = "loss"
    ) -> float:
        """Compute E g of the solution of a scheme; its difference from `equation` is the exact bias of the scheme.

        The step of a scheme that is affine in its normals xi maps psi = (1, theta) to (Phi + sum_j xi_j Gamma_j) psi,
        so that moments obey

            P' = Phi P Phi^T + sum_j Gamma_j P Gamma_j^T.                                               (1)
        """
        lr, horizon, dt = (
            check_positive(name, value) for name, value in (("lr", lr), ("horizon", horizon), ("dt", dt))
        )
        order = check_diffusion_order("order", order)
        check_scheme(self.problem, check_choice("scheme", scheme, SCHEMES))
        if not self.problem.linear_noise:
            raise SmesolveError(
                "problem must have noise that is linear in normals for moments of a scheme; take masks shared by all "
                "samples, without with_weak_noise."
            )
        if issubclass(SCHEMES[scheme], GradientScheme):
            raise SmesolveError(
                f"scheme={scheme!r} is not affine in normals; at order 1 its first two moments are those of 'euler'."
            )
        quadratic = QuadraticObservable.of(self.problem, observable)
        Phi, Gamma = self._scheme_step(ModifiedEquation(self.problem, lr, order), scheme, dt)
        P = self._start
        for _ in range(grid_steps(horizon, dt, "horizon")):
            P = Phi @ P @ Phi.T + np.einsum("jab,bc,jdc->ad", Gamma, P, Gamma, optimize=True)  # (1)
        return quadratic.expectation(P)

    def _scheme_step(self, equation: ModifiedEquation, scheme: str, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Return Phi (D + 1, D + 1) and Gamma_j (M, D + 1, D + 1) of a scheme's step."""
        M, D = self.problem.noise_dim, self.problem.dim
        # One path without noise and one with each unit normal.
        units = torch.eye(M, dtype=self.problem.dtype, device=self.problem.device)
        normals = torch.cat([units.new_zeros(1, M), units])
        chosen = SCHEMES[scheme]
        assert not issubclass(chosen, GradientScheme)  # refused by `scheme`
        made, sde, increments = chosen(), PerturbedSDE(equation), dt**0.5 * normals

        def step(theta: Tensor) -> Tensor:
            starts = theta[:, None].expand(-1, M + 1, -1)
            return torch.stack([made.step(sde, 0.0, dt, start, increments)[0] for start in starts]).flatten(-2)

        images = affine_matrix(step, self.problem)[1:].reshape(M + 1, D, D + 1)
        Phi = np.concatenate([np.eye(1, D + 1), images[0]])
        Gamma = np.concatenate([np.zeros((M, 1, D + 1)), images[1:] - images[0]], axis=1)
        return Phi, Gamma
