"""Weak order from measured errors: weighted regression with intervals.

Errors are signed and have independent standard errors s_i (learning rates use independent streams). The model is

    error(lr) = c lr^p (1 + d lr),      |d| lr <= 1 at all points: the second term is a correction of the first,

fitted by weighted least squares. Without the bound a second fit of three points is never far, c = 0 at order p - 1. The
interval of p is that of the profile, all p with min over c, d of the misfit at most 1.96^2 above its least value: the
derivative at the best p alone makes it too short where three errors are known to some per cent. Two points cannot carry
d, their slope is the local one between them. The constant is linear in c and c d once p is given. While a chi-squared
test rejects the fit at 1%, the largest learning rate is taken to lie outside the asymptotic range and leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from smesolve.comparison.confidence import NORMAL_QUANTILE

__all__ = ["fit_orders"]

CORRECTED_POINTS = 3
"""Points from which the next term of the expansion is fitted as well."""

REJECT = 0.01
"""p-value under which a fit is rejected."""

SEARCHED, SPACING = 8.0, 0.05
"""Orders are searched this far from the slope between the outer points, first on a grid of this spacing; an interval
that goes farther is infinite."""

COLUMNS = [
    "order", "observable", "slope", "slope_low", "slope_high", "constant", "constant_low", "constant_high",
    "predicted_constant", "predicted_stderr", "points", "p_value", "left_out", "verdict",
]  # fmt: skip


def fit_orders(table: pd.DataFrame, predicted: pd.DataFrame | None = None) -> pd.DataFrame:
    """Fit every order and observable of a weak-error table (one row for each lr).

    Returns:
        A row for each: `slope` with its 95% interval; `constant` c at the nominal order (p fixed to it) with its
        interval, and `predicted_constant` with its `predicted_stderr` where theory gives it; number of `points`,
        `p_value` of the fit, and `left_out`, which names each point that was not used and why. NaN where fewer than
        two points are usable. `verdict`: "not resolved" (fewer than two points), "local slope" (two), "certified" (the
        interval of the slope holds the order and neither of its neighbours), "too wide" (a neighbour as well), "another
        order", or "not asymptotic" (the constant has surely not the sign of the predicted one).
    """
    if predicted is None:
        predicted = pd.DataFrame(columns=["order", "observable", "constant", "stderr"])
    rows = []
    for (order, observable), group in table.groupby(["order", "observable"], sort=False):
        match = predicted.query("order == @order and observable == @observable")
        constant, stderr = (np.nan, np.nan) if match.empty else match[["constant", "stderr"]].iloc[0]
        prediction = {"predicted_constant": float(constant), "predicted_stderr": float(stderr)}
        row = {"order": order, "observable": observable, **prediction, **_fit(group, int(order))}
        rows.append(row | {"verdict": _verdict(row)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _verdict(row: Mapping[str, Any]) -> str:
    if row["points"] <= 2:
        return "local slope" if row["points"] == 2 else "not resolved"
    if row["constant_high"] < 0 < row["predicted_constant"] or row["predicted_constant"] < 0 < row["constant_low"]:
        return "not asymptotic"
    low, high, order = row["slope_low"], row["slope_high"], row["order"]
    if not low <= order <= high:
        return "another order"
    return "certified" if order - 1 < low and high < order + 1 else "too wide"


def _fit(group: pd.DataFrame, order: int) -> dict[str, object]:
    left_out = [f"lr={lr:g}: unresolved" for lr in group[~group.resolved].lr]
    used = group[group.resolved].sort_values("lr")
    if len(used):
        sign = np.sign(used.error.iloc[0])
        flips = used[np.sign(used.error) != sign]
        if len(flips):
            # The sign of the smallest lr is the asymptotic one; everything from the first flip on lies beyond it.
            beyond = used.lr >= flips.lr.min()
            left_out += [f"lr={lr:g}: error has the other sign, outside the asymptotic range" for lr in used[beyond].lr]
            used = used[~beyond]
    while len(used) >= 2:
        lr, error = used.lr.to_numpy(), used.error.to_numpy()
        sigma = np.hypot(used.stderr, np.hypot(used.solver_bias, used.solver_bias_stderr)).to_numpy()
        slope = _slope(lr, error, sigma)
        if slope["p_value"] >= REJECT or len(used) == 2:
            return slope | _constant(lr, error, sigma, order) | {"points": len(used), "left_out": "; ".join(left_out)}
        left_out.append(f"lr={lr[-1]:g}: outside the asymptotic range")
        used = used.iloc[:-1]
    return {"points": len(used), "left_out": "; ".join(left_out)}


def _slope(lr: np.ndarray, error: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    """The order p of least misfit, its interval, and the p-value of the fit."""
    corrected = len(lr) >= CORRECTED_POINTS

    def misfit(p: float) -> float:
        return _misfit(p, lr, error / sigma, sigma, corrected)

    between = float(np.log(error[-1] / error[0]) / np.log(lr[-1] / lr[0]))
    grid = between + np.arange(-SEARCHED, SEARCHED, SPACING)
    near = float(grid[np.argmin([misfit(p) for p in grid])])
    bounds = near - SPACING, near + SPACING
    best = float(optimize.minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)
    least, freedom = misfit(best), len(lr) - 2 - corrected

    def end(side: float) -> float:
        """Where the misfit first exceeds that of the interval, going away from the best p."""
        excess = lambda step: misfit(best + side * step) - least - NORMAL_QUANTILE**2  # noqa: E731
        step = 1e-9
        while excess(step) < 0:
            step *= 2
            if step > SEARCHED:
                return side * np.inf
        return best + side * optimize.brentq(excess, step / 2, step) if step > 1e-9 else best + side * step

    return {
        "slope": best,
        "slope_low": end(-1.0),
        "slope_high": end(1.0),
        "p_value": float(stats.chi2.sf(least, freedom)) if freedom else 1.0,
    }


def _misfit(p: float, lr: np.ndarray, height: np.ndarray, sigma: np.ndarray, corrected: bool) -> float:
    """Least sum of squares of height - c lr^p (1 + d lr) / sigma over c and, where `corrected`, |d| <= 1 / max lr."""
    first = (lr / lr[0]) ** p / sigma
    second = first * lr / lr[-1]

    def left(direction: np.ndarray, of: np.ndarray = height) -> np.ndarray:
        return of - direction * (direction @ of) / (direction @ direction)

    if not corrected:
        return float(np.square(left(first)).sum())
    beside = left(first, second)
    bend = beside @ height / (beside @ beside)
    lead = first @ (height - bend * second) / (first @ first)
    if abs(bend) <= abs(lead):
        return float(np.square(height - lead * first - bend * second).sum())
    return min(float(np.square(left(edge)).sum()) for edge in (first + second, first - second))


def _constant(lr: np.ndarray, error: np.ndarray, sigma: np.ndarray, order: int) -> dict[str, float]:
    """c with its interval for p = order: linear regression of the error on lr^p and lr^(p + 1)."""
    scale = lr[0]
    design = (lr / scale)[:, None] ** np.array([order, order + 1]) / sigma[:, None]
    inverse = np.linalg.pinv(design)
    constant, half = inverse[0] @ (error / sigma), NORMAL_QUANTILE * np.linalg.norm(inverse[0])
    names = ("constant", "constant_low", "constant_high")
    return dict(zip(names, (np.array([0.0, -half, half]) + constant) / scale**order, strict=True))
