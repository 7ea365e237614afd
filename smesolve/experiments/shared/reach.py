"""Up to which kappa errors stay inside a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["follows", "reach"]


def follows(low: float, high: float, tolerance: float) -> bool | None:
    """Return whether an error with this interval is inside the tolerance; None where the interval does not say."""
    if max(-low, high) <= tolerance:
        return True
    return False if low > tolerance or high < -tolerance else None


def reach(group: pd.DataFrame, tolerance: float, below: float = np.nan) -> dict[str, Any]:
    """Return up to which kappa errors stay inside the tolerance.

    Args:
        group: rows by increasing kappa: kappa, `relative` error with `relative_low`, `relative_high`, and `follows`.
        tolerance: largest relative error.
        below: a kappa at which the error is 0. Default: none is known.

    Returns:
        `holds`, the largest kappa up to which every error is inside the tolerance; `fails`, the smallest one that is
        not; and `kappa`, with `kappa_low`, `kappa_high`, where the error, interpolated on log scales, first reaches it:
        NaN outside the measured range, an upper end that is not known is infinite.
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
    """Return the first kappa at which sizes, linear between the points on log scales, reach the tolerance.

    Args:
        kappas: increasing.
        sizes: of errors, positive.
        tolerance: that they reach.
        before: what is returned where the first size is beyond the tolerance.
        after: what is returned where none is.
    """
    x, y = np.log(kappas.to_numpy(float)), np.log(sizes.to_numpy() / tolerance)
    if y[0] >= 0:
        return before
    for k in range(len(x) - 1):
        if y[k] < 0 <= y[k + 1]:
            return float(np.exp(x[k] - y[k] * (x[k + 1] - x[k]) / (y[k + 1] - y[k])))
    return after
