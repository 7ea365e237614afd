"""Largest kappa up to which errors stay within a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["follows", "reach"]


def follows(table: pd.DataFrame, tolerance: float) -> list[bool | None]:
    """Return whether each `relative` error is within the tolerance with its interval; None if this is not resolved."""
    ends = list(zip(table.relative_low, table.relative_high, strict=True))
    beyond = [low > tolerance or high < -tolerance for low, high in ends]
    inside = [max(-low, high) <= tolerance for low, high in ends]
    return [True if within else False if out else None for within, out in zip(inside, beyond, strict=True)]


def reach(group: pd.DataFrame, tolerance: float, below: float = np.nan) -> dict[str, Any]:
    """Return up to which kappa errors stay within the tolerance.

    Args:
        group: rows by increasing kappa: kappa, `relative` error with `relative_low`, `relative_high`, and `follows`.
        tolerance: largest relative error.
        below: a kappa at which the error is 0. Default: none is known.

    Returns:
        `holds`, the largest kappa up to which every error is within the tolerance; `fails`, the smallest kappa with an
        error beyond it; and `kappa`, with `kappa_low`, `kappa_high`, where the error, interpolated on log scales, first
        reaches it. NaN outside the measured range; an unknown upper end is infinite.
    """
    sure = group.follows.map(lambda verdict: verdict is True).cummin()
    broken = group[group.follows.map(lambda verdict: verdict is False)]
    size = group.relative.abs()
    half = (group.relative_high - group.relative_low) / 2
    kappa = _crossing(group.kappa, size, tolerance, np.nan, np.nan)
    return {
        "holds": group[sure].kappa.max() if sure.any() else np.nan,
        "fails": broken.kappa.min() if len(broken) else np.nan,
        "kappa": kappa,
        "kappa_low": _crossing(group.kappa, size + half, tolerance, below, np.nan),
        "kappa_high": _crossing(group.kappa, (size - half).clip(lower=1e-300), tolerance, np.nan, np.inf),
    }


def _crossing(kappas: pd.Series, sizes: pd.Series, tolerance: float, before: float, after: float) -> float:
    """Return the first kappa at which sizes, interpolated linearly on log scales, reach the tolerance.

    Args:
        kappas: increasing values.
        sizes: positive sizes of the errors.
        tolerance: the tolerance.
        before: result if the first size is beyond the tolerance.
        after: result if no size is.
    """
    x, y = np.log(kappas.to_numpy(float)), np.log(sizes.to_numpy() / tolerance)
    if y[0] >= 0:
        return before
    for k in range(len(x) - 1):
        if y[k] < 0 <= y[k + 1]:
            return float(np.exp(x[k] - y[k] * (x[k + 1] - x[k]) / (y[k + 1] - y[k])))
    return after
