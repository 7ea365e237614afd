"""Weak order from measured errors, by weighted regression with intervals.

Errors are signed and have independent standard errors s_i, as learning rates use independent streams. With
x = lr/max lr over the N points used, the model is the expansion of the weak error in powers of the learning rate,

    error(lr) = c lr^p (1 + d_1 x + d_2 x^2 + ... + d_N x^N),                                                  (1)
    |d_1| <= 1,     d_k = 0 +- S 2^(2 - k) from k = 2 on.

d_1 is fitted. It is bounded because it corrects the leading term: without the bound, c = 0 and a finite c d_1 at order
p - 1 would fit errors of order p as well. The terms beyond it are bounded nuisances. Each counts as one more
observation of 0, so that the misfit is

    sum_i (error_i - error(lr_i))^2 / s_i^2 + sum_(k >= 2) (d_k / (S 2^(2 - k)))^2.                            (2)

The data give the scale S where p is the order to be tested:

    S = min(BOUND, MARGIN (max h - min h + noise) / |mean h|),     h_i = error_i/lr_i^order.                   (3)

Therefore, however small the s_i are, an interval is never shorter than the possible effect of the neglected terms, and
an order is rejected only if no such terms explain the errors.

The interval of p is the profile interval: all p for which the misfit, minimised over c and d, is at most

    1.96^2 above its least value.                                                                              (4)

Two points do not determine d; their slope is the local slope between them. For given p, the model is linear in c and
c d_k. While a chi-squared test rejects the fit at 1%, the largest learning rate counts as outside the asymptotic range
and is left out. It is also left out where its interval excludes the order, while the interval of the remaining points
holds the order and neither of its neighbours, if there are at least four remaining points: three fit too many orders to
contradict it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from smesolve.comparison.outcomes import LeftOut, Verdict
from smesolve.confidence import NORMAL_QUANTILE
from smesolve.solver.orders import weak_order

__all__ = ["fit_orders"]

CORRECTED_POINTS = 3
"""Least number of points for which terms beyond the leading one are fitted."""

BOUND, MARGIN = 0.5, 3.0
"""S is at most `BOUND`, and `MARGIN` times the relative spread of error/lr^order, as corrections may cancel in part."""

REJECT = 0.01
"""p-value below which a fit is rejected."""

SEARCHED, SPACING = 8.0, 0.1
"""Distance from the slope between the outer points within which orders are searched, and the spacing of the first
search. An interval that reaches farther has an infinite end."""

STEPS = 2.0 ** np.arange(-30, np.log2(SEARCHED) + 1)
"""Distances from the best order at which the end of its interval is bracketed."""

SAME = 1e-9
"""Relative difference up to which two learning rates count as equal."""

DIGITS = 1e-12
"""Least relative standard error of an error, which is a difference of rounded numbers."""

COLUMNS = [
    "order", "observable", "slope", "slope_low", "slope_high", "constant", "constant_low", "constant_high",
    "constant_p_value", "predicted_constant", "predicted_stderr", "points", "p_value", "left_out", "verdict",
]  # fmt: skip


def fit_orders(table: pd.DataFrame, predicted: pd.DataFrame | None = None) -> pd.DataFrame:
    """Fit the weak order for every order and observable of a weak-error table.

    Args:
        table: rows with order, observable, lr, error, stderr, solver_bias_stderr, resolved, and for errors by defects
            `bias`, the bound on their bias.
        predicted: leading constants with order, observable, constant, stderr. Default: none.

    Returns:
        A row for each order and observable: `slope` p with its 95% interval; `constant` c for p = order, with its
        interval and the `constant_p_value` of that fit; `predicted_constant` with `predicted_stderr` where there is a
        prediction; the number of `points`, the `p_value` of the fit, and `left_out`, which names each unused point and
        the reason; and `verdict`, a `Verdict`. Numbers are NaN where fewer than two points are usable.
    """
    if predicted is None:
        predicted = pd.DataFrame(columns=["order", "observable", "constant", "stderr"])
    rows = []
    for (order, observable), group in table.groupby(["order", "observable"], sort=False):
        match = predicted.query("order == @order and observable == @observable")
        constant, stderr = (np.nan, np.nan) if match.empty else match[["constant", "stderr"]].iloc[0]
        prediction = {"predicted_constant": float(constant), "predicted_stderr": float(stderr)}
        nominal = weak_order(order)
        row = {"order": order, "observable": observable, **prediction, **_fit(group, float(nominal))}
        rows.append(row | {"verdict": _verdict(row, nominal)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _verdict(row: Mapping[str, Any], order: int) -> Verdict:
    if row["points"] <= 2:
        return Verdict.LOCAL_SLOPE if row["points"] == 2 else Verdict.NOT_RESOLVED
    if row["constant_high"] < 0 < row["predicted_constant"] or row["predicted_constant"] < 0 < row["constant_low"]:
        return Verdict.NOT_ASYMPTOTIC
    if not row["slope_low"] <= order <= row["slope_high"]:
        return Verdict.ANOTHER_ORDER
    return Verdict.CERTIFIED if _certifies(row, order) else Verdict.TOO_WIDE


def _certifies(slope: Mapping[str, Any], order: float) -> bool:
    """Return whether the interval holds the order and neither of its neighbours."""
    low, high = float(slope["slope_low"]), float(slope["slope_high"])
    return order - 1 < low <= order <= high < order + 1


def _fit(group: pd.DataFrame, order: float) -> dict[str, object]:
    left_out = [f"lr={lr:g}: {LeftOut.UNRESOLVED}" for lr in group[~group.resolved].lr]
    used = _joined(group[group.resolved])
    flips = np.flatnonzero(np.sign(used.error) != np.sign(used.error[:1]))
    if len(flips):
        # The sign at the smallest lr is the asymptotic sign; all points from the first flip on are outside that range.
        beyond = used.lr[flips[0] :]
        left_out += [f"lr={lr:g}: {LeftOut.OTHER_SIGN}" for lr in beyond]
        used = used.first(flips[0])
    total = len(used.lr)
    if total < 2:
        return {"points": total, "left_out": "; ".join(left_out)}
    kept = None
    for points in range(total, 1, -1):
        errors = used.first(points)
        slope = _slope(errors, order)
        accepted = slope["p_value"] >= REJECT or points == 2
        if accepted and (kept is None or (points > CORRECTED_POINTS and _certifies(slope, order))):
            kept = points, slope
            if points == 2 or slope["slope_low"] <= order <= slope["slope_high"]:
                break
    assert kept is not None  # two points are always accepted
    points, slope = kept
    left_out += [f"lr={lr:g}: {LeftOut.NOT_ASYMPTOTIC}" for lr in used.lr[points:]]
    constant = _constant(used.first(points), order)
    return slope | constant | {"points": points, "left_out": "; ".join(left_out)}


@dataclass(frozen=True)
class _Errors:
    """Errors with standard errors at increasing learning rates."""

    lr: np.ndarray
    error: np.ndarray
    sigma: np.ndarray

    def first(self, points: int) -> _Errors:
        """Return the errors at the smallest learning rates."""
        return _Errors(self.lr[:points], self.error[:points], self.sigma[:points])


def _joined(rows: pd.DataFrame) -> _Errors:
    """Return the errors at different learning rates; errors at equal rates, up to rounding, are averaged by weight."""
    rows = rows.sort_values("lr")
    lr, error = rows.lr.to_numpy(float), rows.error.to_numpy(float)
    sigma = np.hypot(rows.stderr, rows.solver_bias_stderr).to_numpy(float)
    if "bias" in rows:
        sigma = np.hypot(sigma, rows.bias.to_numpy(float) / NORMAL_QUANTILE)
    weight = np.maximum(sigma, DIGITS * np.abs(error)) ** -2.0
    first = np.flatnonzero(np.diff(lr, prepend=0.0) > SAME * lr)
    total = np.add.reduceat(weight, first) if len(first) else weight
    mean = np.add.reduceat(weight * error, first) / total if len(first) else error
    return _Errors(lr[first], mean, total**-0.5)


def _slope(errors: _Errors, order: float) -> dict[str, float]:
    """Return the order p of least misfit, its interval (4), and the p-value of the fit."""
    lr, error = errors.lr, errors.error
    corrected = len(lr) >= CORRECTED_POINTS
    scale = _scale(errors, order)

    def misfit(p: float) -> float:
        return float(_misfit(np.array([p]), errors, scale, corrected)[0])

    between = float(np.log(error[-1] / error[0]) / np.log(lr[-1] / lr[0]))
    grid = np.clip(between, order - SEARCHED, order + SEARCHED) + np.arange(-SEARCHED, SEARCHED, SPACING)
    near = float(grid[np.argmin(_misfit(grid, errors, scale, corrected))])
    bounds = near - SPACING, near + SPACING
    best = float(optimize.minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)
    least, freedom = misfit(best), len(lr) - 2 - corrected

    def end(side: float) -> float:
        """Return the p, from the best p to one side, at which the misfit first exceeds (4)."""
        outside = _misfit(best + side * STEPS, errors, scale, corrected) - least > NORMAL_QUANTILE**2  # (4)
        if not outside.any():
            return side * np.inf
        far = int(outside.argmax())
        if far == 0:
            return best + side * float(STEPS[0])
        excess = lambda step: misfit(best + side * step) - least - NORMAL_QUANTILE**2  # noqa: E731
        return best + side * float(optimize.brentq(excess, STEPS[far - 1], STEPS[far]))

    return {
        "slope": best,
        "slope_low": end(-1.0),
        "slope_high": end(1.0),
        # With as many parameters as points the fit is exact, unless the bound on d_1 is active.
        "p_value": float(special.chdtrc(max(freedom, 1), least)),
    }


def _scale(errors: _Errors, order: float) -> float:
    """Return S of (3) for the order to be tested, which includes the noise of the errors."""
    height, noise = errors.error / errors.lr**order, errors.sigma / errors.lr**order
    low, high = height.argmin(), height.argmax()
    spread = height[high] - height[low] + NORMAL_QUANTILE * np.hypot(noise[low], noise[high])
    return min(BOUND, MARGIN * float(spread / abs(np.average(height, weights=noise**-2.0))))


def _design(p: np.ndarray, errors: _Errors, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the terms of (1) in units of standard errors, at the N errors and the N - 1 zeros of d_2 ... d_N of (2).

    Returns:
        For each p the directions of c and of c d_1 (P, 2 N - 1) each, the directions of the nuisances
        (P, 2 N - 1, N - 1), and the observations (P, 2 N - 1).
    """
    x, points = errors.lr / errors.lr[-1], len(errors.lr)
    powers = np.arange(2, points + 1)
    lead = (errors.lr / errors.lr[0]) ** p[:, None] / errors.sigma
    further = lead[:, :, None] * x[:, None] ** powers * (abs(errors.error[0]) * scale * 2.0 ** (2 - powers))
    zeros = np.zeros((len(p), points - 1))
    nuisances = np.concatenate([further, np.broadcast_to(np.eye(points - 1), (len(p), points - 1, points - 1))], axis=1)
    first, second, height = lead, lead * x, np.broadcast_to(errors.error / errors.sigma, lead.shape)
    first, second, height = (np.concatenate([part, zeros], axis=1) for part in (first, second, height))
    return first, second, nuisances, height


