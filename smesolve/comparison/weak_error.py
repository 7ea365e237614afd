"""Weak error of the modified equation: |E g(theta_k) - E g(Theta_{k lr})| for several learning rates and orders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.arguments import ENSEMBLE, MOST_ENTRIES, checked
from smesolve.comparison.budget_row import NOT_FINITE
from smesolve.comparison.error_budget import ErrorBudget, first_dt, first_round_cost
from smesolve.comparison.leading_error import leading_constants
from smesolve.comparison.noise_free_path import DENSE_DIM
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.study_size import StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.comparison.weak_error_study import StudyInterrupted, WeakErrorStudy
from smesolve.errors import SmesolveError, shown
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import warn_of_divergence
from smesolve.sampling.journal import Journal
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Runner
from smesolve.solver.integration import check_declared, check_jumps, check_scheme
from smesolve.solver.modified_equation import check_order
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import NothingTestedWarning, what_tests_nothing
from smesolve.solver.time_grid import even_grid, grid_numbers, grid_steps, on_grid, on_step

__all__ = [
    "CONTROLS",
    "checked_observables",
    "chosen_control",
    "chosen_scheme",
    "learning_rates_and_times",
    "weak_error",
]

CONTROLS = ("auto", "none", "first", "second")
"""Control variates: none, the adjoint's, those of the value Hessian as well, or chosen from D."""

DEFAULT_TIMES = 5
"""Times of observation, at most, where none are given."""

SECOND_ORDER_DIM = 2**14
"""Beyond this D the value Hessians are left out by control="auto": each takes some 500 Hessian products to make."""


