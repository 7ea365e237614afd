"""Sampling effort of an experiment: paths, tolerance, seed and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments.shared.cells import Ensembles
from smesolve.experiments.shared.settings import ProblemSettings, check_keys
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.solver.orders import Order
from smesolve.validation import check_instance, check_parameters

__all__ = ["EFFORT", "SamplingEffort", "SamplingSettings", "ToleranceSettings", "check_study"]


@dataclass(frozen=True)
class SamplingEffort:
    """Arguments that an experiment passes to `weak_error`, which documents them."""

    paths: int = 1024
    """Paths on each side; of the first round if rel_tol is given."""
    rel_tol: float | None = None
    """Largest relative half-width of the interval of each error at the horizon. Default: no paths are added."""
    max_paths: int = 4096
    """Largest number of paths on each side if rel_tol is given."""
    seed: int = 0
    """Root seed."""
    progress: bool | None = None
    """Show a progress bar. Default: on a terminal only."""
    workers: int | None = None
    """Processes that share the work; results do not depend on their number. Default: only this one."""

    def __post_init__(self) -> None:
        check_keys(self)

    def ensembles(
        self,
        problem: Problem,
        theta0: Tensor,
        lr: float,
        times: Sequence[float],
        orders: Sequence[Order],
        scheme: str | None = None,
        dt: float | None = None,
    ) -> Ensembles:
        """Return the ensembles that `weak_error` simulates at one learning rate."""
        most = self.paths if self.rel_tol is None else self.max_paths
        return Ensembles(problem, theta0, lr, times, orders, self.paths, scheme, dt, most=most)

    def weak_error(
        self,
        problem: Problem,
        theta0: Tensor,
        lrs: Sequence[float],
        times: Sequence[float],
        orders: Sequence[Order],
        observable: str | Observable,
        **more: Any,
    ) -> WeakErrorStudy:
        """Return `weak_error` of one observable with this effort, at times that end at the horizon.

        It shows no progress bar, because the cells have one.
        """
        names = ("paths", "rel_tol", "max_paths", "seed", "workers")
        more |= {name: getattr(self, name) for name in names} | {"orders": orders, "observables": [observable]}
        return weak_error(problem, theta0, lrs, times[-1], times=times, progress=False, **more)


EFFORT = SamplingEffort()
"""The default effort."""


def check_study(problem: Any, theta0: Any, effort: Any, kind: type[Problem] = Problem) -> Tensor:
    """Return the start (D,) of a study, after checks of its problem, which is of this kind, and of its effort."""
    check_instance("problem", problem, kind, f"a {kind.__name__}")
    check_instance("effort", effort, SamplingEffort, "a SamplingEffort")
    return check_parameters("theta0", theta0, problem)


@dataclass(frozen=True)
class SamplingSettings(ProblemSettings):
    """Settings of an experiment that samples paths of one network.

    Args:
        paths: independent paths on each side; the first round where rel_tol is given.
        seed: root seed of masks and Brownian motions.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths; results do not depend on them. Default: only this one.
    """

    paths: int = 1024
    seed: int = 0
    threads: int | None = None
    workers: int | None = None

    @property
    def effort(self) -> SamplingEffort:
        """The effort of these settings."""
        names = {entry.name for entry in fields(SamplingEffort)} & {entry.name for entry in fields(self)}
        return SamplingEffort(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class ToleranceSettings(SamplingSettings):
    """Settings of an experiment that adds paths until errors reach a tolerance.

    Args:
        rel_tol: paths are added until the interval of every error at the horizon is at most this share of the error.
            Default: no paths are added.
        max_paths: bound on the paths of each side.
    """

    rel_tol: float | None = None
    max_paths: int = 4096
