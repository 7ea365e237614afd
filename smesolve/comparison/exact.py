"""Expectations without Monte Carlo, to calibrate what is measured.

- `enumerated_expectation`: any network, a few steps: all sequences of draws.
- `LinearMoments`: gradients affine in theta (`LinearNetwork`: a trained readout, linear regression): first and second
  moments of the iteration by a linear recursion, of the equations by a matrix exponential; any lr, any number of steps.
- `ScheduledMoments`: the same where drift and noise depend on time.
- `scalar_dropout`: one neuron, one sample: closed forms and mean-square stability limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm, logm
from torch import Tensor

from smesolve.arguments import Number, checked
from smesolve.comparison.observables import Observable, named_observables
from smesolve.errors import SmesolveError
from smesolve.problem.one_at_a_time import hessian
from smesolve.problem.problem import Problem
from smesolve.problem.schedule import ScheduledProblem
from smesolve.solver.brownian import GivenIncrements
from smesolve.solver.integration import check_jumps, check_scheme
from smesolve.solver.modified_equation import ModifiedEquation, Order, check_order
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme import PerturbedSDE
from smesolve.solver.time_grid import grid_steps

__all__ = ["LinearMoments", "ScalarDropout", "ScheduledMoments", "enumerated_expectation", "scalar_dropout"]

MAX_LEAVES = 2**22
"""Sequences of draws that an enumeration may visit."""

MAX_LINEAR_DIM = 24
"""Largest D of `LinearMoments`: its matrix exponential has (D + 1)^4 entries."""

DOUBLINGS = 9
"""Times that the step of `ScheduledMoments` is halved in search of its tolerance."""

NEUTRAL = 1e-12
"""Growth, in units of the largest curvature or of one step, that is rounding: moments that do not move, say of features
that are never on, are no instability."""


@checked
def enumerated_expectation(
    problem: Problem, theta0: Tensor, lr: float, steps: int, observable: str | Observable
) -> float:
    """E g(theta_steps) of the iteration, by all sequences of draws.

    Raises:
        SmesolveError: more than 2^22 sequences. Cost: one gradient for each, memory D numbers for each.
    """
    count = len(problem.all_draws()[1])
    if count**steps > MAX_LEAVES:
        raise SmesolveError(f"{count}^{steps} sequences are more than {MAX_LEAVES}; take fewer steps.")
    (function,) = named_observables(problem, [observable]).values()
    theta, weight = theta0[None], torch.ones(1, dtype=torch.float64, device="cpu")
    for step in range(steps):
        now = problem.at(step * lr)
        draws, weights = now.all_draws()
        theta = (theta[:, None] - lr * now.gradient(theta[:, None], draws[None])).flatten(0, 1)
        weight = (weight[:, None] * weights.to(weight)).flatten()
    return float(weight @ function(theta).to(weight))


class LinearMoments:
    """Exact moments where the gradient is affine in theta: drift B theta + b_0, noise columns U_j theta + w_j.

    With psi = (1, theta), tilde matrices acting on psi, and P = E psi psi^T,

        iteration   P' = (I + lr B) P (I + lr B)^T + lr^2 sum_j U_j P U_j^T
        equation    dP/dt = A P + P A^T + lr sum_j U_j P U_j^T,   A = B at order 1, B - lr/2 B^2 at order 2,
                    log(1 + lr B)/lr and S U_j in place of U_j for the equation that resums quadratic losses.

    Observables are quadratic in theta: "loss", "modified_loss", "squared_norm", coordinates, or a quadratic callable.

    Raises:
        SmesolveError: the gradient of the problem is not affine or follows a schedule, float32, or D > 24.
    """

    @checked
    def __init__(self, problem: Problem, theta0: Tensor) -> None:
        if problem.dim > MAX_LINEAR_DIM:
            raise SmesolveError(f"LinearMoments needs D of at most {MAX_LINEAR_DIM}, got {problem.dim}.")
        if not problem.autonomous:
            raise SmesolveError(
                f"LinearMoments knows no schedules, which this {type(problem).__name__} has; use ScheduledMoments."
            )
        if problem.dtype != torch.float64:
            raise SmesolveError(f"LinearMoments needs a problem in torch.float64, got {problem.dtype}; make it anew.")
        self.problem = problem
        self._drift = _affine(lambda theta: -problem.mean_gradient(theta), problem.dim)
        factors = _affine(lambda theta: problem.noise_factor(theta).mT.flatten(-2), problem.dim)
        columns = factors[1:].reshape(-1, problem.dim, problem.dim + 1)
        self._columns = np.concatenate([np.zeros((len(columns), 1, problem.dim + 1)), columns], axis=1)
        psi = np.concatenate([[1.0], theta0.cpu().numpy()])
        self._start = np.outer(psi, psi)

    @checked
    def iteration(self, lr: float, steps: int, observable: str | Observable = "loss") -> float:
        """E g(theta_steps) of the discrete iteration."""
        step = np.eye(len(self._start)) + lr * self._drift
        P = self._start
        for _ in range(steps):
            P = step @ P @ step.T + lr**2 * self._noise(P)
        return self._expectation(P, observable)

    @checked
    def equation(self, lr: float, order: Order, horizon: float, observable: str | Observable = "loss") -> float:
        """E g(Theta_horizon) of the modified equation."""
        size = len(self._start)
        P = (expm(horizon * self._generator(lr, order)) @ self._start.flatten()).reshape(size, size)
        return self._expectation(P, observable)

    @checked
    def stationary(self, lr: float, order: Order | None, observable: str | Observable = "loss") -> float:
        """E g in the stationary state of the modified equation, or of the iteration for order None.

        Raises:
            SmesolveError: there is none: lr is not below `stability_limit(order)`.
        """
        if lr >= self.stability_limit(order):
            raise SmesolveError(
                f"lr={lr:g} has no stationary state; take lr below the limit {self.stability_limit(order):.6g}."
            )
        operator = self._moment_map(lr) - np.eye(len(self._start) ** 2) if order is None else self._generator(lr, order)
        # P is the null vector with P_00 = 1; entry 0 of the operator's equations is void, as psi_0 does not move.
        P = np.concatenate([[1.0], np.linalg.lstsq(operator[1:, 1:], -operator[1:, 0], rcond=None)[0]])
        return self._expectation(P.reshape(len(self._start), -1), observable)

    @checked
    def stability_limit(self, order: Order | None = None) -> float:
        """The lr from which second moments grow without bound: of the equation, or of the iteration for order None.

        Found by bisection to 1e-12 relative on the spectral radius of the moment map, or on the spectral abscissa of
        the moment generator, without the constant; infinity where no lr below 1e6/|H| is unstable.
        """

        def unstable(lr: float) -> bool:
            keep = np.flatnonzero(np.outer(*[np.arange(len(self._start))] * 2).flatten())
            if order is None:
                return np.abs(np.linalg.eigvals(self._moment_map(lr)[np.ix_(keep, keep)])).max() > 1 + NEUTRAL
            growth = np.linalg.eigvals(self._generator(lr, order)[np.ix_(keep, keep)]).real.max()
            return growth > NEUTRAL * curvature

        curvature = np.abs(np.linalg.eigvals(self._drift)).max()
        low, high = 0.0, 1e-3 / curvature
        while not unstable(high):
            low, high = high, 2 * high
            if order == "quadratic" and high >= 1 / curvature:
                return 1 / curvature  # log(1 - lr H) ends there
            if high > 1e6 / curvature:
                return float("inf")
        while high - low > 1e-12 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if unstable(middle) else (middle, high)
        return (low + high) / 2

    def _moment_map(self, lr: float) -> np.ndarray:
        """The linear map of vec P in one step of the iteration."""
        step = np.eye(len(self._start)) + lr * self._drift
        return np.kron(step, step) + lr**2 * sum(np.kron(U, U) for U in self._columns)

    def _generator(self, lr: float, order: Order) -> np.ndarray:
        """The linear map of vec P in the moment equation."""
        check_order(order)
        identity, columns = np.eye(len(self._start)), self._columns
        if order == "quadratic":
            A = np.real(logm(identity + lr * self._drift)) / lr
            values, vectors = np.linalg.eigh(-self._drift[1:, 1:])
            z = lr * values
            with np.errstate(divide="ignore", invalid="ignore"):
                root = np.where(np.abs(z) < 1e-8, 1.0, np.sqrt(2 * np.log1p(-z) / (z * (z - 2))))
            columns = columns.copy()
            columns[:, 1:] = vectors @ (root[:, None] * vectors.T) @ columns[:, 1:]
        else:
            A = self._drift - (order - 1) * lr / 2 * self._drift @ self._drift
        return np.kron(A, identity) + np.kron(identity, A) + lr * sum(np.kron(U, U) for U in columns)

    @checked
    def scheme(
        self, lr: float, order: int, horizon: float, scheme: str, dt: float, observable: str | Observable = "loss"
    ) -> float:
        """E g of a scheme's own solution of the equation: minus `equation`, the scheme's exact bias.

        The step of a scheme that is affine in its normals maps psi to (Phi + sum_j xi_j Gamma_j) psi, so moments obey
        P' = Phi P Phi^T + sum_j Gamma_j P Gamma_j^T.
        """
        check_scheme(self.problem, scheme)
        if not self.problem.linear_noise:
            raise SmesolveError(
                "problem must have noise that is linear in normals for moments of a scheme; take masks shared by all "
                "samples, without with_weak_noise."
            )
        if issubclass(SCHEMES[scheme], GradientScheme):
            raise SmesolveError(
                f"scheme={scheme!r} is not affine in normals; at order 1 its first two moments are those of 'euler'."
            )
        problem = self.problem
        M, D = problem.noise_dim, problem.dim
        columns = torch.cat(
            [torch.zeros(1, M, dtype=torch.float64, device="cpu"), torch.eye(M, dtype=torch.float64, device="cpu")]
        )
        made: Any = SCHEMES[scheme]
        solver = made(
            sde=PerturbedSDE(ModifiedEquation(problem, lr, order)),
            bm=GivenIncrements(dt**0.5 * columns),
            dt=dt,
            adaptive=False,
            rtol=0,
            atol=0,
            dt_min=0,
            options={},
        )

        def step(theta: Tensor) -> Tensor:
            starts = theta[:, None].expand(-1, M + 1, -1)
            return torch.stack([solver.step(0.0, dt, start, ())[0] for start in starts]).flatten(-2)

        images = _affine(step, D)[1:].reshape(M + 1, D, D + 1)
        Phi = np.concatenate([np.eye(1, D + 1), images[0]])
        Gamma = np.concatenate([np.zeros((M, 1, D + 1)), images[1:] - images[0]], axis=1)
        P = self._start
        for _ in range(grid_steps(horizon, dt, "horizon")):
            P = Phi @ P @ Phi.T + np.einsum("jab,bc,jdc->ad", Gamma, P, Gamma, optimize=True)
        return self._expectation(P, observable)

    @checked
    def error(self, lr: float, order: int, horizon: float, observable: str | Observable = "loss") -> float:
        """The exact weak error E g(Theta_horizon) - E g(theta_k), k = horizon/lr."""
        steps = grid_steps(horizon, lr, "horizon", "lr")
        return self.equation(lr, order, horizon, observable) - self.iteration(lr, steps, observable)

    def _noise(self, P: np.ndarray) -> np.ndarray:
        return np.einsum("jab,bc,jdc->ad", self._columns, P, self._columns, optimize=True)

    def _expectation(self, P: np.ndarray, observable: str | Observable) -> float:
        (function,) = named_observables(self.problem, [observable]).values()
        zero = torch.zeros(self.problem.dim, dtype=self.problem.dtype, device=self.problem.device)
        slope = torch.func.grad(function)(zero)
        bend = hessian(function, zero)
        trial = torch.linspace(-1.3, 2.1, self.problem.dim, dtype=zero.dtype, device=zero.device)
        quadratic = function(zero) + slope @ trial + 0.5 * trial @ bend @ trial
        if not torch.allclose(function(trial), quadratic, rtol=1e-9, atol=1e-9):
            raise SmesolveError("observable must be quadratic in theta for exact moments; use weak_error for others.")
        moments = torch.as_tensor(P, dtype=self.problem.dtype, device=self.problem.device)
        return float(function(zero) + slope @ moments[0, 1:] + 0.5 * (bend * moments[1:, 1:]).sum())


class ScheduledMoments:
    """`LinearMoments` under a schedule: the problem is the one of its time in each step.

    The moment equation dP/dt = G(t) P is integrated by exponentials of its fourth-order Magnus expansion, whose two
    Gauss points lie inside a step, so that jumps and kinks on the grid of the learning rate do no harm. The expansion
    is symmetric in time, and its error a series in h^4, h^6, ...: step sizes h = lr, lr/2, lr/4, ... are extrapolated
    to 0 until two results agree (Hairer, Noersett, Wanner, Solving Ordinary Differential Equations I, section II.9).

    Args:
        problem: `ScheduledProblem` of a problem with an affine gradient.
        theta0: (D,), the start.
        tolerance: largest difference of the last two extrapolations, of all first and second moments, in units of the
            largest root mean square of a parameter along the path.
    """

    @checked(tolerance=Number(0.0, 1.0))
    def __init__(self, problem: ScheduledProblem, theta0: Tensor, tolerance: float = 1e-10) -> None:
        self.problem = problem
        self.theta0, self.tolerance = theta0, tolerance

    @checked
    def error(self, lr: float, order: int, horizon: float, observable: str | Observable = "loss") -> float:
        """The exact weak error E g(Theta_horizon) - E g(theta_k), k = horizon/lr.

        Raises:
            SmesolveError: lr does not divide the horizon or a jump of the schedule, or as `equation`.
        """
        steps = grid_steps(horizon, lr, "horizon", "lr")
        check_jumps(self.problem, lr, horizon, "lr")
        return self.equation(lr, order, steps, observable) - self.iteration(lr, steps, observable)

    @checked
    def iteration(self, lr: float, steps: int, observable: str | Observable = "loss") -> float:
        """E g(theta_steps) of the discrete iteration."""
        moments = LinearMoments(self.problem.at(0.0), self.theta0)
        P = moments._start
        for k in range(steps):
            now = LinearMoments(self.problem.at(k * lr), self.theta0)
            step = np.eye(len(P)) + lr * now._drift
            P = step @ P @ step.T + lr**2 * now._noise(P)
        return LinearMoments(self.problem.problem, self.theta0)._expectation(P, observable)

    @checked
    def equation(self, lr: float, order: int, steps: int, observable: str | Observable = "loss") -> float:
        """E g(Theta_(steps lr)) of the modified equation.

        Raises:
            SmesolveError: the tolerance is not reached, as for a schedule that jumps between the learning rate's steps.
        """
        P, scale = self._solved(lr, order, steps, 1)
        extrapolated = [P]
        for level in range(1, DOUBLINGS + 1):
            P, _ = self._solved(lr, order, steps, 2**level)
            finer = [P]
            for column, coarse in enumerate(extrapolated):
                finer.append(finer[-1] + (finer[-1] - coarse) / (4 ** (column + 2) - 1))
            difference = (np.abs(finer[-1] - extrapolated[-1]) / scale).max()
            if difference <= self.tolerance:
                return LinearMoments(self.problem.problem, self.theta0)._expectation(finer[-1], observable)
            extrapolated = finer
        raise SmesolveError(
            f"tolerance={self.tolerance:g} is not reached at lr={lr:g} by {2**DOUBLINGS} steps in one of the "
            f"iteration, which leave a difference of {difference:.2g}; raise it, or put a schedule that jumps together "
            "by Piecewise."
        )

    def _solved(self, lr: float, order: int, steps: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """E psi psi^T (D + 1, D + 1) with h = lr/parts, and the size that each entry is held to."""
        P = LinearMoments(self.problem.at(0.0), self.theta0)._start
        h, largest = lr / parts, P.diagonal()[1:].max()
        for k in range(steps * parts):
            early, late = (self._generator_at((k + 0.5 + sign * 3**0.5 / 6) * h, lr, order) for sign in (-1, 1))
            step = expm(h / 2 * (early + late) - 3**0.5 / 12 * h**2 * (early @ late - late @ early))
            P = (step @ P.flatten()).reshape(P.shape)
            largest = max(largest, P.diagonal()[1:].max())
        sizes = np.concatenate([[1.0], np.full(len(P) - 1, (largest or 1.0) ** 0.5)])
        return P, np.outer(sizes, sizes)

    def _generator_at(self, time: float, lr: float, order: int) -> np.ndarray:
        """The linear map of vec P in the moment equation at one time."""
        moments = LinearMoments(self.problem.at(time), self.theta0)
        generator = moments._generator(lr, order)
        if order == 2:  # the term -lr/2 d_t b of the drift
            slope = -lr / 2 * _affine(lambda theta: self.problem.drift_slope(time, theta), self.problem.dim)
            identity = np.eye(len(slope))
            generator = generator + np.kron(slope, identity) + np.kron(identity, slope)
        return generator


def _affine(function: Any, dim: int) -> np.ndarray:
    """Matrix on (1, theta) of an affine function of theta, with a first row of zeros (psi_0 = 1 does not move)."""
    points = torch.cat(
        [torch.zeros(1, dim, dtype=torch.float64, device="cpu"), torch.eye(dim, dtype=torch.float64, device="cpu")]
    )
    values = function(points)
    matrix = torch.cat([values[:1], values[1:] - values[:1]]).mT
    trial = torch.linspace(-1.3, 2.1, dim, dtype=torch.float64, device="cpu")
    predicted = matrix @ torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), trial])
    if not torch.allclose(function(trial[None])[0], predicted, rtol=1e-9, atol=1e-9):
        raise SmesolveError(
            "problem must have a gradient affine in theta for exact moments; use LinearNetwork, whose readout alone is "
            "trained."
        )
    return np.concatenate([np.zeros((1, dim + 1)), matrix.cpu().numpy()])


@dataclass(frozen=True)
class ScalarDropout:
    """First and second moment of u = a/keep_prob - y in the scalar model f = eta a, L = (eta a - y)^2 / 2."""

    mean: float
    second_moment: float
    stability_limit: float
    """Learning rate from which the second moment grows without bound."""


@checked
def scalar_dropout(keep_prob: float, lr: float, horizon: float, u0: float = 1.0) -> dict[str, ScalarDropout]:
    """Closed forms for one neuron, one sample, unit feature: "iteration", "order 1", "order 2".

    With k = keep_prob, the iteration multiplies u by 1 (probability 1 - k) or 1 - lr/k^2 (probability k); the equations
    are geometric Brownian motions. Mean-square stable for lr < 2 k^2, 2 k^2/(1 - k) and, at order 2, 2 k^2/(1 - 2k)
    (any lr where k >= 1/2).
    """
    k = keep_prob
    steps = grid_steps(horizon, lr, "horizon", "lr")
    moments = {
        "iteration": ScalarDropout(
            (1 - lr / k) ** steps * u0, (1 - 2 * lr / k + lr**2 / k**3) ** steps * u0**2, 2 * k**2
        )
    }
    for order in (1, 2):
        rate = 1 / k * (1 + (order - 1) * lr / (2 * k))
        spread = lr * (1 / k - 1) / k**2
        room = 1 - order * k
        moments[f"order {order}"] = ScalarDropout(
            float(np.exp(-rate * horizon)) * u0,
            float(np.exp((-2 * rate + spread) * horizon)) * u0**2,
            2 * k**2 / room if room > 0 else float("inf"),
        )
    return moments
