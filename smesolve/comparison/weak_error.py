"""Weak error of the modified equation, with an error budget.

For each learning rate, order, time t = k lr and observable g,

    error = E g(Theta_t) - E g(theta_k)  =  difference of two Monte Carlo means  +-  1.96 standard errors
                                            +-  bias of the scheme.

Both means use control variates (`smesolve.comparison.control_variate`). The scheme's bias at step dt is estimated from
paths at dt and dt/2 on one Brownian motion: since the leading term of every scheme here is at least first order in dt,
|bias(dt)| <= 2 |E g(dt) - E g(dt/2)|. An error smaller than the sum of its interval and the bias is called unresolved.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from smesolve.comparison.control_variate import DENSE_DIM, ControlVariate, NoiseFreePath, ValueHessians, value_hessians
from smesolve.comparison.estimate import Estimate, Sampler, difference, estimate
from smesolve.comparison.leading_error import leading_constants
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.order_fit import fit_orders
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration, check_lr
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.solver.brownian import grid_steps
from smesolve.solver.integration import Integration
from smesolve.solver.modified_equation import ModifiedEquation, check_order
from smesolve.solver.schemes import SCHEMES

__all__ = ["CONFIDENCE", "CONTROLS", "WeakErrorStudy", "weak_error"]

CONFIDENCE = 0.95
"""Of every interval."""

CONTROLS = ("auto", "none", "first", "second")
"""Control variates: none, the adjoint's, the adjoint's and the value Hessian's, or chosen from D."""

SECOND_ORDER_DIM = 4096
"""Beyond this D the Hessians (D^2 numbers each) are left out by control="auto"."""

BIAS_SHARE = 0.1
"""The scheme's bias is brought under this share of the error, where dt is chosen here."""

MAX_HALVINGS = 3
"""Times that dt = lr is halved in search of a small bias."""

_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class WeakErrorStudy:
    """Weak errors of the modified equation for several learning rates and orders."""

    table: pd.DataFrame
    """A row for each order, lr, time and observable: `discrete` and `sde` (means), signed `error` = sde - discrete,
    its Monte Carlo `stderr`, 95% interval `low`, `high` (Monte Carlo and bias together), `solver_bias` and
    `solver_bias_stderr` at step `dt`, paths on each side, kurtosis (the larger side), the factor `gain` by which
    control variates shorten the error bar, `diverged` paths, `resolved`, and `reason` where it is not resolved."""

    samples: dict[tuple[float, str], dict[str, np.ndarray]]
    """(lr, "dropout" | "order 1" | "order 2") -> observable -> values at the last time, one a path."""

    constants: pd.DataFrame
    """Predicted leading constants: order, time, observable, constant."""

    horizon: float
    """Last time."""

    def fit(self, at: str = "final") -> pd.DataFrame:
        """Orders with intervals: order, observable, slope, slope_low, slope_high, constant, predicted_constant, ...

        Args:
            at: "final" for the error at the horizon, "max" for the largest over the times (`maximum`).
        """
        if at not in ("final", "max"):
            raise ValueError(f"at must be 'final' or 'max', got {at!r}.")
        rows = self.table[np.isclose(self.table.time, self.horizon)] if at == "final" else self.maximum()
        return fit_orders(
            rows, self.constants[np.isclose(self.constants.time, self.horizon)] if at == "final" else None
        )

    def maximum(self) -> pd.DataFrame:
        """Largest |error| over the times of the study, as in the theorem: max_k |E g(theta_k) - E g(Theta_{k lr})|.

        `low` and `high` hold for all times at once (Bonferroni), so the maximum lies between them at 95%.
        """
        times = self.table.time.nunique()
        widen = stats.norm.ppf(1 - (1 - CONFIDENCE) / 2 / times) / _Z
        rows = []
        for (order, lr, observable), group in self.table.groupby(["order", "lr", "observable"], sort=False):
            half = widen * (group.high - group.low) / 2
            low, high = (group.error.abs() - half).clip(lower=0).max(), (group.error.abs() + half).max()
            largest = group.loc[group.error.abs().idxmax()] if group.error.notna().all() else group.iloc[-1]
            rows.append(
                {
                    "order": order,
                    "lr": lr,
                    "observable": observable,
                    "time": largest.time,
                    "error": abs(largest.error),
                    "stderr": largest.stderr * widen,
                    "solver_bias": largest.solver_bias,
                    "solver_bias_stderr": largest.solver_bias_stderr,
                    "low": low,
                    "high": high,
                    "resolved": bool(low > 0),
                }
            )
        return pd.DataFrame(rows)


