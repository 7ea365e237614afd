"""The error budget at one learning rate: iteration against the equation of each order.

error = E g(Theta_t) - E g(theta_k)  +-  1.96 standard errors of the two means  +-  bias of the scheme
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from smesolve.comparison.control_variate import ControlVariate, NoiseFreePath, ValueHessians
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.equation_side import EquationSide
from smesolve.comparison.estimate import Estimate, Sampler, estimate
from smesolve.comparison.observables import Observable
from smesolve.comparison.weak_error_study import NORMAL_QUANTILE
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Process
from smesolve.solver.brownian import grid_steps
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES

__all__ = ["BIAS_SHARE", "MAX_HALVINGS", "ErrorBudget"]

BIAS_SHARE = 0.1
"""The scheme's bias is brought under this share of the error, where dt is not given."""

MAX_HALVINGS = 3
"""Times that dt is halved in search of a small bias."""

GROWTH = 4
"""Largest factor by which a round adds paths: the errors that set its aim are themselves uncertain."""


class ErrorBudget:
    """All that is measured at one learning rate.

    Args:
        problem, theta0, lr, times, observables, scheme: as `weak_error` takes them.
        orders: of the equations.
        dt: step of the scheme, or None to choose it.
        control: "none", "first" or "second".
        hessians: for "second".
        seed: root seed of the study; each lr derives its own streams from it.
        progress: show progress bars.
    """

    def __init__(
        self,
        problem: Problem,
        theta0: Tensor,
        lr: float,
        times: Sequence[float],
        orders: Sequence[int],
        observables: dict[str, Observable],
        scheme: str,
        dt: float | None,
        control: str,
        hessians: ValueHessians | None,
        seed: int,
        progress: bool,
    ) -> None:
        self.problem, self.theta0, self.lr, self.times = problem, theta0, lr, list(times)
        self.observables, self.scheme, self.control, self.progress = observables, scheme, control, progress
        # Independent streams for each lr, whatever other lrs there are: the key is the number itself.
        key = [seed, int(np.float64(lr).view(np.uint64))]
        self.seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        saved = [grid_steps(time, lr, "time", "lr") for time in times]
        self._hessians = hessians
        iteration = DropoutIteration(problem, lr, self.seed)
        self.dropout = Sampler(
            iteration, theta0, saved, observables, self._control_of(iteration, lr), f"lr {lr:g}, dropout"
        )
        self._halvings_left = [MAX_HALVINGS if dt is None else 0 for _ in orders]
        first_dt = dt if dt is not None else (lr / 8 if SCHEMES[scheme].weak_error == "dt" else lr)
        self.sides = [self._side(order, first_dt) for order in orders]

    def _control_of(self, process: Process, step_time: float) -> ControlVariate | DrawControl | None:
        if self.control == "none":
            return None
        saved = [grid_steps(time, step_time, "time") for time in self.times]
        path = NoiseFreePath.of(process, self.theta0, saved, self.observables)
        if not self.problem.exact:
            return DrawControl.of(self.problem, path)
        return ControlVariate(path, step_time, process.noise_time, self.lr * step_time, self._hessians)

    def _side(self, order: int, dt: float) -> EquationSide:
        equation = ModifiedEquation(self.problem, self.lr, order)
        return EquationSide(
            equation, self.theta0, self.times, self.observables, self.scheme, dt, self.seed, self._control_of
        )

    def draw(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths on each side, a quarter of them in pairs (64 where there are as many: the coefficients of
        the control variates are fitted on them); then as many more as the tolerance asks for.

        A dt that was not given is halved while the bias at the horizon is significant and above its share.
        """
        aims = [paths, *[(paths, max(min(paths, 64), paths // 4))] * len(self.sides)]
        while True:
            self.dropout.draw(aims[0], self.progress)
            for index, (coarse, fine) in enumerate(aims[1:]):
                self._draw_side(index, coarse, fine)
            if rel_tol is None:
                return
            wanted = [self._wanted(side, rel_tol) for side in self.sides]
            aims = [self._next(self.dropout, max(w[0] for w in wanted), max_paths)]
            aims += [
                (self._next(side.coarse, w[1], max_paths), self._next(side.fine, w[2], max_paths))
                for side, w in zip(self.sides, wanted, strict=True)
            ]
            if self._reached(aims):
                return

    @staticmethod
    def _next(sampler: Sampler, wanted: int, max_paths: int) -> int:
        return max(sampler.paths, min(wanted, GROWTH * sampler.paths, max_paths))

    def _reached(self, aims: list) -> bool:
        pairs = zip(self.sides, aims[1:], strict=True)
        return aims[0] <= self.dropout.paths and all(
            coarse <= side.coarse.paths and fine <= side.fine.paths for side, (coarse, fine) in pairs
        )

    def _draw_side(self, index: int, coarse: int, fine: int) -> None:
        while True:
            side = self.sides[index]
            side.coarse.draw(coarse, self.progress)
            side.fine.draw(fine, self.progress)
            error = estimate(side.coarse).mean - estimate(self.dropout).mean
            bias, stderr, _ = side.bias()
            large = (np.abs(bias) > BIAS_SHARE * np.abs(error)) & (np.abs(bias) > NORMAL_QUANTILE * stderr)
            if not self._halvings_left[index] or not large[-1].any():
                return
            self._halvings_left[index] -= 1
            self.sides[index] = self._side(side.equation.order, side.dt / 2)

    def _wanted(self, side: EquationSide, rel_tol: float) -> tuple[int, int, int]:
        """Paths of the iteration, of the equation and of its dt/2 pairs that meet the tolerance at the horizon.

        Work is minimal for a variance s_1^2/n_1 + s_2^2/n_2 at n_i proportional to s_i / sqrt(cost_i). The pairs get
        a tenth of the error, or rel_tol where that is less, as their 95% half-width.
        """
        dropout, equation = estimate(self.dropout), estimate(side.coarse)
        bias, _, spread_of_pair = side.bias()
        if not (np.isfinite(dropout.mean) & np.isfinite(equation.mean) & np.isfinite(bias)).all():
            return 0, 0, 0
        error = np.abs(equation.mean - dropout.mean)[-1]
        spread = [part.stderr[-1] * part.paths**0.5 for part in (dropout, equation)]
        root = [1.5**0.5, side.cost**0.5]
        with np.errstate(divide="ignore", invalid="ignore"):
            work = (spread[0] * root[0] + spread[1] * root[1]) / (rel_tol * error / NORMAL_QUANTILE) ** 2
            counts = [spread[0] / root[0] * work, spread[1] / root[1] * work]
            share = min(BIAS_SHARE, rel_tol)
            counts.append((spread_of_pair[-1] / (share * error / NORMAL_QUANTILE)) ** 2)
        # a spread of zero over an error of zero (no noise at all) asks for nothing
        finite = [np.minimum(np.nan_to_num(count, posinf=2.0**40), 2.0**40) for count in counts]
        dropout_paths, coarse, fine = (int(np.ceil(count.max())) for count in finite)
        return dropout_paths, coarse, min(fine, max(coarse, side.coarse.paths))

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """The table rows of this learning rate."""
        dropout = estimate(self.dropout)
        rows = []
        for side in self.sides:
            equation = estimate(side.coarse)
            bias, bias_stderr, _ = side.bias()
            for row, time in enumerate(self.times):
                for column, name in enumerate(self.observables):
                    at = row, column
                    budget = _budget(
                        at, dropout, equation, bias, bias_stderr, rel_tol if row == len(self.times) - 1 else None
                    )
                    head = {"order": side.equation.order, "lr": self.lr, "time": time, "observable": name}
                    rows.append(head | budget | {"dt": side.dt, "scheme": self.scheme})
        return rows

    def samples(self) -> dict[tuple[float, str], dict[str, np.ndarray]]:
        """Values of the observables at the last time, one a path."""
        ensembles = {"dropout": self.dropout, **{f"order {side.equation.order}": side.coarse for side in self.sides}}
        return {
            (self.lr, label): {name: sampler.values[0, :, -1, k] for k, name in enumerate(self.observables)}
            for label, sampler in ensembles.items()
        }


def _budget(
    at: tuple[int, int],
    dropout: Estimate,
    equation: Estimate,
    bias: np.ndarray,
    bias_stderr: np.ndarray,
    rel_tol: float | None,
) -> dict[str, object]:
    error = equation.mean[at] - dropout.mean[at]
    stderr = float(np.hypot(equation.stderr[at], dropout.stderr[at]))
    half = NORMAL_QUANTILE * stderr + abs(bias[at]) + NORMAL_QUANTILE * bias_stderr[at]
    diverged = dropout.diverged + equation.diverged
    reason = ""
    if diverged:
        reason = "diverged"
    elif not abs(error) > NORMAL_QUANTILE * stderr:
        reason = "inside its Monte Carlo interval"
    elif not abs(error) > half:
        reason = "inside the solver bias"
    elif rel_tol is not None and NORMAL_QUANTILE * stderr > 1.05 * rel_tol * abs(error):
        reason = "rel_tol not reached at max_paths"

    def spread(of_dropout: np.ndarray, of_equation: np.ndarray) -> float:
        return float(np.hypot(of_dropout[at] * dropout.paths**0.5, of_equation[at] * equation.paths**0.5))

    left = spread(dropout.stderr, equation.stderr)
    return {
        "discrete": dropout.mean[at],
        "sde": equation.mean[at],
        "error": error,
        "stderr": stderr,
        "low": error - half,
        "high": error + half,
        "solver_bias": bias[at],
        "solver_bias_stderr": bias_stderr[at],
        "paths": min(dropout.paths, equation.paths),
        "discrete_paths": dropout.paths,
        "sde_paths": equation.paths,
        "discrete_stderr": dropout.stderr[at],
        "sde_stderr": equation.stderr[at],
        "kurtosis": max(dropout.kurtosis[at], equation.kurtosis[at]),
        "gain": spread(dropout.plain_stderr, equation.plain_stderr) / left if left else np.nan,
        "diverged": diverged,
        "resolved": reason in ("", "rel_tol not reached at max_paths"),
        "reason": reason,
    }
