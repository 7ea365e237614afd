"""Exact moments under a schedule, where the gradient is affine in theta at every time.

The moment equation dP/dt = G(t) P is integrated over steps of length h from t by exponentials of its fourth-order
Magnus expansion,

    exp( h/2 (G_1 + G_2) - sqrt(3)/12 h^2 (G_1 G_2 - G_2 G_1) ),       G_1,2 = G(t + (1/2 -+ sqrt(3)/6) h).     (1)

The two Gauss points lie inside a step, so that jumps and kinks on the grid of the learning rate do not matter. The
expansion is symmetric in time, and its error is a series in h^4, h^6, ...: results for h = lr, lr/2, lr/4, ... are
extrapolated to h = 0 until two of them agree (Hairer, Noersett, Wanner, Solving Ordinary Differential Equations I,
section II.9),

    P_j,k+1 = P_j,k + (P_j,k - P_(j-1),k) / (4^(k + 2) - 1),      P_j,0 at h = lr/2^j.                          (2)

At order 2 the drift has the further term

    -lr/2 d_t b.                                                                                               (3)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm
from torch import Tensor

from smesolve.comparison.exact.affine_gradient import AffineGradient, affine_matrix, start_moments
from smesolve.comparison.exact.quadratic_observable import QuadraticObservable
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable
from smesolve.problem.schedule import ScheduledProblem
from smesolve.solver.integration import check_jumps
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import (
    check_instance,
    check_integer,
    check_number,
    check_parameters,
    check_positive,
)

__all__ = ["ScheduledMoments"]

DOUBLINGS = 9
"""Largest number of halvings of the step."""


class ScheduledMoments:
    """Exact moments, as in `LinearMoments`, for a problem that follows a schedule.

    Args:
        problem: a `ScheduledProblem` of a problem with an affine gradient.
        theta0: (D,), the start.
        tolerance: largest difference of the last two extrapolations, of all first and second moments, in units of the
            largest root mean square of a parameter along the path. Default: 1e-10.

    Raises:
        SmesolveError: bad arguments.
    """

    @entry_point
    def __init__(self, problem: ScheduledProblem, theta0: Tensor, tolerance: float = 1e-10) -> None:
        self.problem = check_instance("problem", problem, ScheduledProblem, "a ScheduledProblem")
        self.theta0 = check_parameters("theta0", theta0, problem)
        self.tolerance = check_number("tolerance", tolerance, 0.0, 1.0)

    @entry_point
    def error(self, lr: float, order: int, horizon: float, observable: str | Observable = "loss") -> float:
        """Compute the exact weak error E g(Theta_horizon) - E g(theta_k), k = horizon/lr.

        Raises:
            SmesolveError: bad arguments, lr does not divide the horizon or a jump of the schedule, or the tolerance is
                not reached.
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
            P = AffineGradient.of(self.problem.at(k * lr)).step(lr).moments(P)
        return quadratic.expectation(P)

    @entry_point
    def equation(self, lr: float, order: int, steps: int, observable: str | Observable = "loss") -> float:
        """Compute E g(Theta_(steps lr)) of the modified equation.

        Raises:
            SmesolveError: bad arguments, or the tolerance is not reached, as for a schedule that jumps between the
                learning rate's steps.
        """
        lr, steps = check_positive("lr", lr), check_integer("steps", steps)
        order = check_integer("order", order, most=2, remedy="ScheduledMoments knows the equations of order 1 and 2")
        quadratic = QuadraticObservable.of(self.problem.problem, observable)
        P, scale = self._solved(lr, order, steps, 1)
        extrapolated = [P]
        for level in range(1, DOUBLINGS + 1):
            P, _ = self._solved(lr, order, steps, 2**level)
            finer = [P]
            for column, coarse in enumerate(extrapolated):
                finer.append(finer[-1] + (finer[-1] - coarse) / (4 ** (column + 2) - 1))  # (2)
            difference = (np.abs(finer[-1] - extrapolated[-1]) / scale).max()
            if difference <= self.tolerance:
                return quadratic.expectation(finer[-1])
            extrapolated = finer
        raise SmesolveError(
            f"tolerance={self.tolerance:g} is not reached at lr={lr:g} by {2**DOUBLINGS} steps in one of the "
            f"iteration, which leave a difference of {difference:.2g}; raise it, or make a schedule that jumps by "
            "Piecewise."
        )

    def _solved(self, lr: float, order: int, steps: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """Return P (D + 1, D + 1) with h = lr/parts, and the scale of each of its entries."""
        P = start_moments(self.theta0)
        h, largest = lr / parts, P.diagonal()[1:].max()
        for k in range(steps * parts):
            early, late = (self._generator((k + 0.5 + sign * 3**0.5 / 6) * h, lr, order) for sign in (-1, 1))
            step = expm(h / 2 * (early + late) - 3**0.5 / 12 * h**2 * (early @ late - late @ early))  # (1)
            P = (step @ P.flatten()).reshape(P.shape)
            largest = max(largest, P.diagonal()[1:].max())
        sizes = np.concatenate([[1.0], np.full(len(P) - 1, (largest or 1.0) ** 0.5)])
        return P, np.outer(sizes, sizes)

    def _generator(self, time: float, lr: float, order: int, left_limit: bool = False) -> np.ndarray:
        """Return the linear map of vec P in the moment equation at one time."""
        generator = AffineGradient.of(self.problem.at(time, left_limit)).generator(lr, order)
        if order == 2:

            def drift_slope(theta: Tensor) -> Tensor:
                return self.problem.drift_slope(time, theta, left_limit)

            slope = -lr / 2 * affine_matrix(drift_slope, self.problem)
            identity = np.eye(len(slope))
            generator = generator + np.kron(slope, identity) + np.kron(identity, slope)  # (3)
        return generator
