"""Limits of mean-square stability of a readout: predicted from its exact moments, and observed on paths."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.mean_square_growth import ObservedLimit, observed_limit
from smesolve.problem.dropout import DropoutProblem
from smesolve.sampling.parallel import run_blocks
from smesolve.solver.orders import WITH_JUMPS, Order, equation_name

__all__ = ["Agreement", "stability_limits", "with_agreement"]


class Agreement(StrEnum):
    """Whether an observed limit lies within 2% of the predicted limit, in the words of a report."""

    NOT_OBSERVED = "not observed"
    WHOLE_INTERVAL = "yes"
    ONLY_ESTIMATE = "estimate is, interval is not"
    NOT_RESOLVED = "not resolved"
    OUTSIDE = "no"


def stability_limits(
    readout: DropoutProblem, orders: Sequence[Order], seed: int = 0, workers: int | None = None
) -> pd.DataFrame:
    """Return the mean-square limits of the iteration and of the equations, for a linear problem with shared masks.

    Some limits are only predicted: limits beyond 2/lambda_max(H), where the mean of the iteration itself diverges, and
    those of equations with jumps, because a path would jump 1e5 times at keep_prob 0.01. The limit of "poisson" is that
    of the iteration, as second moments grow by the same factor per step. Results do not depend on `workers`.

    Returns:
        A row for each process ("iteration", "order 1", ..., "poisson"): `predicted`, `observed` with `low`, `high`,
        and `ratio`, observed / predicted; NaN for limits that are not observed.

    Cost: some seconds per observed limit.
    """
    moments = LinearMoments(readout, readout.initial())
    mean_limit = readout.stability_limit(readout.initial())
    processes: dict[str, Order | None] = {"iteration": None, **{equation_name(order): order for order in orders}}
    rows: list[dict[str, Any]] = [
        {"process": name, "predicted": moments.stability_limit(process)} for name, process in processes.items()
    ]
    jumps = [equation_name(order) for order in WITH_JUMPS]
    seen = [row for row in rows if row["predicted"] < mean_limit and row["process"] not in jumps]

    def observed(number: int) -> ObservedLimit:
        process = processes[seen[number]["process"]]
        assert not isinstance(process, str)
        # A step of the iteration has far less noise in |u|^2 than one of a diffusion.
        return observed_limit(readout, process, populations=4 if process is None else 8, seed=seed)

    for number, limit in run_blocks({"limits": observed}, [("limits", k) for k in range(len(seen))], workers):
        row = seen[number]
        row |= {"observed": limit.lr, "low": limit.low, "high": limit.high, "ratio": limit.lr / row["predicted"]}
    return pd.DataFrame(rows, columns=["process", "predicted", "observed", "low", "high", "ratio"])


def with_agreement(limits: pd.DataFrame) -> pd.DataFrame:
    """Return the limits with the interval of observed / predicted, and an `Agreement` in the column `within`."""
    table = limits.assign(ratio_low=limits.low / limits.predicted, ratio_high=limits.high / limits.predicted)
    return table.assign(within=[_agreement(row) for row in table.itertuples()])


def _agreement(row: Any) -> Agreement:
    if not np.isfinite(row.observed):
        return Agreement.NOT_OBSERVED
    if row.ratio_low >= 0.98 and row.ratio_high <= 1.02:
        return Agreement.WHOLE_INTERVAL
    if row.ratio_low > 1.02 or row.ratio_high < 0.98:
        return Agreement.OUTSIDE
    return Agreement.ONLY_ESTIMATE if abs(row.ratio - 1) <= 0.02 else Agreement.NOT_RESOLVED