@checked(paths=ENSEMBLE)
@torch.no_grad()
def weak_error(
    problem: Problem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    orders: Sequence[int] = (1, 2),
    observables: Sequence[str | Observable] = ("loss",),
    times: Sequence[float] | None = None,
    paths: int = 1024,
    rel_tol: float | None = None,
    max_paths: int = 2**17,
    scheme: str | None = None,
    dt: float | None = None,
    control: str = "auto",
    seed: int = 0,
    progress: bool | None = None,
    workers: int | None = None,
    journal: Journal | None = None,
    keep: int = 0,
    max_memory: float | None = None,
) -> WeakErrorStudy:
    """Measure |E g(theta_k) - E g(Theta_{k lr})| for several learning rates and orders.

    Args:
        problem: what is trained.
        theta0: (D,), the start of iteration and equation.
        lrs: learning rates; each divides the horizon, all times and the jumps of a schedule.
        horizon: last time T; the iteration takes T/lr steps.
        orders: of the modified equation, 1 and/or 2.
        observables: names ("loss", "modified_loss", "squared_norm", "theta[0]", see `OBSERVABLES`) or callables.
        times: times of observation, the last one the horizon; unless given, a grid of at most five that all lrs divide.
        paths: independent paths on each side; the first round where rel_tol is given.
        rel_tol: paths are added until the 95% Monte Carlo half-width of every error at the horizon is at most this
            share of the error, or max_paths is reached; the solver's bias comes on top of it in `low` and `high`.
        max_paths: bound on the paths of each side.
        scheme: of the equation, a name in `SCHEMES`. Unless given: "small_noise_rk4", or "sampled_euler" where the
            problem's mean gradient is known by sampling alone.
        dt: step of the scheme for all lrs. Unless given: lr, halved (at most three times) until the bias is under a
            tenth of the error; lr/8 at first for schemes of weak error O(dt).
        control: control variates: "none", "first" (adjoint), "second" (adjoint and value Hessian), or "auto": second
            for D <= 2^14, else first. Problems whose mean gradient is not known have a first order of their own, in the
            draws.
        seed: root seed. Learning rates use independent streams; orders share Brownian motions.
        progress: show the progress of the whole study; on a terminal unless told.
        workers: processes that share the blocks of paths; the result is the same for any number of them. On a cluster,
            call this inside `joblib.parallel_config(backend="dask")`.
        journal: keeps every finished block on disk and finds it again; one journal serves one study alone.
        keep: paths of each ensemble whose values at the last time are kept (`WeakErrorStudy.samples`).
        max_memory: bytes that control variates, one block and its statistics may take, in all processes together; more
            are refused. Default: the memory of this machine.

    Returns:
        A `WeakErrorStudy`.

    Raises:
        SmesolveError: bad arguments (one sentence that names the argument and the remedy), or a learning rate beyond
            the stability limit 2 / lambda_max(Hess L_S(theta0)), under a schedule the least one up to the horizon.
        StudyInterrupted: a KeyboardInterrupt, with a table of what was known by then.

    Warns:
        NothingTestedWarning: dt = lr on order 1, for schemes whose step then is that of the iteration.
        DivergenceWarning: diverged paths; their rows have no mean and are not resolved.

    Cost: paths x horizon/lr steps for the iteration and each order, and half as much again for the bias. Memory does
    not depend on the number of paths.
    """
    check_orders(orders)
    if control not in CONTROLS:
        raise SmesolveError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}.")
    scheme = chosen_scheme(scheme, problem)
    check_scheme(problem, scheme)
    check_declared(scheme)
    if rel_tol is not None and max_paths < paths:
        raise SmesolveError(f"max_paths={max_paths} is below paths={paths}; raise it.")
    lrs, times = learning_rates_and_times(lrs, horizon, times)
    functions = checked_observables(problem, theta0, lrs, times, dt, observables)
    chosen = chosen_control(control, problem)
    for lr, order in product(lrs, orders):
        nothing = what_tests_nothing(SCHEMES[scheme], scheme, order, lr, first_dt(scheme, lr, dt))
        if nothing:
            warnings.warn(nothing, NothingTestedWarning, stacklevel=4)  # 4: past the guards
    sizes = len(orders), len(functions)
    StudySize(problem, theta0, lrs, times, *sizes, chosen, scheme, dt, paths, workers).check(max_memory)
    hessians = None
    rows: list[dict[str, object]] = []
    samples: dict[tuple[float, str], dict[str, np.ndarray]] = {}
    work = sum(first_round_cost(problem, lr, times, orders, scheme, dt, paths) for lr in lrs)
    with Progress(progress, work) as bar:
        runner = Runner(workers, journal, bar)
        for number, lr in enumerate(lrs, start=1):
            bar.describe(f"lr {lr:g} ({number} of {len(lrs)} learning rates)")
            budget = None
            try:
                if chosen == "second" and (hessians is None or problem.dim <= DENSE_DIM):
                    hessians = None  # those of the last learning rate are not held beside the new ones
                    hessians = value_hessians(problem, theta0, times, functions, lr)
                budget = ErrorBudget(
                    problem, theta0, lr, times, orders, functions, scheme, dt, chosen, hessians, seed, runner, keep
                )
                budget.draw(paths, rel_tol, max_paths)
            except KeyboardInterrupt:
                latest = budget.rows(None) if budget else []
                table = [row | {"final": True} for row in rows] + [row | {"final": False} for row in latest]
                raise StudyInterrupted(pd.DataFrame(table)) from None
            rows += budget.rows(rel_tol)
            samples |= budget.samples()
    table = pd.DataFrame(rows)
    if table.diverged.any():
        lost = ", ".join(f"{lr:g}" for lr in table[table.diverged > 0].lr.unique())
        warn_of_divergence(
            f"Paths diverged at lr = {lost}: those rows have no mean and are unresolved; take a smaller lr."
        )
    for name in table[table.reason.str.startswith(NOT_FINITE)].observable.unique():
        warnings.warn(
            f"The observable {name!r} is not finite on some paths: those rows have no mean and are unresolved; take an "
            "observable that is defined everywhere.",
            RuntimeWarning,
            stacklevel=2,
        )
    predict = partial(leading_constants, problem, theta0, times, functions, min(lrs), orders)
    return WeakErrorStudy(table, samples, times[-1], predict)


