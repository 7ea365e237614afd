"""Collapse of errors on one curve: the power q of keep_prob for which they are a function of lr / keep_prob^q."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize

from smesolve.confidence import CONFIDENCE, NORMAL_QUANTILE

__all__ = ["COLLAPSE_BELOW", "POWERS", "spreads_about_one_curve"]

COLLAPSE_BELOW = 0.3
"""Multiple of the natural scale up to which errors are compared with one curve; beyond it, they change sign."""

POWERS = (0.0, 1.0, 2.0)
"""The powers q of the candidates lr / keep_prob^q."""

TRIED_POWERS = np.linspace(-1, 5, 61)
"""Powers between which that of least spread is sought."""

RESAMPLES = 400
"""Draws of the bootstrap."""


def spreads_about_one_curve(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Measure the distance of errors from one curve in lr / keep_prob^q.

    A parabola in ln(lr / keep_prob^q) is fitted to ln|error| of the resolved cells of small lr.

    Args:
        table: a row for each cell: model, order, keep_prob, multiple, lr, horizon, relative with its interval, and
            resolved.
        seed: seed of the bootstrap.

    Returns:
        A row for each model, order and ordinate ("relative", the error at the horizon, and "rate", this error divided
        by the horizon): `spread_0`, `spread_1`, `spread_2` with `_low`, `_high`, the root mean square distance from the
        curve for q = 0, 1, 2; `power`, the q of least spread, with its interval; `spread`, the least spread; `cells`,
        the number of cells. The intervals (95%) are bootstrap intervals, over cells and their errors.
    """
    rng, rows = np.random.default_rng(seed), []
    for (model, order), group in table.groupby(["model", "order"], sort=False):
        cells = _comparable(group)
        for ordinate in ("relative", "rate"):
            if len(cells) < 8 or cells.keep_prob.nunique() < 3:
                continue
            rows.append({"model": model, "order": order, "ordinate": ordinate} | _spreads(cells, ordinate, rng))
    return pd.DataFrame(rows)


def _comparable(group: pd.DataFrame) -> pd.DataFrame:
    """Return the resolved cells of small lr that have the sign of most of them."""
    cells = group[group.resolved & (group.multiple <= COLLAPSE_BELOW)]
    return cells[np.sign(cells.relative) == np.sign(np.sign(cells.relative).sum())] if len(cells) else cells


def _spreads(cells: pd.DataFrame, ordinate: str, rng: np.random.Generator) -> dict[str, float]:
    log_lr, log_keep = np.log(cells.lr.to_numpy()), np.log(cells.keep_prob.to_numpy())
    error, unit = np.abs(cells.relative.to_numpy()), cells.horizon.to_numpy() if ordinate == "rate" else 1.0
    sigma = (cells.relative_high - cells.relative_low).to_numpy() / (2 * NORMAL_QUANTILE)

    def squared_spread(powers: ArrayLike, chosen: np.ndarray, heights: np.ndarray) -> np.ndarray:
        x = (log_lr - np.asarray(powers)[..., None] * log_keep)[..., chosen]
        x = (x - x.mean(-1, keepdims=True)) / np.maximum(x.std(-1, keepdims=True), 1e-12)
        parabolas = x[..., None] ** np.arange(3)
        left = heights - (parabolas @ (np.linalg.pinv(parabolas) @ heights[:, None]))[..., 0]
        squares: np.ndarray = (left**2).sum(-1)
        return squares / max(len(heights) - 3, 1)

    def all_spreads(chosen: np.ndarray, heights: np.ndarray) -> list[float]:
        free = partial(squared_spread, chosen=chosen, heights=heights)
        nearest = int(free(TRIED_POWERS).argmin())  # the spread has several minima
        bounds = TRIED_POWERS[max(0, nearest - 1)], TRIED_POWERS[min(nearest + 1, len(TRIED_POWERS) - 1)]
        best = optimize.minimize_scalar(free, bounds=bounds, method="bounded")
        return [*np.sqrt(free(POWERS)), float(best.x), float(np.sqrt(best.fun))]

    found = all_spreads(np.arange(len(cells)), np.log(error / unit))
    drawn: list[list[float]] = []
    while len(drawn) < RESAMPLES:
        chosen = rng.integers(len(cells), size=len(cells))
        noisy = np.abs(error + sigma * rng.standard_normal(len(cells))) / unit
        if len(set(chosen)) > 5 and (noisy > 0).all():
            drawn.append(all_spreads(chosen, np.log(noisy)[chosen]))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    names = [*(f"spread_{power:g}" for power in POWERS), "power", "spread"]
    result: dict[str, float] = {"cells": len(cells)}
    for name, value, below, above in zip(names, found, low, high, strict=True):
        result |= {name: value, f"{name}_low": below, f"{name}_high": above}
    return result
