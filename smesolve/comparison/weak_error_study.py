"""The result of a weak-error measurement: tidy tables, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from smesolve.comparison.order_fit import fit_orders

__all__ = ["CONFIDENCE", "NORMAL_QUANTILE", "StudyInterrupted", "WeakErrorStudy"]

CONFIDENCE = 0.95
"""Of every interval."""

NORMAL_QUANTILE = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
"""Half-width of an interval in standard errors."""


class StudyInterrupted(KeyboardInterrupt):
    """A study that was interrupted, with what is known so far."""

    def __init__(self, table: pd.DataFrame) -> None:
        super().__init__()
        self.table = table
        """As that of a `WeakErrorStudy`, with a column `final`: False where paths were still to come."""


@dataclass(frozen=True)
class WeakErrorStudy:
    """Weak errors of the modified equation for several learning rates and orders."""

    table: pd.DataFrame
    """A row for each order, lr, time and observable: `discrete` and `sde` (means), signed `error` = sde - discrete,
    its Monte Carlo `stderr`, 95% interval `low`, `high` (Monte Carlo and bias together), `solver_bias` and
    `solver_bias_stderr` at step `dt`, paths on each side, kurtosis (the larger side), the factor `gain` by which
    control variates shorten the error bar, `diverged` paths on both sides (`discrete_diverged`, `sde_diverged`;
    with one of them there is no mean), `resolved`, and `reason` where it is not resolved."""

    samples: dict[tuple[float, str], dict[str, np.ndarray]]
    """(lr, "dropout" | "order 1" | "order 2") -> observable -> values at the last time of the first paths, as many as
    were asked for."""

    horizon: float
    """Last time."""

    predict: Callable[[], pd.DataFrame]
    """Computes `constants`."""

    @cached_property
    def constants(self) -> pd.DataFrame:
        """Leading constants that theory predicts: order, time, observable, constant, stderr
        (`leading_error`).

        Computed on first use: some seconds an observable where the constant of order 2 can be had.
        """
        return self.predict()

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
        widen = stats.norm.ppf(1 - (1 - CONFIDENCE) / 2 / times) / NORMAL_QUANTILE
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
