"""How much is sampled in a study of scaling, and on how many processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smesolve.arguments import ENSEMBLE, checked
from smesolve.comparison.observables import Observable
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.problem import Problem

__all__ = ["EFFORT", "SamplingEffort"]


@checked(paths=ENSEMBLE)
@dataclass(frozen=True)
class SamplingEffort:
    """What every study hands on to `weak_error`; see there."""

    paths: int = 1024
    """On each side; the first round where rel_tol is given."""
    rel_tol: float | None = None
    """Share of each error at the horizon that its interval may take."""
    max_paths: int = 4096
    """On each side, where rel_tol is given."""
    seed: int = 0
    """Root seed."""
    progress: bool | None = None
    """Show progress bars; on a terminal unless told."""
    workers: int | None = None
    """Processes that share the work; results do not depend on their number."""

    def weak_error(
        self,
        problem: Problem,
        theta0: Tensor,
        lrs: Sequence[float],
        times: Sequence[float],
        orders: Sequence[int],
        observable: str | Observable,
        **more: Any,
    ) -> WeakErrorStudy:
        """`weak_error` of one observable at these times, the last one the horizon, with this effort."""
        return weak_error(
            problem,
            theta0,
            lrs,
            times[-1],
            orders=orders,
            observables=[observable],
            times=times,
            paths=self.paths,
            rel_tol=self.rel_tol,
            max_paths=self.max_paths,
            seed=self.seed,
            workers=self.workers,
            **more,
        )


EFFORT = SamplingEffort()
"""Where nothing is asked for."""