@torch.no_grad()
def weak_error(
    problem: DropoutProblem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    orders: Sequence[int] = (1, 2),
    observables: Sequence[str | Observable] = ("loss",),
    times: Sequence[float] | None = None,
    paths: int = 1024,
    rel_tol: float | None = None,
    max_paths: int = 2**17,
    scheme: str = "small_noise_rk4",
    dt: float | None = None,
    control: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> WeakErrorStudy:
    """Measure |E g(theta_k) - E g(Theta_{k lr})| for several learning rates and orders.

    Args:
        problem: the dropout problem.
        theta0: (D,), the start of iteration and equation.
        lrs: learning rates; each divides the horizon and all times.
        horizon: last time T; the iteration takes T/lr steps.
        orders: of the modified equation, 1 and/or 2.
        observables: names ("loss", "modified_loss", "squared_norm", "theta[0]", see `OBSERVABLES`) or callables.
        times: times of observation, the last one the horizon; unless given, a grid of at most five that all lrs divide.
        paths: independent paths on each side; the first round where rel_tol is given.
        rel_tol: paths are added until the 95% interval of every error at the horizon is at most this share of the
            error, or max_paths is reached.
        max_paths: bound on the paths of each side.
        scheme: of the equation, a name in `SCHEMES`.
        dt: step of the scheme for all lrs. Unless given: lr, halved (at most three times) until the bias is under a
            tenth of the error; lr/8 for "euler".
        control: control variates: "none", "first" (adjoint), "second" (adjoint and value Hessian; D^2 memory), or
            "auto": second for D <= 256, or for D <= 4096 when rel_tol asks for precision, else first.
        seed: root seed. Learning rates use independent streams; orders share Brownian motions.
        progress: show progress bars.

    Returns:
        A `WeakErrorStudy`.

    Raises:
        ValueError: bad arguments (one sentence that names the argument and the remedy), or a learning rate beyond
            the stability limit 2 / lambda_max(Hess L_S(theta0)).

    Warns:
        NothingTestedWarning: Euler with dt = lr on order 1.
        DivergenceWarning: diverged paths; their rows have no mean and are not resolved.

    Cost: paths x horizon/lr steps for the iteration and each order, and half as much again for the bias.
    """
    lrs, orders = [float(lr) for lr in lrs], list(orders)
    if not lrs or not orders:
        raise ValueError(f"lrs and orders must each hold at least one value, got lrs={lrs} and orders={orders}.")
    for lr in lrs:
        check_lr(lr)
    for name, values in (("lrs", lrs), ("orders", orders)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds a value twice: {values}.")
    for order in orders:
        check_order(order)
    if control not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}.")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}.")
    if rel_tol is not None and not 0 < rel_tol < 1:
        raise ValueError(f"rel_tol must lie in (0, 1), got {rel_tol!r}; 0.1 asks for errors known to 10%.")
    if not isinstance(paths, int) or paths < 2:
        raise ValueError(f"paths must be an integer of at least 2, got {paths!r}.")
    if rel_tol is not None and max_paths < paths:
        raise ValueError(f"max_paths={max_paths} is below paths={paths}; raise it.")
    times = _observation_times(lrs, horizon, times)
    if dt is not None:
        for time in times:
            grid_steps(time, dt, "the time")
    functions = named_observables(problem, observables)
    limit = problem.stability_limit(theta0)
    for lr in lrs:
        if lr >= limit:
            raise ValueError(
                f"lr={lr:g} is beyond the stability limit {limit:.4g} = 2/lambda_max(Hess L_S(theta0)), where the mean "
                "iteration diverges; take a smaller lr."
            )

    rows, samples = [], {}
    for lr in tqdm(lrs, desc="learning rates", disable=not progress):
        comparison = _Comparison(
            problem,
            theta0,
            lr,
            times,
            orders,
            functions,
            scheme,
            dt,
            _control(control, problem, rel_tol),
            seed,
            progress,
        )
        comparison.run(paths, rel_tol, max_paths)
        rows += comparison.rows(rel_tol)
        samples |= comparison.samples()
    table = pd.DataFrame(rows)
    if table.diverged.any():
        lost = ", ".join(f"{lr:g}" for lr in table[table.diverged > 0].lr.unique())
        warnings.warn(
            f"Paths diverged at lr = {lost}: those rows have no mean and are unresolved; take a smaller lr.",
            DivergenceWarning,
            stacklevel=2,
        )
    return WeakErrorStudy(
        table, samples, leading_constants(problem, theta0, times, functions, min(lrs), orders), times[-1]
    )