def check_orders(orders: Sequence[int]) -> None:
    """Refuse an order that stands there twice, or that no weak order belongs to."""
    if len(set(orders)) < len(orders):
        raise SmesolveError(f"orders holds a value twice: {shown(list(orders))}; leave one of them out.")
    for order in orders:
        check_order(order)
        if order == "quadratic":
            raise SmesolveError(
                "orders must be 1 and/or 2: the quadratic equation has no weak order of its own to certify."
            )


def checked_observables(
    problem: Problem,
    theta0: Tensor,
    lrs: Sequence[float],
    times: Sequence[float],
    dt: float | None,
    observables: Sequence[str | Observable],
) -> dict[str, Observable]:
    """The observables by name, after dt and lrs were found to fit the times, the schedule and the stability limit."""
    if dt is not None:
        check_jumps(problem, dt, times[-1])
        grid_numbers(times, dt, "times")
    functions = named_observables(problem, observables)
    limit = problem.stability_limit(theta0, times[-1])
    for lr in lrs:
        check_jumps(problem, lr, times[-1], "lr")
        if lr >= limit:
            curvature = (
                "Hess L_S(theta0)" if problem.autonomous else "Hess L_S(theta0) at the worst time of the schedule"
            )
            raise SmesolveError(
                f"lr={lr:g} is beyond the stability limit {limit:.4g} = 2/lambda_max({curvature}), where the mean "
                "iteration diverges; take a smaller lr."
            )
    return functions


def learning_rates_and_times(
    lrs: Sequence[float], horizon: float, times: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Learning rates and times of observation on their common grid, as float64.

    Default for times: the finest even grid of at most five that all learning rates divide.

    Raises:
        SmesolveError: more than 1000 learning rates; one does not divide the horizon or a time, two are the same up to
            rounding, or the times do not increase from above 0 to the horizon.
    """
    if len(lrs) > MOST_ENTRIES:
        raise SmesolveError(f"lrs has {len(lrs)} entries, more than {MOST_ENTRIES}; give fewer learning rates.")
    horizon = on_grid(horizon, lrs[0], "horizon", "lr")
    steps: dict[int, float] = {}
    for lr in lrs:
        count = grid_steps(horizon, lr, "horizon", "lr")
        if count in steps:
            raise SmesolveError(
                f"lrs holds a value twice, up to rounding: {float(steps[count])!r} and {float(lr)!r} both take {count} "
                "steps to the horizon; leave one of them out."
            )
        steps[count] = on_step(horizon, lr, count)
    rates = list(steps.values())
    if times is None:
        return rates, even_grid(horizon, rates, DEFAULT_TIMES) or [horizon]
    for lr in rates:
        numbers = grid_numbers(times, lr, "times", "lr")
        if numbers[-1] != grid_steps(horizon, lr, "horizon", "lr"):
            raise SmesolveError(
                f"times must increase from above 0 to the horizon {horizon:g}, but the last one is {times[-1]:g}; let "
                "them end at the horizon."
            )
    return rates, [on_grid(time, rates[0], "times", "lr") for time in times]


def chosen_scheme(scheme: str | None, problem: Problem) -> str:
    """The scheme asked for, or the one that serves the problem unless one is given."""
    return scheme or ("small_noise_rk4" if problem.exact else "sampled_euler")


def chosen_control(control: str, problem: Problem) -> str:
    """What "auto" stands for, and a refusal of control variates that a problem has not."""
    if not problem.exact:
        if control == "second":
            raise SmesolveError(
                "control='second' needs the mean gradient in closed form, which this problem does not have; take "
                "control='first'."
            )
        return "first" if control == "auto" else control
    if control != "auto":
        return control
    return "second" if problem.dim <= SECOND_ORDER_DIM else "first"
