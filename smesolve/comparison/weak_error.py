"""Weak error of the modified equation: |E g(theta_k) - E g(Theta_{k lr})| for several learning rates and orders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.defect_budget import DefectBudget, has_memory, with_bias
from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.leading_constants import leading_constants
from smesolve.comparison.noise_free_path import DENSE_DIM
from smesolve.comparison.outcomes import Status
from smesolve.comparison.paths_wanted import further_work
from smesolve.comparison.study_design import CONTROLS, StudyDesign, check_orders_of_defects
from smesolve.comparison.study_size import DefectSize, StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.comparison.weak_error_study import StudyInterrupted, WeakErrorStudy
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observables, ObservableWarning
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import warn_of_divergence
from smesolve.sampling.journal import Journal
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Runner
from smesolve.solver.orders import WITH_JUMPS, Order
from smesolve.solver.schemes import SCHEMES
from smesolve.validation import (
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_list,
    check_observables,
    check_optional,
    check_parameters,
    check_positive,
    check_problem,
    check_seed,
    check_tolerance,
    check_workers,
)

__all__ = ["ESTIMATORS", "chosen_estimator", "predicted_constants", "weak_error"]

ESTIMATORS = ("auto", "difference", "defects")
"""Names of the estimators."""


@entry_point
@torch.no_grad()
def weak_error(
    problem: Problem,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    *,
    orders: Sequence[Order] = (1, 2),
    observables: Observables = ("loss",),
    times: Sequence[float] | None = None,
    paths: int = 1024,
    rel_tol: float | None = None,
    max_paths: int = 2**17,
    scheme: str | None = None,
    dt: float | None = None,
    control: str = "auto",
    estimator: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    journal: Journal | None = None,
    progress: bool | None = None,
    keep: int = 0,
    max_memory: float | None = None,
) -> WeakErrorStudy:
    """Measure |E g(theta_k) - E g(Theta_{k lr})| for several learning rates and orders.

    Args:
        problem: what is trained.
        theta0: (D,), the start of iteration and equation.
        lrs: learning rates; each divides the horizon, all times and the jumps of a schedule, for defects all breaks. A
            single one is also measured at half its value where the bound on the bias of defects needs two.
        horizon: last time T; the iteration takes T/lr steps.

    Args: what is compared
        orders: orders of the modified equation: 1, 2, 3 and/or "poisson", which is training steps at the times of a
            Poisson process and has weak order 1. The equations 3 and "poisson" have jumps and are solved from jump to
            jump: they do not use `scheme`, and defects do not measure them. Default: 1 and 2.
        observables: names ("loss", "modified_loss", "squared_norm", "test_loss", "accuracy", "theta[0]", see
            `OBSERVABLES`) and callables, or a dict from names of your own to them. Default: the loss. Observables
            that jump, such as accuracies, have neither predicted constants nor defects.
        times: times of observation, the last one the horizon. Default: the finest even grid of at most five that all
            learning rates divide.

    Args: how precisely
        paths: number of independent paths on each side; with rel_tol, in the first round. They run in blocks of a power
            of two, from 8 on: fewer paths than the problem's `block_size` are one block of the smallest size that holds
            them, more paths are whole blocks. The column `paths` has their number. Default: 1024.
        rel_tol: paths are added until the 95% Monte Carlo half-width of every error at the horizon is at most this
            share of the error, or max_paths is reached. The interval of the solver's bias is added to it.
            Default: no paths are added.
        max_paths: largest number of paths of each side, up to whole blocks. With rel_tol, blocks are as large as these
            paths need. Default: 2^17.
        scheme: scheme for the equation, a name in `SCHEMES`. Default: "small_noise_rk4", or "sampled_euler" where the
            problem's mean gradient has no closed form.
        dt: step of the scheme for all learning rates. Default: lr, or lr/8 for schemes of weak error O(dt), halved at
            most three times until the bias is under a tenth of the error.
        control: control variates: "none", "first" (adjoint), "second" (adjoint and value Hessian), or "auto": second
            for D <= 2^14, else first. Problems whose mean gradient has no closed form have a first order of their own,
            in the draws. Default: "auto".
        estimator: "difference", the difference of the means of both sides; "defects", errors that are summed up along
            the discrete run, with a relative precision that does not depend on the learning rate
            (`smesolve.comparison.defects`); or "auto": the difference, which has no bias, where the mean gradient has
            a closed form, an observable jumps, orders holds 3 or "poisson", or scheme, dt, control
            or keep are given, which defects do not have; else defects. The column `estimator` names the choice.
            Default: "auto".

    Args: how it is run
        seed: root seed. Learning rates use independent streams; orders share Brownian motions. Default: 0.
        workers: number of processes, or threads for compiled kernels, that share the blocks; results do not depend on
            it. On a cluster, call this inside `joblib.parallel_config(backend="dask")`. Default: only this process.
        journal: a journal that keeps every finished block on disk, for one study. Default: none.
        progress: whether to show the progress of the whole study. Default: on a terminal and in a notebook only.
        keep: number of paths of each ensemble whose values at the horizon are kept (`WeakErrorStudy.samples`).
            Default: 0.
        max_memory: largest memory in bytes of control variates, one block and its statistics, in all processes
            together. Default: the memory of this machine.

    Returns:
        A `WeakErrorStudy`.

    Raises:
        SmesolveError: bad arguments, or a learning rate beyond the stability limit 2 / lambda_max(Hess L_S(theta0)),
            under a schedule the least limit up to the horizon.
        StudyInterrupted: a KeyboardInterrupt, with a table of the results up to the interruption.

    Warns:
        ObservableWarning: an observable jumps and has a derivative as well, or is not finite on some paths.
        NothingTestedWarning: dt = lr at order 1 with a scheme whose step is then the step of the iteration.
        DivergenceWarning: diverged paths; their rows have no mean and are not resolved.

    Cost: paths x horizon/lr steps for the iteration and each order, and for the equations a quarter as many again for
    the bias, twice as many for the first 64 paths. Memory does not depend on the number of paths.
    """
    problem = check_problem("problem", problem)
    paths, max_paths = check_integer("paths", paths, 2), check_integer("max_paths", max_paths)
    rel_tol = check_optional("rel_tol", rel_tol, check_tolerance)
    if rel_tol is not None and max_paths < paths:
        raise SmesolveError(f"max_paths={max_paths} is below paths={paths}; raise it.")
    workers = check_workers("workers", workers)
    if journal is not None:
        check_instance("journal", journal, Journal, "a Journal")
    check_optional("progress", progress, check_flag)
    max_memory = check_optional("max_memory", max_memory, check_positive)
    check_choice("estimator", estimator, ESTIMATORS)
    design = StudyDesign.of(
        problem.in_blocks_for(paths if rel_tol is None else max_paths),
        check_parameters("theta0", theta0, problem),
        check_list("lrs", lrs, check_positive),
        check_positive("horizon", horizon),
        orders=orders,
        observables=check_observables("observables", observables),
        times=None if times is None else check_list("times", times, check_positive),
        scheme=None if scheme is None else check_choice("scheme", scheme, SCHEMES),
        dt=check_optional("dt", dt, check_positive),
        control=check_choice("control", control, CONTROLS),
        seed=check_seed("seed", seed),
        keep=check_integer("keep", keep, 0),
    )
    given = {"scheme": scheme, "dt": dt, "control": None if control == "auto" else control, "keep": keep or None}
    if chosen_estimator(estimator, design, given) == "defects":
        by_defects = DefectSize(_with_half(design), paths, workers)
        by_defects.check(max_memory)
        work = by_defects.work + further_work(by_defects.work, rel_tol)
        with Progress(progress, work) as bar:
            table = _by_defects(design, paths, rel_tol, max_paths, Runner(workers, journal, bar))
        _warn_of_missing_means(table)
        return WeakErrorStudy(table, {}, design.horizon, predicted_constants(design), design.start)
    design.warn_of_nothing_tested(stacklevel=5)  # 5: past the decorators
    design.warn_of_jumps(stacklevel=5)
    size = StudySize(design, paths, workers)
    size.check(max_memory)
    with Progress(progress, size.work + further_work(size.work, rel_tol, dt is None)) as bar:
        table, samples = _measured(design, paths, rel_tol, max_paths, Runner(workers, journal, bar))
    _warn_of_missing_means(table)
    return WeakErrorStudy(table, samples, design.horizon, predicted_constants(design), design.start)


def chosen_estimator(estimator: str, design: StudyDesign, given: Mapping[str, object]) -> str:
    """Return the estimator, chosen for "auto", and refuse defects where they do not exist.

    `given` holds, by name, the values of the arguments that only the difference of means has; None where one is not
    given.

    Raises:
        SmesolveError: defects for an observable that jumps, or with an argument that only the
            difference has.
    """
    problem = design.problem
    jumping = [name for name in design.observables if name not in design.smooth_observables]
    used = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if estimator == "auto":
        by_jumps = [order for order in design.orders if order in WITH_JUMPS]
        by_difference = problem.has_closed_form or jumping or used or by_jumps
        return "difference" if by_difference else "defects"
    if estimator == "defects":
        check_orders_of_defects(design.orders)
        if jumping:
            raise SmesolveError(
                f"observables: {jumping[0]!r} jumps, and defects are made of derivatives; take estimator='difference'."
            )
        if used:
            raise SmesolveError(
                f"{used[0]} is for estimator='difference', and defects take no paths of the equation; leave it out, or "
                "take estimator='difference'."
            )
    return estimator


def predicted_constants(design: StudyDesign) -> Callable[[], pd.DataFrame]:
    """Return a function that computes the predicted constants of a study, for observables that do not jump."""
    return partial(
        leading_constants,
        design.problem,
        design.theta0,
        design.times,
        design.smooth_observables,
        min(design.lrs),
        design.orders,
        design.stability_limit,
    )


def _with_half(design: StudyDesign) -> StudyDesign:
    """Return the design, with half of a single learning rate added where the bias of defects needs two."""
    if len(design.lrs) > 1 or (2 in design.orders and not has_memory(design.problem)):
        return design
    return replace(design, lrs=[design.lrs[0], design.lrs[0] / 2])


def _by_defects(design: StudyDesign, paths: int, rel_tol: float | None, max_paths: int, runner: Runner) -> pd.DataFrame:
    """Measure every learning rate by defects.

    Raises:
        StudyInterrupted: a KeyboardInterrupt, with a table of the results up to the interruption.
    """
    rows: list[dict[str, object]] = []
    lrs = _with_half(design).lrs
    for number, lr in enumerate(lrs, start=1):
        runner.progress.describe(_which(lr, number, len(lrs)))
        budget = DefectBudget(design, lr, runner)
        try:
            budget.draw(paths, rel_tol, max_paths)
        except KeyboardInterrupt:
            latest = budget.rows(None) if budget.statistics is not None else []
            table = [row | {"final": True} for row in rows] + [row | {"final": False} for row in latest]
            raise StudyInterrupted(with_bias(pd.DataFrame(table)) if table else pd.DataFrame()) from None
        rows += budget.rows(rel_tol)
    table = with_bias(pd.DataFrame(rows))
    return table[table.lr.isin(design.lrs)].reset_index(drop=True)


def _measured(
    design: StudyDesign, paths: int, rel_tol: float | None, max_paths: int, runner: Runner
) -> tuple[pd.DataFrame, dict[tuple[float, Order | None], dict[str, np.ndarray]]]:
    """Measure every learning rate; return the table and the values of the kept paths.

    Raises:
        StudyInterrupted: a KeyboardInterrupt, with a table of the results up to the interruption.
    """
    hessians = None
    rows: list[dict[str, object]] = []
    samples: dict[tuple[float, Order | None], dict[str, np.ndarray]] = {}
    for number, lr in enumerate(design.lrs, start=1):
        runner.progress.describe(_which(lr, number, len(design.lrs)))
        runner.progress.detail("control variates")
        budget = None
        try:
            if design.control == "second" and (hessians is None or design.problem.dim <= DENSE_DIM):
                hessians = None  # the old Hessians are freed before new ones are computed
                hessians = value_hessians(
                    design.problem, design.theta0, design.times, design.observables, lr, design.stability_limit
                )
            budget = ErrorBudget(design, lr, hessians, runner)
            runner.progress.detail("paths")
            budget.draw(paths, rel_tol, max_paths)
        except KeyboardInterrupt:
            latest = budget.rows(None) if budget else []
            table = [row | {"final": True} for row in rows] + [row | {"final": False} for row in latest]
            raise StudyInterrupted(pd.DataFrame(table)) from None
        rows += budget.rows(rel_tol)
        samples |= budget.samples()
    return pd.DataFrame(rows), samples


def _which(lr: float, number: int, count: int) -> str:
    """Return a learning rate and which one of all it is, for the progress bar."""
    return f"lr {lr:g} ({number} of {count} learning rates)" if count > 1 else f"lr {lr:g}"


def _warn_of_missing_means(table: pd.DataFrame) -> None:
    """Warn of diverged paths and of observables that are not finite."""
    if table.diverged.any():
        lost = ", ".join(f"{lr:g}" for lr in table[table.diverged > 0].lr.unique())
        warn_of_divergence(
            f"Paths diverged at lr = {lost}: those rows have no mean and are unresolved; take a smaller lr.",
            stacklevel=5,  # past the decorators
        )
    for name in table[table.reason == Status.NOT_FINITE].observable.unique():
        warnings.warn(
            f"The observable {name!r} is not finite on some paths: those rows have no mean and are unresolved; take an "
            "observable that is defined everywhere.",
            ObservableWarning,
            stacklevel=5,
        )
