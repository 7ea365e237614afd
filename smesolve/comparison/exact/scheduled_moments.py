"""Exact moments under a schedule, where the gradient is affine in theta at every time.

The moment equation dP/dt = G(t) P is integrated over steps of length h from t by exponentials of its fourth-order
Magnus expansion,

    exp( h/2 (G_1 + G_2) - sqrt(3)/12 h^2 (G_1 G_2 - G_2 G_1) ),       G_1,2 = G(t + (1/2 -+ sqrt(3)/6) h).     (1)

The two Gauss points lie inside a step, so that jumps and kinks on the grid of the learning rate do no harm. At order 2
the drift has the further term

    -lr/2 d_t b.                                                                                               (2)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm
from torch import Tensor

from smesolve.comparison.exact.affine_gradient import AffineGradient, affine_matrix, start_moments
from smesolve.comparison.exact.quadratic_observable import QuadraticObservable
from smesolve.comparison.observables import Observable
from smesolve.entry_point import entry_point
from smesolve.problem.schedule import ScheduledProblem
from smesolve.solver.integration import check_jumps
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_instance, check_integer, check_parameters, check_positive, check_weak_order

__all__ = ["ScheduledMoments"]


class ScheduledMoments:
    """Exact moments as those of `LinearMoments`, of a problem that follows a schedule.

    Args:
        problem: a `ScheduledProblem` of a problem with an affine gradient.
        theta0: (D,), the start.
        substeps: steps of the Magnus expansion up to the horizon, rounded up to a multiple of the iteration's steps.
            Default: 48.

    Raises:
        SmesolveError: bad arguments, or a problem whose moments are not known exactly, as for `LinearMoments`.
    """

    @entry_point
    def __init__(self, problem: ScheduledProblem, theta0: Tensor, substeps: int = 48) -> None:
        self.problem = check_instance("problem", problem, ScheduledProblem, "a ScheduledProblem")
        self.theta0 = check_parameters("theta0", theta0, problem)
        self.substeps = check_integer("substeps", substeps)

    @entry_point
    def error(self, lr: float, order: int, horizon: float, observable: str | Observable = "loss") -> float:
        """Compute the exact weak error E g(Theta_horizon) - E g(theta_k), k = horizon/lr.

        Raises:
            SmesolveError: bad arguments, or lr does not divide the horizon or a jump of the schedule.
        """
        lr, horizon = check_positive("lr", lr), check_positive("horizon", horizon)
        steps = grid_steps(horizon, lr, "horizon", "lr")
        check_jumps(self.problem, lr, horizon, "lr")
        return self.equation(lr, order, steps, observable) - self.iteration(lr, steps, observable)

    @entry_point
    def iteration(self, lr: float, steps: int, observable: str | Observable = "loss") -> float:
        """Compute E g(theta_steps) of the discrete iteration."""
        lr, steps = check_positive("lr", lr), check_integer("steps", steps)
        quadratic = QuadraticObservable.of(self.problem.problem, observable)
        P = start_moments(self.theta0)
        for k in range(steps):
            P = AffineGradient.of(self.problem.at(k * lr)).after_step(P, lr)
        return quadratic.expectation(P)

    @entry_point
    def equation(self, lr: float, order: int, steps: int, observable: str | Observable = "loss") -> float:
        """Compute E g(Theta_(steps lr)) of the modified equation; the error of the integrator is O(h^4)."""
        lr, steps = check_positive("lr", lr), check_integer("steps", steps)
        order = check_weak_order("order", order)
        quadratic = QuadraticObservable.of(self.problem.problem, observable)
        start = start_moments(self.theta0)
        parts = -(-self.substeps // steps)
        h, P = lr / parts, start.flatten()
        for k in range(steps * parts):
            early, late = (self._generator((k + 0.5 + sign * 3**0.5 / 6) * h, lr, order) for sign in (-1, 1))
            P = expm(h / 2 * (early + late) - 3**0.5 / 12 * h**2 * (early @ late - late @ early)) @ P  # (1)
        return quadratic.expectation(P.reshape(start.shape))

    def _generator(self, time: float, lr: float, order: int) -> np.ndarray:
        """Return the linear map of vec P in the moment equation at one time."""
        generator = AffineGradient.of(self.problem.at(time)).generator(lr, order)
        if order == 2:
            slope = -lr / 2 * affine_matrix(lambda theta: self.problem.drift_slope(time, theta), self.problem.dim)
            identity = np.eye(len(slope))
            generator = generator + np.kron(slope, identity) + np.kron(identity, slope)  # (2)
        return generator
