"""Weak order from measured errors: weighted regression with intervals.

Errors are signed and have independent standard errors s_i (learning rates use independent streams). The model is

    error(lr) = c lr^p (1 + d lr),

fitted by weighted least squares; two points cannot carry d, their slope is the local one between them. While a
chi-squared test rejects the fit at 1%, the largest learning rate is taken to lie outside the asymptotic range and
leaves.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, stats

__all__ = ["fit_orders"]

CORRECTED_POINTS = 3
"""Points from which the next term of the expansion is fitted as well."""

REJECT = 0.01
"""p-value under which a fit is rejected."""

COLUMNS = [
    "order", "observable", "slope", "slope_low", "slope_high", "constant", "constant_low", "constant_high",
    "predicted_constant", "predicted_stderr", "points", "p_value", "left_out",
]  # fmt: skip


def fit_orders(table: pd.DataFrame, predicted: pd.DataFrame | None = None) -> pd.DataFrame:
    """Fit every order and observable of a weak-error table (one row for each lr).

    Returns:
        A row for each: `slope` with its 95% interval; `constant` c at the nominal order (p fixed to it) with its
        interval, and `predicted_constant` with its `predicted_stderr` where theory gives it; number of `points`,
        `p_value` of the fit, and `left_out`, which names each point that was not used and why. NaN where fewer than
        two points are usable.
    """
    if predicted is None:
        predicted = pd.DataFrame(columns=["order", "observable", "constant", "stderr"])
    rows = []
    for (order, observable), group in table.groupby(["order", "observable"], sort=False):
        match = predicted.query("order == @order and observable == @observable")
        constant, stderr = (np.nan, np.nan) if match.empty else match[["constant", "stderr"]].iloc[0]
        prediction = {"predicted_constant": float(constant), "predicted_stderr": float(stderr)}
        rows.append({"order": order, "observable": observable, **prediction, **_fit(group, int(order))})
    return pd.DataFrame(rows, columns=COLUMNS)


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
        corrected = len(used) >= CORRECTED_POINTS
        slope = _least_squares(lr, error, sigma, None, corrected)
        if slope["p_value"] >= REJECT or len(used) == 2:
            fixed = _least_squares(lr, error, sigma, float(order), len(used) > 2)
            return {
                "slope": slope["slope"],
                "slope_low": slope["slope"] - slope["slope_half"],
                "slope_high": slope["slope"] + slope["slope_half"],
                "constant": fixed["constant"],
                "constant_low": fixed["constant"] - fixed["constant_half"],
                "constant_high": fixed["constant"] + fixed["constant_half"],
                "points": len(used),
                "p_value": slope["p_value"],
                "left_out": "; ".join(left_out),
            }
        left_out.append(f"lr={lr[-1]:g}: outside the asymptotic range")
        used = used.iloc[:-1]
    return {"points": len(used), "left_out": "; ".join(left_out)}


def _least_squares(
    lr: np.ndarray, error: np.ndarray, sigma: np.ndarray, order: float | None, corrected: bool
) -> dict[str, float]:
    """Fit c lr^p (1 + d lr); p fixed where `order` is given, d = 0 unless `corrected`."""
    # In units of the smallest lr and its error, so that all parameters are of order one.
    scale, unit_error = lr[0], error[0]
    power = (lambda p: order) if order is not None else (lambda p: p[1])

    def misfit(p: np.ndarray) -> np.ndarray:
        model = p[0] * (lr / scale) ** power(p) * (1 + (p[-1] * lr / lr[-1] if corrected else 0.0))
        return (model * unit_error - error) / sigma

    start = [1.0]
    if order is None:
        start.append(np.log(error[-1] / error[0]) / np.log(lr[-1] / lr[0]))
    if corrected:
        start.append(0.0)
    result = optimize.least_squares(misfit, start, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12)
    covariance = np.linalg.pinv(result.jac.T @ result.jac)
    freedom = len(lr) - len(start)
    z = stats.norm.ppf(0.975)
    unit = abs(unit_error) * scale ** -power(result.x)
    return {
        "slope": float(power(result.x)),
        "slope_half": 0.0 if order is not None else float(z * covariance[1, 1] ** 0.5),
        "constant": float(result.x[0] * unit * np.sign(unit_error)),
        "constant_half": float(z * covariance[0, 0] ** 0.5 * unit),
        "p_value": float(stats.chi2.sf(2 * result.cost, freedom)) if freedom else 1.0,
    }