def _observation_times(lrs: Sequence[float], horizon: float, times: Sequence[float] | None) -> list[float]:
    for lr in lrs:
        grid_steps(horizon, lr, "horizon", "lr")
    if times is None:
        for parts in (5, 4, 3, 2, 1):
            grid = [horizon * (k + 1) / parts for k in range(parts)]
            if all(abs(time / lr - round(time / lr)) < 1e-9 * time / lr for lr in lrs for time in grid):
                return grid
    times = [float(time) for time in times]
    if any(b <= a for a, b in zip([0.0, *times], times, strict=False)) or abs(times[-1] - horizon) > 1e-12 * horizon:
        raise ValueError(f"times must increase from above 0 to the horizon {horizon:g}, got {times}.")
    for lr in lrs:
        for time in times:
            grid_steps(time, lr, "the time", "lr")
    return times


def _control(control: str, problem: DropoutProblem, rel_tol: float | None) -> str:
    if control != "auto":
        return control
    affordable = problem.dim <= DENSE_DIM or (problem.dim <= SECOND_ORDER_DIM and rel_tol is not None)
    return "second" if affordable else "first"


class _Side:
    """The equation of one order under one dt: its sampler at dt, and the same paths at dt/2."""

    def __init__(self, owner: _Comparison, order: int, dt: float) -> None:
        self.order, self.dt = order, dt
        self.coarse = self._sampler(owner, dt, 2)
        self.fine = self._sampler(owner, dt / 2, 1)
        scheme = SCHEMES[owner.scheme]
        gradients = scheme.drift_evaluations + 1.5 * scheme.noise_products + 4 * scheme.corrections * (order - 1)
        self.cost = gradients * owner.lr / dt

    def _sampler(self, owner: _Comparison, dt: float, nested: int) -> Sampler:
        sde = ModifiedEquation(owner.problem, owner.lr, self.order)
        process = Integration(sde, owner.theta0, owner.scheme, dt, owner.seed, nested)
        label = f"lr {owner.lr:g}, order {self.order}, dt {dt:g}"
        return owner.sampler(process, dt, label)


