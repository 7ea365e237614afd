"""The confidence level of every interval, and half-widths in units of standard errors."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chndtrix, ndtri, stdtrit

__all__ = ["CONFIDENCE", "NORMAL_QUANTILE", "bias_aware_half_width", "student_quantile", "with_interval"]

CONFIDENCE = 0.95
"""Confidence level of every interval."""

NORMAL_QUANTILE = float(ndtri((1 + CONFIDENCE) / 2))
"""Half-width of an interval in units of a standard error that is known exactly."""


def student_quantile(freedom: float | np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Return the half-width of an interval in units of a standard error with the given degrees of freedom.

    It is 2.04 for 30 and 1.97 for 250 degrees of freedom: the normal quantile, 1.96, makes intervals of few independent
    values too short.
    """
    return np.asarray(stdtrit(freedom, (1 + confidence) / 2))


FAR = 6.0
"""Ratio of bias to standard error beyond which only one end of the interval can miss the truth."""


def bias_aware_half_width(half_width: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return the half-widths of intervals that hold the truth with `CONFIDENCE` for any bias up to a bound.

    The half-width is sigma times the quantile of |N(bound / sigma, 1)| (Armstrong & Kolesar, Quantitative Economics 11,
    2020): 1.96 sigma without a bias, and bound + 1.64 sigma where the bias is large. The sum of half-width and bound
    would be too long, and the root of the sum of their squares too short.

    Args:
        half_width: half-widths of the intervals without a bias.
        bound: bound on the absolute value of the bias.
    """
    half_width, bound = np.broadcast_arrays(np.asarray(half_width, float), np.asarray(bound, float))
    sigma = half_width / NORMAL_QUANTILE
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(sigma > 0, bound / sigma, np.inf)
    quantile = np.sqrt(chndtrix(CONFIDENCE, 1, np.minimum(ratio, FAR) ** 2))
    widths: np.ndarray = np.where(ratio < FAR, sigma * quantile, bound + sigma * float(ndtri(CONFIDENCE)))
    return widths


def with_interval(value: float, low: float, high: float, digits: int = 3, sign: str = "", unit: str = "") -> str:
    """Return "value [low, high]", with more digits than asked for where the ends would look alike.

    Args:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        digits: significant digits, at least.
        sign: "+" to print the sign of positive numbers.
        unit: follows each number, such as "%".
    """
    width, size = high - low, max(abs(low), abs(high))
    if 0 < width < size < math.inf:
        digits = max(digits, min(2 + math.floor(math.log10(size / width)), 15))
    number, lower, upper = (f"{one:{sign}.{digits}g}{unit}" for one in (value, low, high))
    return f"{number} [{lower}, {upper}]"
