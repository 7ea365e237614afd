"""The result of a measurement of convergence: a table, orders with intervals, and a work-precision figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from smesolve.comparison.agreement import at_most
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.outcomes import Status
from smesolve.confidence import NORMAL_QUANTILE
from smesolve.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConvergenceStudy"]


@dataclass(frozen=True, repr=False)
class ConvergenceStudy(Result):
    """Errors of solvers against their step.

    Columns of `table`:

        scheme, dt, observable         the solver, its step, and what is compared
        error, stderr, low, high       the error with its standard error and 95% interval; all errors come from the same
                                       paths, so that errors at different steps have common noise
        seconds                        time that the solver took for all paths, without the increments
        paths, lost                    number of paths, and of paths without a finite error; where there are such paths
                                       the error is NaN
        resolved                       whether 0 lies outside a reliable interval
        reason                         why an error is not resolved (`smesolve.comparison.outcomes.Status`), such as
                                       "heavy tails" where so few paths carry it that no interval is reliable
    """

    table: pd.DataFrame
    kind: str
    """ "weak" or "strong"."""
    horizon: float
    reference: str
    """The reference of the errors, in words."""
    declared: Mapping[str, float]
    """Orders that the solvers declare, by name."""

    @cached_property
    def _orders(self) -> pd.DataFrame:
        rows = []
        for (scheme, observable), group in self.table.groupby(["scheme", "observable"], sort=False):
            errors = group.assign(
                lr=group["dt"],
                order=self.declared[str(scheme)],
                stderr=(group.high - group.low) / 2 / NORMAL_QUANTILE,
                solver_bias=0.0,
                solver_bias_stderr=0.0,
            )
            row = fit_orders(errors).iloc[0]
            rows.append(
                {
                    "scheme": scheme,
                    "observable": observable,
                    "order": row.slope,
                    "order_low": row.slope_low,
                    "order_high": row.slope_high,
                    "declared": self.declared[str(scheme)],
                    "points": row.points,
                    "p_value": row.p_value,
                    "left_out": row.left_out.replace("lr=", "dt="),
                    "verdict": row.verdict,
                }
            )
        return pd.DataFrame(rows)

    def fit(self) -> pd.DataFrame:
        """Fit the order of convergence of each solver and observable.

        error = c dt^p (1 + d dt + ...) is fitted in the same way as weak orders in the learning rate
        (`smesolve.comparison.order_fit`). The terms beyond d are bounded by the spread of the errors, so that intervals
        are never shorter than these terms allow. Common noise of errors at different steps counts as independent, which
        makes intervals longer and not shorter.

        Returns:
            Columns scheme, observable; order p with order_low, order_high (95%); declared, the order that the solver
            declares; points, p_value of the fit, left_out (steps that were not used, and why); verdict, "certified"
            where the interval holds the declared order and no order that is 1 larger or smaller.
        """
        return self._orders.copy()

    def summary(self) -> str:
        """Return the order of each solver, one sentence per line."""
        head = f"{self.kind.capitalize()} errors at T = {self.horizon:g} against {self.reference}, with 95% intervals:"
        return "\n".join([head, *(self._sentence(row) for row in self.fit().to_dict("records"))])

    def _sentence(self, row: Mapping[str, Any]) -> str:
        start = f"{row['scheme']}, {row['observable']}: "
        if not np.isfinite(row["order"]):
            rows = self.table[(self.table.scheme == row["scheme"]) & (self.table.observable == row["observable"])]
            last = rows.loc[rows["dt"].idxmin()]
            if not Status(last.reason).has_interval:
                return f"{start}order not resolved; at dt = {last['dt']:g} the error has no interval: {last.reason}."
            bound = at_most(max(abs(last.low), abs(last.high)))
            return f"{start}order not resolved; at dt = {last['dt']:g} the error is at most {bound}."
        steps = f"{row['points']} steps" if row["points"] > 2 else "two steps, the local slope"
        order = f"{row['order']:.2f} [{row['order_low']:.2f}, {row['order_high']:.2f}]"
        return f"{start}order {order} over {steps}, declared {row['declared']:g}."

    def plot(self) -> Figure:
        """Return |error| against the step, and work-precision: |error| against seconds."""
        from smesolve.comparison.convergence_figure import convergence_figure  # late, as matplotlib takes its time

        return convergence_figure(self.table, self.fit(), self.kind)
