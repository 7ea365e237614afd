"""Comparisons between training runs, and their intervals in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from smesolve.experiments.shared.line_profiles import line_profiles
from smesolve.landscape.estimates import Estimate, mean_over, over_runs

__all__ = ["against_first", "known_or_unresolved", "resolved_counts", "signed", "wider_sides"]


def against_first(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Return the differences between each training and the first one, paired by run, with intervals."""
    wide = table.pivot(index="run", columns="training", values=list(measures))
    first, *others = table.training.unique()
    rows = []
    for name in others:
        row: dict[str, object] = {"training": name}
        for measure in measures:
            row |= mean_over(wide[measure, name] - wide[measure, first]).columns(measure)
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["training", *measures])


def signed(estimate: Estimate, higher: str, lower: str) -> str:
    """Return `higher` or `lower` with the interval if it excludes 0, otherwise "unresolved"."""
    if estimate.low > 0:
        return f"{higher} ({estimate})"
    if estimate.high < 0:
        return f"{lower} ({estimate})"
    return "unresolved" if np.isnan(estimate.value) else f"unresolved ({estimate})"


def known_or_unresolved(row: Any, column: str) -> str:
    """Return the value in a row of a table with its interval; "unresolved" if it is not a number."""
    value, low, high = (getattr(row, f"{column}{end}") for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "unresolved"
    interval = "without an interval, from one run" if np.isnan(low) else f"[{low:.3g}, {high:.3g}]"
    return f"{value:.3g} {interval}"


def resolved_counts(table: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """Return how many of the measurements have a resolved alignment, such as "3/4", by two columns of the table."""
    groups = table.groupby([rows, columns], sort=False).verdict
    counts = groups.agg(lambda verdicts: f"{(verdicts == 'aligned').sum()}/{len(verdicts)}")
    return counts.unstack(columns).reset_index()


def wider_sides(segments: pd.DataFrame) -> pd.DataFrame:
    """Return barrier and asymmetry of the lines between solutions, and the side on which the valley is wider.

    The table of segments has one row per position: first, second, run, alpha, loss. Each row of the result has the
    means over the runs, with intervals, of the lines to one solution `second`.
    """
    if segments.empty:
        return pd.DataFrame(columns=["second", "barrier", "asymmetry", "wider"])
    table = over_runs(line_profiles(segments, ["second", "run"]), ["second"], ["barrier", "asymmetry"])
    table["wider"] = [
        row.second if row.asymmetry_high < 0 else segments["first"].iloc[0] if row.asymmetry_low > 0 else "unresolved"
        for row in table.itertuples()
    ]
    return table
