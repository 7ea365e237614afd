"""The result of a weak-error measurement: the table of errors, fits of the order, and the largest error over time."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from smesolve.comparison.agreement import headline
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.outcomes import Status
from smesolve.confidence import CONFIDENCE, NORMAL_QUANTILE, student_quantile
from smesolve.result import Result
from smesolve.sampling import pickling
from smesolve.solver.orders import Order, orders_in_words
from smesolve.validation import check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyInterrupted", "WeakErrorStudy", "with_normal_errors"]


def with_normal_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with standard errors for a regression: those of normal laws with the same 95% intervals.

    Rounding and tolerance, which are not sampled, count as bias.
    """
    bias = np.hypot(rows.solver_bias_half_width / NORMAL_QUANTILE, rows.rounding + rows.tolerance)
    return rows.assign(stderr=rows.half_width / NORMAL_QUANTILE, solver_bias_stderr=bias)


class StudyInterrupted(KeyboardInterrupt):
    """An interrupted study, with the results up to the interruption."""

    def __init__(self, table: pd.DataFrame) -> None:
        super().__init__()
        self.table = table
        """The table of a `WeakErrorStudy`, with a column `final`: False where further paths were planned."""


@dataclass(frozen=True, repr=False)
class WeakErrorStudy(Result):
    """Weak errors of the modified equation for several learning rates and orders.

    Columns of `table`:

        order, lr, time, observable  what was compared
        discrete, sde                mean under the iteration; mean under the equation, minus the bias of the scheme
        error, stderr                sde - discrete, and its Monte Carlo standard error
        freedom, half_width          degrees of freedom of stderr, and the 95% Monte Carlo half-width: Student's
                                     quantile times stderr, plus a correction for skewness
        low, high                    95% interval of the error: half_width, the half-width of the bias, rounding and
                                     tolerance together
        solver_bias, .._stderr, .._half_width  bias of the scheme with step dt, estimated from dt and dt/2; it is
                                     subtracted from the mean of the equation
        rounding                     bound on the rounding of the two means
        tolerance                    bound on the error of the ordinary differential equation behind solver_bias
        paths                        the smaller of discrete_paths and sde_paths, which come in whole blocks
        discrete_stderr, sde_stderr  standard errors of the two means; discrete_half_width, sde_half_width are the
                                     half-widths of their 95% intervals
        kurtosis                     kurtosis of the averaged values, the larger of both sides
        stderr_reduction             factor by which control variates and antithetic pairs reduce the standard error
        diverged                     number of diverged paths on both sides (discrete_diverged, sde_diverged); if it is
                                     not 0, there is no mean
        resolved, reason             whether 0 lies outside a reliable interval; and a `Status`, which says why not, or
                                     that the interval is wider than rel_tol
        solver_dt, scheme            step and scheme of the equation
        estimator                    "difference" of the two means, or "defects". Defects have a bound on their `bias`,
                                     and neither a step nor a scheme, nor means and paths of the equation
    """

    table: pd.DataFrame
    """A row for each order, lr, time and observable; its columns are listed above."""

    samples: dict[tuple[float, Order | None], dict[str, np.ndarray]]
    """Values at the horizon of the first paths that `keep` asked for, by (lr, order) and observable; the order of the
    iteration is None."""

    horizon: float
    """Last time."""

    predict: Callable[[], pd.DataFrame]
    """Computes `constants`."""

    start: Mapping[str, float] = field(default_factory=dict)
    """Values of the observables at the start."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: observables of the user, also lambdas, go with their code."""
        return {**vars(self), "predict": pickling.dumps(self.predict)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "predict": pickle.loads(state["predict"])})

    def summary(self) -> str:
        """Return a head line, and for each observable one line with the errors at the largest learning rate."""
        table = self.table
        lrs = table.lr.unique()
        few, many = table.paths.min(), table[["discrete_paths", "sde_paths"]].max().max()
        rates = f"lr {lrs[0]:g}" if len(lrs) == 1 else f"{len(lrs)} learning rates from {min(lrs):g} to {max(lrs):g}"
        times = (
            f"{table.time.nunique()} times up to {self.horizon:g}" if table.time.nunique() > 1 else "the horizon only"
        )
        head = (
            f"WeakErrorStudy: {orders_in_words(table.order)}, {rates}, {times}, "
            f"{few if few == many else f'{few} to {many}'} paths; errors at the horizon with 95% intervals."
        )
        final = self.at_horizon()
        lines = [headline(rows, self.start, self.spread) for _, rows in final.groupby("observable", sort=False)]
        return "\n".join([head, *lines])

    def shown(self) -> pd.DataFrame:
        """Return means and errors at the horizon."""
        columns = ["observable", "order", "lr", "discrete", "sde", "error", "low", "high", "resolved"]
        return self.at_horizon()[columns]

    def plot(self) -> Figure:
        """Return |error| at the horizon against the learning rate, with fits and predicted leading terms."""
        from smesolve.comparison.weak_error_figure import weak_error_figure  # late, as matplotlib takes its time

        return weak_error_figure(self.at_horizon(), self.fit())

    @property
    def spread(self) -> dict[tuple[float, str], float]:
        """Standard deviations over the kept paths of the iteration, by learning rate and observable."""
        return {
            (lr, name): float(values.std(ddof=1))
            for (lr, order), kept in self.samples.items()
            for name, values in kept.items()
            if order is None and len(values) > 1
        }

    def at_horizon(self) -> pd.DataFrame:
        """Return the rows of `table` at the horizon."""
        return self._at_horizon(self.table)

    def _at_horizon(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[np.isclose(rows.time, self.horizon)]

    @cached_property
    def constants(self) -> pd.DataFrame:
        """Leading constants that theory predicts: order, time, observable, constant, stderr.

        They are computed on first use, in some seconds per observable where the constant of order 2 is known.
        """
        return self.predict()

    def fit(self, at: str = "final") -> pd.DataFrame:
        """Fit the weak order, with intervals, for each order and observable.

        error = c lr^p (1 + d lr + ...) is fitted by weighted least squares to the resolved errors. The terms beyond d
        are bounded by the spread of the errors (`order_fit`), so that intervals are never shorter than these terms
        allow, however precise the errors are. Two learning rates give the local slope between them, which says little
        about the order; three do not test the fit; take four or more. An order is certified where the interval of its
        slope holds the order and neither of its neighbours.

        Args:
            at: "final" for the error at the horizon, "max" for the largest over the times (`maximum`). Default:
                "final".

        Returns:
            Columns order, observable; slope p, slope_low, slope_high; constant c for p = order, constant_low,
            constant_high, constant_p_value of the fit with p = order; predicted_constant and predicted_stderr, NaN
            where theory gives none (order 1: mean gradients without a closed form; order 2: kinks, schedules, D > 64 or
            more than 1,024 draws as well); points, p_value of the fit, left_out (points that were not used, and why);
            verdict, a `Verdict`: "certified", "too wide", "another order", "not asymptotic", "local slope" or "not
            resolved".
        """
        if check_choice("at", at, ("final", "max")) == "max":
            return fit_orders(with_normal_errors(self.maximum()))
        return fit_orders(with_normal_errors(self.at_horizon()), self._at_horizon(self.constants))

    def maximum(self) -> pd.DataFrame:
        """Compute the largest |error| over the times, as in the theorem: max_k |E g(theta_k) - E g(Theta_{k lr})|.

        `low` and `high` hold for all times at once (Bonferroni), so that they are a 95% interval of the maximum. It is
        not resolved where the error at one of the times is not known, for example because of heavy tails.
        """
        times = self.table.time.nunique()
        rows = []
        for (order, lr, observable), group in self.table.groupby(["order", "lr", "observable"], sort=False):
            freedom = group.freedom.min()
            widen = student_quantile(freedom, 1 - (1 - CONFIDENCE) / times) / student_quantile(freedom)
            unknown = group.reason[[not Status(reason).has_interval for reason in group.reason]]
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