def _misfit(p: np.ndarray, errors: _Errors, scale: float, corrected: bool) -> np.ndarray:
    """Return the misfit (2) at each p, minimised over c and, if `corrected`, over d."""
    first, second, nuisances, height = _design(p, errors, scale)
    if not corrected:
        return np.asarray(np.square(_orthogonal_to(first, height)).sum(-1))
    first, second, height = _orthogonal_to_all(nuisances, first, second, height)
    # Both are projected first, as the first direction may be longer than the remainders by ten digits.
    rest, left = _orthogonal_to(first, second), _orthogonal_to(first, height)
    correction = _product(rest, left) / _product(rest, rest)  # c d_1
    lead = _product(first, height - correction * second) / _product(first, first)  # c
    inside = np.square(left - correction * rest).sum(-1)
    edges = [np.square(_orthogonal_to(edge, height)).sum(-1) for edge in (first + second, first - second)]
    return np.asarray(np.where((abs(correction) <= abs(lead))[:, 0], inside, np.minimum(*edges)))


def _constant(errors: _Errors, order: float) -> dict[str, float]:
    """Fit c for p = order, with its interval and the p-value, by linear regression on lr^order, lr^(order + 1), ...

    |d_1| is not bounded here: error/lr^order is linear in lr apart from the nuisances, and c is its value at lr = 0.
    """
    design = _design(np.array([float(order)]), errors, _scale(errors, order))
    first, second, height = _orthogonal_to_all(design[2], design[0], design[1], design[3])
    lead, left = _orthogonal_to(second, first), _orthogonal_to(second, height)
    constant = (_product(lead, left) / _product(lead, lead)).item()
    half = NORMAL_QUANTILE / float(np.linalg.norm(lead))
    misfit = float(np.square(left - constant * lead).sum())
    names = ("constant", "constant_low", "constant_high")
    values = (np.array([0.0, -half, half]) + constant) / errors.lr[0] ** order
    return dict(zip(names, values, strict=True)) | {
        "constant_p_value": float(special.chdtrc(max(len(errors.lr) - 2, 1), misfit))
    }


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return inner products along the last dimension, which is kept."""
    return np.asarray((left * right).sum(-1, keepdims=True))


def _orthogonal_to(direction: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the part of vectors that is orthogonal to a direction."""
    return np.asarray(of - direction * _product(direction, of) / _product(direction, direction))


def _orthogonal_to_all(directions: np.ndarray, *vectors: np.ndarray) -> list[np.ndarray]:
    """Return the parts of vectors (P, K) that are orthogonal to the columns of matrices (P, K, J)."""
    basis = np.linalg.qr(directions).Q
    return [of - (basis @ (basis.swapaxes(1, 2) @ of[..., None]))[..., 0] for of in vectors]
