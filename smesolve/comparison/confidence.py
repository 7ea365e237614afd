"""The confidence of every interval."""

from __future__ import annotations

from scipy.special import ndtri

__all__ = ["CONFIDENCE", "NORMAL_QUANTILE"]

CONFIDENCE = 0.95
"""Of every interval."""

NORMAL_QUANTILE = float(ndtri((1 + CONFIDENCE) / 2))
"""Half-width of an interval in standard errors."""
