"""Convergence of solvers of any SDE: weak and strong errors against the step, on the same Brownian paths.

With the solution Y of an SDE at the horizon T, the solution Y^dt of a solver with step dt, and an observable g,

    weak error     E g(Y^dt) - E g(Y) = O(dt^p),                                                              (1)
    strong error   E |g(Y^dt) - g(Y)| = O(dt^p),     without an observable  E |Y^dt - Y|.                     (2)

All runs of a path see one Brownian path (`smesolve.solver.nested_paths`). Where the reference is a solver with a small
step, or the solution as a function of the Brownian motion at T, each path gives a difference, whose spread is the
strong error and not the spread of g. Where the reference is a number, the spread is that of g.

Sources: Kloeden, Platen, Numerical Solution of Stochastic Differential Equations (1992), chapters 9 and 10; Higham
(SIAM Review 43, 2001).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.comparison.convergence_study import ConvergenceStudy
from smesolve.comparison.outcomes import Status, status_of
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.problem.observables import Observable, Observables, measured_observables
from smesolve.sampling.ensemble import check_block_steps, in_lists, warn_of_divergence
from smesolve.sampling.observed_paths import DEGREE, mean_columns
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Arrays, Runner
from smesolve.sampling.scaled_moments import ScaledMoments
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.nested_paths import NestedPaths, Solver, solver_named
from smesolve.solver.sde_contract import CompletedSDE, check_sde
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_optional,
    check_parameters,
    check_positive,
    check_seed,
    check_tensor,
    check_workers,
)

__all__ = ["Reference", "block_size", "common_grid", "convergence"]

Reference = Mapping[str, float | Callable[[Tensor], Tensor]] | tuple[str, float]
"""Exact values by observable name, as numbers or functions W(T) (B, M) -> g(Y(T)) (B,); or a pair (scheme, dt)."""

STATE = "state"
"""The observable of a strong error where none is given: the distance of the states."""

MOST_RATIO = 64
"""Largest number of steps of the common grid in the smallest step of a solver."""

BLOCK_FLOATS = 2**22
"""Floats in the increments of one block of paths."""


@dataclass(frozen=True)
class _Run:
    """One solver with one step."""

    solver: Solver
    dt: float
    ratio: int
    """Steps of the grid in a step of the solver."""

    def end(self, paths: NestedPaths, theta0: Tensor, W: Tensor, H: Tensor | None) -> tuple[Tensor, float]:
        """Return the states at the horizon (B, D), and the seconds that the solver took."""
        (increments, integrals), start = paths.over_steps(W, H, self.ratio), theta0.expand(paths.paths, -1)
        # The first call of a solver in a process loads parts of torch, which does not count as its cost.
        first = None if integrals is None else integrals[:1, :2]
        self.solver.run(start[:2], increments[:1, :2], first, self.dt)
        begin = time.perf_counter()
        theta = self.solver.run(start, increments, integrals, self.dt)
        return theta, time.perf_counter() - begin


@dataclass(frozen=True)
class _Errors:
    """Blocks of paths as moments of their errors."""

    grid: NestedPaths
    theta0: Tensor
    runs: Sequence[_Run]
    reference: _Run | None
    exact: Mapping[str, float | Callable[[Tensor], Tensor]]
    observables: Mapping[str, Observable]
    strong: bool
    paths: int
    in_threads: ClassVar[bool] = False
    """SDEs and observables are arbitrary functions of the user, which threads may not share."""

    @property
    def cost(self) -> float:
        return float(self.grid.steps)

    @torch.no_grad()
    def run(self, block: int) -> Arrays:
        """Return packed moments of the errors (2 + DEGREE, R O), seconds (R,), and numbers of lost paths (R, O)."""
        grid, names = self.grid, list(self.observables) or [STATE]
        count = min(grid.paths, self.paths - block * grid.paths)
        W, H = grid.block(block)
        reference = None if self.reference is None else self.reference.end(grid, self.theta0, W, H)[0]
        errors = np.empty((len(self.runs), len(names), count))
        seconds = np.empty(len(self.runs))
        for row, run in enumerate(self.runs):
            theta, seconds[row] = run.end(grid, self.theta0, W, H)
            found = torch.stack([self._error(name, theta, reference, W) for name in names])
            diverged = ~theta.isfinite().all(-1)
            errors[row] = found.to(torch.float64).masked_fill(diverged, torch.nan)[:, :count].cpu().numpy()
        moments = ScaledMoments.of(errors.reshape(-1, count).T, DEGREE)
        return {"moments": moments.packed(), "seconds": seconds, "lost": (~np.isfinite(errors)).sum(2)}

    def _error(self, name: str, theta: Tensor, reference: Tensor | None, W: Tensor) -> Tensor:
        """Return the error of each path (B,)."""
        if not self.observables:
            assert reference is not None
            distance: Tensor = (theta - reference).norm(dim=-1)  # (2)
            return distance
        values = self.observables[name](theta)
        if reference is not None:
            difference = values - self.observables[name](reference)
        else:
            exact = self.exact[name]
            difference = values - (exact(W.sum(0)) if callable(exact) else exact)  # (1)
        error: Tensor = difference.abs() if self.strong else difference
        return error


@entry_point
@torch.no_grad()
def convergence(
    sde: Any,
    theta0: Tensor,
    horizon: float,
    dts: Sequence[float],
    schemes: Sequence[str],
    observables: Observables | None = None,
    reference: Reference | None = None,
    error: str = "weak",
    seed: int = 0,
    *,
    paths: int = 4096,
    workers: int | None = None,
    progress: bool | None = None,
) -> ConvergenceStudy:
    """Measure the errors of solvers of any SDE against the step.

    Args:
        sde: a `ModifiedEquation`, or any SDE that torchsde takes: f and g, f and g_prod, f_and_g, or f_and_g_prod.
        theta0: (D,), the start of every path.
        horizon: time T of the comparison.
        dts: steps. Each divides the horizon, and all lie on one grid, as repeated halvings do.
        schemes: names in `SCHEMES`, and methods of torchsde: "milstein", "srk" and "torchsde.euler" for Ito SDEs,
            "midpoint", "heun", "euler_heun" and "reversible_heun" for Stratonovich SDEs.
        observables: g, a dict from names of your own to callables theta (..., D) -> (...,), or a list as `solve` takes
            it. Default for strong errors: the state itself, whose distance |Y^dt - Y| is measured.
        reference: exact values by observable name: numbers E g(Y(T)) for weak errors, or functions that map the
            Brownian motion at T, W (B, M), to g(Y(T)) (B,); or (scheme, dt), a solver with a step smaller than all dts,
            whose own error is then part of all errors.
        error: "weak" (1) or "strong" (2).
        seed: root seed of the Brownian motions.
        paths: number of independent paths.
        workers: processes that share the blocks of paths; errors are the same for any number of them.
        progress: show the progress. Default: on a terminal and in a notebook only.

    Returns:
        A `ConvergenceStudy`.

    Raises:
        SmesolveError: an object that is not an SDE, solvers that cannot integrate it, steps that do not fit, or
            observables without a reference.

    Warns:
        DivergenceWarning: some paths are not finite; their rows have no error.

    Cost per path: the steps of all solvers and of the reference. Memory: one block of paths.
    """
    check_sde("sde", sde, ("ito", "stratonovich"))
    problem = sde.problem if isinstance(sde, ModifiedEquation) else None
    theta0 = check_tensor("theta0", theta0, "D") if problem is None else check_parameters("theta0", theta0, problem)
    if problem is not None:
        problem.check_start("theta0", theta0)
    completed = CompletedSDE(sde, theta0) if problem is None else sde
    horizon, strong = check_positive("horizon", horizon), check_choice("error", error, ("weak", "strong")) == "strong"
    steps = _steps(horizon, dts)
    names: list[Any] = check_list("schemes", schemes)
    _check_different("schemes", names, list(map(str, names)))
    solvers = [solver_named(name, completed) for name in names]
    check_optional("progress", progress, check_flag)
    paths, seed, workers = check_integer("paths", paths, 2), check_seed("seed", seed), check_workers("workers", workers)
    functions = {} if observables is None else measured_observables(problem, theta0, observables)
    exact, against = _reference(reference, completed, horizon, steps, functions, strong)

    used = [*((solver, count) for solver in solvers for count in steps), *([against] if against else [])]
    fine = common_grid([count for _, count in used], horizon)
    runs = [_Run(solver, horizon / count, fine // count) for solver, count in used]
    noise_dim, areas = completed.noise_dim, any(solver.with_areas for solver, _ in used)
    grid = NestedPaths(block_size(fine, noise_dim), noise_dim, fine, horizon / fine, seed, areas, theta0)
    _try_exact(exact, grid)
    last = runs.pop() if against else None
    work = _Errors(grid, theta0, runs, last, exact, functions, strong, paths)
    moments, seconds, lost = _summed(work, workers, progress)
    if lost.any():
        warn_of_divergence(
            f"{int(lost.max())} of {paths} paths diverged, or have an error that is not finite: those rows have no "
            "error; take smaller steps.",
            stacklevel=5,  # the user's call, past the decorators
        )
    words = "the exact solution" if last is None else f"{last.solver.name} with dt = {last.dt:g}"
    declared = {solver.name: solver.strong_order if strong else solver.weak_order for solver in solvers}
    return ConvergenceStudy(_table(work, moments, seconds, lost), error, horizon, words, declared)


def _steps(horizon: float, dts: Any) -> list[int]:
    """Return the numbers of steps, increasing."""
    given = check_list("dts", dts, check_positive)
    counts = [grid_steps(horizon, dt, "horizon", f"dts[{k}]") for k, dt in enumerate(given)]
    _check_different("dts", given, counts)
    return sorted(counts)


def _check_different(name: str, values: list[Any], keys: list[Any]) -> None:
    """Refuse values of which two have the same key."""
    if len(set(keys)) < len(keys):
        raise invalid(name, "hold different values", values, "leave out repeated ones")


def _reference(
    reference: Any, sde: Any, horizon: float, steps: Sequence[int], functions: Mapping[str, Observable], strong: bool
) -> tuple[dict[str, Any], tuple[Solver, int] | None]:
    """Return exact values by name, and the solver of the reference with its number of steps, or None."""
    if not functions and not strong:
        raise SmesolveError("observables is missing; give for example {'mean': lambda y: y[..., 0]}.")
    if isinstance(reference, (tuple, list)):
        if len(reference) != 2 or not isinstance(reference[0], str):
            raise invalid("reference", "be a pair (scheme, dt), or exact values by the observables' names", reference)
        dt, least = check_positive("reference[1]", reference[1]), horizon / max(steps)
        count = grid_steps(horizon, dt, "horizon", "reference[1]")
        if count <= max(steps):
            raise SmesolveError(
                f"reference[1]={dt:g} must be smaller than all dts, the smallest of which is {least:g}; take for "
                f"example {least / 8:g}."
            )
        return {}, (solver_named(reference[0], sde), count)
    if reference is None or not functions:
        raise SmesolveError(
            "reference must be a pair (scheme, dt) such as ('euler', 1e-4), or the exact values of observables that "
            f"are given, got {shown(reference)}."
        )
    exact: dict[str, Any] = check_mapping("reference", reference)
    odd = [name for name in [*functions, *exact] if (name in functions) != (name in exact)]
    if odd:
        raise SmesolveError(
            f"reference must have an exact value for each observable and no other; add or remove {odd[0]!r}."
        )
    for name, value in exact.items():
        if not callable(value):
            check_number(f"reference[{name!r}]", value)
            if strong:
                raise SmesolveError(
                    f"reference[{name!r}]={value} is a number, and a strong error compares path by path; give a "
                    "function of the Brownian motion W (B, M) at the horizon, or (scheme, dt)."
                )
    return exact, None


def common_grid(steps: Sequence[int], horizon: float) -> int:
    """Return the number of steps of the grid that all steps lie on."""
    fine = math.lcm(*steps)
    if fine > MOST_RATIO * max(steps):
        raise SmesolveError(
            f"dts must lie on one grid, but steps of {horizon / max(steps):g} and {horizon / min(steps):g} meet only "
            f"on one of {fine} steps; halve a step again and again."
        )
    return fine


def block_size(steps: int, noise_dim: int) -> int:
    """Return the number of paths in a block, a power of two that depends only on the grid."""
    size = max(1, BLOCK_FLOATS // (steps * max(noise_dim, 1)))
    return min(max(8, 1 << (size.bit_length() - 1)), 1024)


def _try_exact(exact: Mapping[str, Any], grid: NestedPaths) -> None:
    """Check that exact solutions map W (B, M) to (B,)."""
    W = grid.like.new_zeros(3, grid.noise_dim)
    for name, value in exact.items():
        if callable(value):
            found = call_of_user(f"reference[{name!r}]", value, W)
            if not isinstance(found, Tensor) or tuple(found.shape) != (3,):
                got = tuple(found.shape) if isinstance(found, Tensor) else shown(found)
                raise SmesolveError(
                    f"reference[{name!r}] must map W of shape (B, {grid.noise_dim}) to (B,), but maps (3, "
                    f"{grid.noise_dim}) to {got}."
                )


def _summed(work: _Errors, workers: int | None, progress: bool | None) -> tuple[ScaledMoments, np.ndarray, np.ndarray]:
    """Run all blocks; return the moments of all errors, seconds (R,) and lost paths (R, O)."""
    blocks = -(-work.paths // work.grid.paths)
    each = sum(work.grid.steps // run.ratio for run in (*work.runs, *([work.reference] if work.reference else [])))
    check_block_steps(f"{work.paths} paths", blocks * each, workers, "take fewer paths, or larger steps")
    total: ScaledMoments | None = None
    seconds, lost = np.zeros(len(work.runs)), np.zeros((len(work.runs), len(work.observables) or 1))
    with np.errstate(invalid="ignore", over="ignore"), Progress(progress, blocks * work.cost) as bar:
        bar.describe("errors")
        for tasks in in_lists(("errors", block) for block in range(blocks)):
            for arrays in Runner(workers, None, bar).results({"errors": work}, tasks):
                part = ScaledMoments.unpacked(arrays["moments"], DEGREE)
                total = part if total is None else total.merged(part)
                seconds += arrays["seconds"]
                lost += arrays["lost"]
    assert total is not None  # there is at least one path
    return total, seconds, lost


def _table(work: _Errors, moments: ScaledMoments, seconds: np.ndarray, lost: np.ndarray) -> pd.DataFrame:
    """Return a row for each solver, step and observable."""
    names = list(work.observables) or [STATE]
    kept = {"mean": "error", "stderr": "stderr", "low": "low", "high": "high"}
    columns, heavy = mean_columns(moments, torch.finfo(work.theta0.dtype).eps)
    found = {kept[name]: np.where(lost.reshape(-1) > 0, np.nan, columns[name]) for name in kept}
    head = [(run.solver.name, run.dt, name) for run in work.runs for name in names]
    table = pd.DataFrame(head, columns=["scheme", "dt", "observable"]).assign(**found)
    reasons = [
        status_of(
            row.error,
            (row.high - row.low) / 2,
            0.0,
            diverged=False,
            undefined=gone > 0,
            tails=Status.HEAVY_TAILS if tailed else None,
            biased=None,
            too_wide=False,
        )
        for row, gone, tailed in zip(table.itertuples(), lost.reshape(-1), heavy, strict=True)
    ]
    return table.assign(
        seconds=np.repeat(seconds, len(names)),
        paths=work.paths,
        lost=lost.reshape(-1).astype(int),
        reason=reasons,
        resolved=[status.resolved for status in reasons],
    )
