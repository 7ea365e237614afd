"""Numbers in the figures of Zhang, Xu (TPAMI 2024, arXiv 2207.05952), and their comparison with ours.

Their network is 784-1000-10, trained on the first 1,000 images of MNIST with squared error. Accuracies are shares of
MNIST's own test set. In figure 13, `peak` is the largest loss on the line between two solutions, `peak_alpha` its
position, and `behind` the loss at alpha = -0.5, behind the first solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["beside_paper", "judged", "means_beside_paper", "paper_numbers"]

CLOSE = 1e-9
"""Relative difference up to which keep probabilities and learning rates are the same."""


@cache
def _numbers() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("paper_numbers.csv"), dtype={"figure": str})


def paper_numbers(figure: str, lr: float) -> pd.DataFrame:
    """Return the numbers of a figure at the printed learning rate that is closest to lr (in ratio).

    Columns: quantity, training, lr, keep_prob (1 where there is no dropout), value.
    """
    table = _numbers()[_numbers().figure == figure].drop(columns="figure")
    printed = table.lr.unique()
    nearest = printed[np.abs(np.log(printed / lr)).argmin()]
    return table[table.lr == nearest].reset_index(drop=True)


def beside_paper(
    ours: pd.DataFrame, figure: str, lr: float, same: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """Return our numbers together with the numbers of a figure.

    Args:
        ours: columns quantity, training, keep_prob, value, value_low, value_high.
        figure: number of the figure.
        lr: learning rate; the closest one of the figure is used.
        same: the paper's name of trainings that it calls by another one.

    Returns:
        One row per row of `ours`: `paper` (NaN if the figure has no number), `ratio` of ours to theirs with its
        interval, and `agrees`: "yes" if theirs lies in our interval, "no" if it does not, "unresolved" if our interval
        contains theirs and 0, "-" without a number of theirs.
    """
    numbers = paper_numbers(figure, lr)
    theirs = ours.assign(training=ours.training.replace(dict(same)))
    paper = [_paper_value(numbers, row) for row in theirs.itertuples()]
    return judged(ours.assign(paper=paper))


def means_beside_paper(
    means: pd.DataFrame, figures: Mapping[str, str], lr: float, same: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """Return the rows of `beside_paper` for each quantity and row of a table of means.

    Args:
        means: training, keep_prob, and for each quantity a column with its interval, as `over_runs` returns them.
        figures: numbers of the figures by quantity.
        lr: learning rate; the closest one of each figure is used.
        same: as for `beside_paper`.
    """
    parts = []
    for quantity, figure in figures.items():
        names = {f"{quantity}{end}": f"value{end}" for end in ("", "_low", "_high")}
        ours = means[["training", "keep_prob", *names]].rename(columns=names).assign(quantity=quantity)
        parts.append(beside_paper(ours, figure, lr, same))
    return pd.concat(parts, ignore_index=True)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Add `ratio` and `agrees` to a table with `value`, its interval, and `paper`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [table[column] / table.paper for column in ("value", "value_low", "value_high")]
    low, high = np.minimum(ends[1], ends[2]), np.maximum(ends[1], ends[2])
    inside = (table.value_low <= table.paper) & (table.paper <= table.value_high)
    nothing = (table.value_low <= 0) & (table.value_high >= 0)
    agrees = np.select([table.paper.isna(), inside & nothing, inside], ["-", "unresolved", "yes"], "no")
    return table.assign(ratio=ends[0], ratio_low=low, ratio_high=high, agrees=agrees)


def _paper_value(numbers: pd.DataFrame, row: Any) -> float:
    same = (numbers.quantity == row.quantity) & (numbers.training == row.training)
    keep_prob = 1.0 if row.training == "R_S" else row.keep_prob
    found = numbers[same & np.isclose(numbers.keep_prob, keep_prob, rtol=CLOSE, atol=0)]
    return float(found.value.iloc[0]) if len(found) else np.nan
