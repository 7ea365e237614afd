"""Curves of relative errors with intervals, and verdicts in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.figures import DROPOUT, ORDERS, SEQUENCE, CurveStyle, points

__all__ = ["QUADRATIC", "STYLES", "curve", "with_reasons"]

QUADRATIC = SEQUENCE[3]._replace(label="quadratic equation")

STYLES = {"iteration": DROPOUT, "1": ORDERS[1], "2": ORDERS[2], "quadratic": QUADRATIC}


def curve(
    axis: Axes, x: pd.Series, part: pd.DataFrame, style: CurveStyle, label: str | None, line: str | None = None
) -> None:
    """Draw |relative| with its interval against x; unresolved points are hollow."""
    size = part.relative.abs()
    half = (part.relative_high - part.relative_low) / 2
    bottom = size[size > 0].min() / 10 if (size > 0).any() else 1e-16
    room = np.array([np.minimum(half, size - bottom).clip(lower=0), half])
    look = style.line_options | ({} if line is None else {"linestyle": line})
    axis.errorbar(x, size, room, capsize=1.5, elinewidth=0.8, label=label, **look)
    points(axis, x, size, part.resolved, style)


def with_reasons(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `resolved` in words: "yes", or "no" with the reason."""
    return table.assign(resolved=["yes" if row.resolved else f"no: {row.reason}" for row in table.itertuples()])
