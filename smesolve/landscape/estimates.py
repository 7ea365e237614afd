"""Estimates with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from smesolve.arguments import Instance, checked
from smesolve.comparison.confidence import CONFIDENCE

__all__ = ["Estimate", "mean_over", "over_runs"]


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, and the interval of Student's law with `freedom` degrees of freedom."""

    value: float
    stderr: float = 0.0
    freedom: float = np.inf

    @property
    def half(self) -> float:
        """Half-width of the interval."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.stderr

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half

    def columns(self, name: str) -> dict[str, float]:
        """Entries of a tidy table: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@checked(values=Instance((int, float, np.number), "a number"))
def mean_over(values: Sequence[float]) -> Estimate:
    """Mean of independent values, such as one a seed, with Student's interval; no interval (NaN) from one value."""
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return Estimate(float(sample.mean()), np.nan, 1)
    return Estimate(float(sample.mean()), float(sample.std(ddof=1) / len(sample) ** 0.5), len(sample) - 1)


def over_runs(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means over independent runs: for each group `by`, every column with its `_low` and `_high`."""
    rows = []
    for keys, group in table.groupby(list(by), sort=False):
        row: dict[str, object] = dict(zip(by, keys, strict=True))
        for column in columns:
            row |= mean_over(group[column]).columns(column)
        rows.append(row)
    return pd.DataFrame(rows)
