"""Estimates with intervals.

Student's interval with skewness. For a mean whose law has the skewness g, Hall's transformation of the t statistic
gives an interval whose ends are at these distances from the value, with Student's quantile t and the standard error s:

    (3 s/g) (1 - (1 - g (t + g/6))^(1/3))   on the side of the tail                                                  (1)
    (3 s/g) ((1 + g (t - g/6))^(1/3) - 1)   on the other side.                                                       (2)

(1) is longer than t s; it is t s + (2 t^2 + 1)/6 g s + O(g^2). The interval here has this distance on both sides,
because a few values say little about their skewness, including its sign. Source: Hall (Journal of the Royal Statistical
Society B 54, 1992, 221-228).

Quotient by a root. For a / sqrt(b) and q = sqrt(b), with intervals [a - d, a + d'] and [q - e, q + e'] and the
correlation r of the errors of both, the method of variance estimates recovery gives the ends

    high = (P + sqrt(P^2 - (a^2 - d'^2)(q^2 - e^2))) / (q^2 - e^2),     P = a q - r d' e                             (3)

and low with d, e' and the other sign of the root. The interval of q follows from that of b, so that it is not
symmetric. Where b is not resolved from 0, an end is infinite. Source: Donner, Zou (Statistical Methods in Medical
Research 21, 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from smesolve.confidence import student_quantile, with_interval
from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.rounded_number import is_real
from smesolve.validation import LARGEST_NUMBER, check_list

__all__ = ["Estimate", "Interval", "mean_over", "over_root", "over_runs"]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval, which need not be symmetric."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return entries of a tidy table: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and Student's interval, which is longer for a skewed law."""

    value: float
    stderr: float = 0.0
    freedom: float = np.inf
    """Degrees of freedom of `stderr`."""
    skewness: float = 0.0
    """Skewness of the law of the value: the skewness of the averaged values divided by the root of their number."""

    @property
    def half(self) -> float:
        """Half-width of the interval."""
        t, g = float(student_quantile(self.freedom)), abs(self.skewness)
        # For g below 1e-6 the formula equals t up to cancellation.
        return float(3 / g * (1 - np.cbrt(1 - g * (t + g / 6))) if g > 1e-6 else t) * self.stderr  # (1)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half

    @property
    def interval(self) -> Interval:
        """The value and the ends of its interval."""
        return Interval(self.value, self.low, self.high)

    def columns(self, name: str) -> dict[str, float]:
        """Return entries of a tidy table: name, name_low, name_high."""
        return self.interval.columns(name)

    def __str__(self) -> str:
        return with_interval(self.value, self.low, self.high)


def over_root(numerator: Estimate, square: Estimate, covariance: float) -> Interval:
    """Return a / sqrt(b) with the interval (3), which remains valid where b is hardly known.

    `covariance` is that of the errors of numerator and square.
    """
    a = numerator.value
    if not square.value > 0:
        return Interval(np.nan, -np.inf, np.inf)
    if a < 0:
        mirrored = over_root(replace(numerator, value=-a), square, -covariance)
        return Interval(-mirrored.value, -mirrored.high, -mirrored.low)
    q, d = square.value**0.5, numerator.half
    spread = numerator.stderr * square.stderr
    r = float(np.clip(covariance / spread, -1.0, 1.0)) if spread else 0.0

    def end(e: float, sign: int) -> float:
        if not e < q:
            return np.inf if sign > 0 else -np.inf if d > a else (a - d) / (q + e)
        root = (a * e) ** 2 + (q * d) ** 2 - (1 - r**2) * (d * e) ** 2 - 2 * r * a * q * d * e
        return float((a * q - r * d * e + sign * max(root, 0.0) ** 0.5) / (q**2 - e**2))  # (3)

    above, below = max(square.high, 0.0) ** 0.5 - q, q - max(square.low, 0.0) ** 0.5
    return Interval(a / q, end(above, -1), end(below, 1))


@entry_point
def mean_over(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values (N,), such as one for each seed, with Student's interval.

    The interval of a single value is NaN.

    Raises:
        SmesolveError: there is no value, or one of them is not a real number.
    """
    sample = np.array(check_list("values", values, _checked_value), dtype=float)
    if len(sample) < 2:
        return Estimate(float(sample.mean()), np.nan, 1)
    return Estimate(float(sample.mean()), float(sample.std(ddof=1) / len(sample) ** 0.5), len(sample) - 1)


def _checked_value(name: str, value: Any) -> float:
    """Return a real number, which may be NaN or infinite."""
    if not is_real(value) or (isinstance(value, int) and abs(value) > LARGEST_NUMBER):
        raise invalid(name, f"be a real number of at most {LARGEST_NUMBER:g}", value)
    return float(value)


def over_runs(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return means over independent runs: for each group `by`, every column with its `_low` and `_high`."""
    rows = []
    for keys, group in table.groupby(list(by), sort=False):
        row: dict[str, object] = dict(zip(by, keys, strict=True))
        for column in columns:
            row |= mean_over(group[column]).columns(column)
        rows.append(row)
    return pd.DataFrame(rows)