class _Comparison:
    """All that is measured at one learning rate: the iteration, and the equation of each order."""

    def __init__(
        self,
        problem: DropoutProblem,
        theta0: Tensor,
        lr: float,
        times: list[float],
        orders: list[int],
        observables: dict[str, Observable],
        scheme: str,
        dt: float | None,
        control: str,
        seed: int,
        progress: bool,
    ) -> None:
        self.problem, self.theta0, self.lr, self.times = problem, theta0, lr, times
        self.observables, self.scheme, self.control = observables, scheme, control
        self.progress = progress
        # Independent streams for each lr, whatever other lrs there are: the key is the number itself.
        self.seed = int(
            np.random.SeedSequence([seed, int(np.float64(lr).view(np.uint64))]).generate_state(1, np.uint64)[0]
        )
        self.hessians: ValueHessians | None = None
        if control == "second":
            saved = [grid_steps(time, lr, "time", "lr") for time in times]
            self.hessians = value_hessians(problem, theta0, lr, saved, observables)
        self.chosen_dt = dt is None
        first_dt = dt if dt is not None else (lr / 8 if scheme == "euler" else lr)
        self.dropout = self.sampler(DropoutIteration(problem, lr, self.seed), lr, f"lr {lr:g}, dropout")
        self.sides = [_Side(self, order, first_dt) for order in orders]

    def sampler(self, process: DropoutIteration | Integration, step_time: float, label: str) -> Sampler:
        """A sampler of a process with its control variates."""
        saved = [grid_steps(time, step_time, "time") for time in self.times]
        control = None
        if self.control != "none":
            path = NoiseFreePath.of(process, self.theta0, saved, self.observables)
            control = ControlVariate(path, step_time, self.hessians)
        return Sampler(process, self.theta0, saved, self.observables, control, label)

    def run(self, paths: int, rel_tol: float | None, max_paths: int) -> None:
        """Draw `paths` paths, then as many more as the tolerance asks for."""
        pilot = max(2, paths // 4)
        self.dropout.draw(paths, self.progress)
        for index in range(len(self.sides)):
            self._draw_side(index, paths, pilot)
        if rel_tol is None:
            return
        while True:
            wanted = [self._wanted(side, rel_tol) for side in self.sides]
            more = [
                (self.dropout, max(dropout for dropout, _, _ in wanted)),
                *((side.coarse, coarse) for side, (_, coarse, _) in zip(self.sides, wanted, strict=True)),
                *((side.fine, fine) for side, (_, _, fine) in zip(self.sides, wanted, strict=True)),
            ]
            # At most four times as many a round: the first errors that set the aim are themselves uncertain.
            steps = [(sampler, min(aim, 4 * sampler.paths, max_paths)) for sampler, aim in more]
            steps = [(sampler, aim) for sampler, aim in steps if aim > sampler.paths]
            if not steps:
                return
            for sampler, aim in steps:
                sampler.draw(aim, self.progress)

    def _draw_side(self, index: int, paths: int, pilot: int) -> None:
        """Draw one order's paths, halving dt while the bias, seen on a pilot, is too large."""
        for halvings in range(MAX_HALVINGS + 1):
            side = self.sides[index]
            side.coarse.draw(paths, self.progress)
            side.fine.draw(pilot, self.progress)
            error, _ = self._errors(side)
            bias = 2 * difference(side.coarse, side.fine).mean
            worst = np.abs(bias[-1]) > BIAS_SHARE * np.abs(error[-1])
            clear = np.abs(bias[-1]) > 2 * _Z * difference(side.coarse, side.fine).stderr[-1]
            if not self.chosen_dt or halvings == MAX_HALVINGS or not (worst & clear).any():
                return
            self.sides[index] = _Side(self, side.order, side.dt / 2)

    def _errors(self, side: _Side) -> tuple[np.ndarray, np.ndarray]:
        """Signed error and its Monte Carlo standard error, (T, O)."""
        a, b = estimate(side.coarse), estimate(self.dropout)
        return a.mean - b.mean, np.hypot(a.stderr, b.stderr)

    def _wanted(self, side: _Side, rel_tol: float) -> tuple[int, int, int]:
        """Paths of the iteration, of the equation and of its dt/2 pairs that meet the tolerance at the horizon.

        Minimal work for a variance s_1^2/n_1 + s_2^2/n_2 is at n_i proportional to s_i / sqrt(cost_i). The pairs get
        a tenth of the error as their 95% half-width, like the bias itself.
        """
        dropout, equation, bias = estimate(self.dropout), estimate(side.coarse), difference(side.coarse, side.fine)
        if dropout.diverged or equation.diverged or bias.diverged:
            return 0, 0, 0
        error = np.abs(equation.mean - dropout.mean)[-1]
        spread = [part.stderr[-1] * part.paths**0.5 for part in (dropout, equation, bias)]
        cost = np.array([1.5, side.cost])
        with np.errstate(divide="ignore", invalid="ignore"):
            target = (rel_tol * error / _Z) ** 2
            work = (spread[0] * cost[0] ** 0.5 + spread[1] * cost[1] ** 0.5) / target
            counts = [spread[0] / cost[0] ** 0.5 * work, spread[1] / cost[1] ** 0.5 * work]
            counts.append((2 * spread[2] / (BIAS_SHARE * error / _Z)) ** 2)
        return tuple(int(min(np.ceil(np.nan_to_num(count, posinf=2**40)).max(), 2**40)) for count in counts)

    def rows(self, rel_tol: float | None) -> list[dict[str, object]]:
        """The table rows of this learning rate."""
        dropout = estimate(self.dropout)
        rows = []
        for side in self.sides:
            equation, bias = estimate(side.coarse), difference(side.coarse, side.fine)
            for (row, time), (column, name) in (
                (r, c) for r in enumerate(self.times) for c in enumerate(self.observables)
            ):
                rows.append(self._row(side, time, name, (row, column), dropout, equation, bias, rel_tol))
        return rows

    def _row(
        self,
        side: _Side,
        time: float,
        name: str,
        at: tuple[int, int],
        dropout: Estimate,
        equation: Estimate,
        bias: Estimate,
        rel_tol: float | None,
    ) -> dict[str, object]:
        error = equation.mean[at] - dropout.mean[at]
        stderr = np.hypot(equation.stderr[at], dropout.stderr[at])
        solver_bias, bias_stderr = 2 * bias.mean[at], 2 * bias.stderr[at]
        half = _Z * stderr + abs(solver_bias) + _Z * bias_stderr
        diverged = dropout.diverged + equation.diverged
        reason = ""
        if diverged:
            reason = "diverged"
        elif not abs(error) > _Z * stderr:
            reason = "inside its Monte Carlo interval"
        elif not abs(error) > half:
            reason = "inside the solver bias"
        elif rel_tol is not None and time == self.times[-1] and _Z * stderr > 1.05 * rel_tol * abs(error):
            reason = "above rel_tol at max_paths"
        return {
            "order": side.order,
            "lr": self.lr,
            "time": time,
            "observable": name,
            "discrete": dropout.mean[at],
            "sde": equation.mean[at],
            "error": error,
            "stderr": stderr,
            "low": error - half,
            "high": error + half,
            "solver_bias": solver_bias,
            "solver_bias_stderr": bias_stderr,
            "dt": side.dt,
            "paths": min(dropout.paths, equation.paths),
            "discrete_paths": dropout.paths,
            "sde_paths": equation.paths,
            "discrete_stderr": dropout.stderr[at],
            "sde_stderr": equation.stderr[at],
            "kurtosis": max(dropout.kurtosis[at], equation.kurtosis[at]),
            "gain": np.hypot(
                dropout.plain_stderr[at] * dropout.paths**0.5, equation.plain_stderr[at] * equation.paths**0.5
            )
            / np.hypot(dropout.stderr[at] * dropout.paths**0.5, equation.stderr[at] * equation.paths**0.5),
            "diverged": diverged,
            "resolved": reason in ("", "above rel_tol at max_paths"),
            "reason": reason,
        }

    def samples(self) -> dict[tuple[float, str], dict[str, np.ndarray]]:
        """Values of the observables at the last time, one a path."""
        ensembles = {"dropout": self.dropout, **{f"order {side.order}": side.coarse for side in self.sides}}
        return {
            (self.lr, label): {name: sampler.values[0, :, -1, k] for k, name in enumerate(self.observables)}
            for label, sampler in ensembles.items()
        }
