"""The result of a weak-error measurement: tidy tables, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from smesolve.comparison.budget_row import unusable
from smesolve.comparison.confidence import CONFIDENCE, NORMAL_QUANTILE, student_quantile
from smesolve.comparison.order_fit import fit_orders
from smesolve.errors import SmesolveError

__all__ = ["StudyInterrupted", "WeakErrorStudy", "with_normal_errors"]


def with_normal_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the standard errors that a regression takes: of a normal law with the same 95% intervals.

    Rounding and tolerance, which are not sampled, count with the bias.
    """
    bias = np.hypot(rows.solver_bias_half_width / NORMAL_QUANTILE, rows.rounding + rows.tolerance)
    return rows.assign(stderr=rows.half_width / NORMAL_QUANTILE, solver_bias_stderr=bias)


class StudyInterrupted(KeyboardInterrupt):
    """A study that was interrupted, with what is known so far."""

    def __init__(self, table: pd.DataFrame) -> None:
        super().__init__()
        self.table = table
        """As that of a `WeakErrorStudy`, with a column `final`: False where paths were still to come."""


@dataclass(frozen=True)
class WeakErrorStudy:
    """Weak errors of the modified equation for several learning rates and orders.

    Columns of `table`:

    order, lr, time, observable   what was compared
    discrete, sde                 means under the iteration and under the equation
    error, stderr                 sde - discrete, and its Monte Carlo standard error
    freedom, half_width           degrees of freedom of stderr, and the 95% half-width that follows: Student's quantile
                                  times stderr, and what the skewness of the means adds
    low, high                     95% interval of the error: half_width and all that follows here together
    solver_bias, .._stderr, .._half_width   of the scheme with step dt, estimated from dt and dt/2
    rounding                      bound on the rounding of the two means
    tolerance                     bound on the error of the ordinary differential equation behind solver_bias
    paths                         the fewer of discrete_paths and sde_paths, which come in whole blocks
    discrete_stderr, sde_stderr   of the two means, and discrete_half_width, sde_half_width of their 95% intervals
    kurtosis                      of what is averaged, the larger side
    gain                          by which control variates and antithetic pairs shorten the error bar of these paths
    diverged                      paths on both sides (discrete_diverged, sde_diverged); with one there is no mean
    resolved, reason              whether 0 lies outside an interval that can be believed, and if not, why: "heavy
                                  tails" where so few paths carry a mean that a sample cannot tell it; or why it is
                                  wider than rel_tol
    dt, scheme                    of the equation
    """

    table: pd.DataFrame
    """A row for each order, lr, time and observable; its columns are listed above."""

    samples: dict[tuple[float, str], dict[str, np.ndarray]] = field(repr=False)
    """(lr, "dropout" | "order 1" | "order 2") -> observable -> values at the last time of the first paths, as many as
    were asked for."""

    horizon: float
    """Last time."""

    predict: Callable[[], pd.DataFrame] = field(repr=False)
    """Computes `constants`."""

    @cached_property
    def constants(self) -> pd.DataFrame:
        """Leading constants that theory predicts: order, time, observable, constant, stderr
        (`leading_error`).

        Computed on first use: some seconds an observable where the constant of order 2 can be had.
        """
        return self.predict()

    def fit(self, at: str = "final") -> pd.DataFrame:
        """Orders with intervals, a row for each order and observable.

        error = c lr^p (1 + d lr + ...) is fitted by weighted least squares to the resolved errors; the terms beyond d
        are bounded by what the errors leave room for (`order_fit`), so the intervals are never shorter than these terms
        allow, however precise the errors are. Two learning rates give the local slope between them, which says little
        of the order; three leave nothing to test the fit by; take four or more. An order is certified where the
        interval of its slope holds it and neither of its neighbours.

        Args:
            at: "final" for the error at the horizon, "max" for the largest over the times (`maximum`).

        Returns:
            Columns order, observable; slope p, slope_low, slope_high; constant c for p = order, constant_low,
            constant_high, constant_p_value of the fit with p = order; predicted_constant and predicted_stderr, NaN
            where theory gives none (order 1: mean gradients known by sampling alone; order 2: kinks, schedules, D > 64
            or more than 1,024 draws as well); points, p_value of the fit, left_out (points that were not used, and
            why); verdict: "certified", "too wide", "another order", "not asymptotic" (the constant has not the
            predicted sign), "local slope" or "not resolved".
        """
        if at not in ("final", "max"):
            raise SmesolveError(f"at must be 'final' or 'max', got {at!r}.")
        rows = self.table[np.isclose(self.table.time, self.horizon)] if at == "final" else self.maximum()
        return fit_orders(
            with_normal_errors(rows),
            self.constants[np.isclose(self.constants.time, self.horizon)] if at == "final" else None,
        )

    def maximum(self) -> pd.DataFrame:
        """Largest |error| over the times of the study, as in the theorem: max_k |E g(theta_k) - E g(Theta_{k lr})|.

        `low` and `high` hold for all times at once (Bonferroni), so the maximum lies between them at 95%. It is not
        resolved where the error at one of the times is not known, for example because of heavy tails.
        """
        times = self.table.time.nunique()
        rows = []
        for (order, lr, observable), group in self.table.groupby(["order", "lr", "observable"], sort=False):
            freedom = group.freedom.min()
            widen = student_quantile(freedom, 1 - (1 - CONFIDENCE) / times) / student_quantile(freedom)
            unknown = group.reason[group.reason.map(unusable)]
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
                    "half_width": largest.half_width * widen,
                    "rounding": largest.rounding,
                    "tolerance": largest.tolerance,
                    "solver_bias": largest.solver_bias,
                    "solver_bias_stderr": largest.solver_bias_stderr,
                    "solver_bias_half_width": largest.solver_bias_half_width,
                    "low": low,
                    "high": high,
                    "resolved": bool(low > 0) and unknown.empty,
                    "reason": "" if unknown.empty else unknown.iloc[0],
                }
            )
        return pd.DataFrame(rows)
