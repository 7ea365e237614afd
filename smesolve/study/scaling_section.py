"""What the figures and reports of the studies of scaling share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smesolve.study.figures import DROPOUT, ORDERS, Look, points

__all__ = ["LOOKS", "QUADRATIC", "curve", "with_reasons"]

QUADRATIC = Look("quadratic equation", "#009e73", ":", "D")

LOOKS = {"iteration": DROPOUT, "1": ORDERS[1], "2": ORDERS[2], "quadratic": QUADRATIC}


def curve(axis: Axes, x: pd.Series, part: pd.DataFrame, look: Look, label: str | None, line: str | None = None) -> None:
    """|relative| with its interval against x; hollow where unresolved."""
    size = part.relative.abs()
    half = (part.relative_high - part.relative_low) / 2
    bottom = size[size > 0].min() / 10 if (size > 0).any() else 1e-16
    axis.errorbar(
        x,
        size,
        np.array([np.minimum(half, size - bottom).clip(lower=0), half]),
        color=look.colour,
        linestyle=look.line if line is None else line,
        marker=look.marker,
        capsize=1.5,
        elinewidth=0.8,
        label=label,
    )
    points(axis, x, size, part.resolved, look)


def with_reasons(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `resolved` in words: "yes", or "no" with the reason."""
    return table.assign(resolved=["yes" if row.resolved else f"no: {row.reason}" for row in table.itertuples()])
