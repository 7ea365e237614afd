"""The confidence of every interval, and half-widths in standard errors."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtrit

__all__ = ["CONFIDENCE", "NORMAL_QUANTILE", "student_quantile"]

CONFIDENCE = 0.95
"""Confidence of every interval."""

NORMAL_QUANTILE = float(ndtri((1 + CONFIDENCE) / 2))
"""Half-width of an interval in standard errors that are known exactly."""


def student_quantile(freedom: float | np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Return the half-width of an interval in units of a standard error with the given degrees of freedom.

    2.04 for 30 and 1.97 for 250: the normal quantile makes intervals of few independent values too short.
    """
    return np.asarray(stdtrit(freedom, (1 + confidence) / 2))
