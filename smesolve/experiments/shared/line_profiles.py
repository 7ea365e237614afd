"""Profiles of the loss on lines between solutions, line by line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd

from smesolve.landscape.loss_profile import loss_profile

__all__ = ["line_profiles"]


def line_profiles(lines: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return a row for each line: its `loss_profile`, and `behind`, the loss farthest behind the first solution.

    Args:
        lines: columns `by`, alpha, loss; a row for each position.
        by: the columns that tell lines apart.
    """
    rows = []
    for keys, group in lines.groupby(list(by), sort=False):
        ordered = group.sort_values("alpha")
        profile = loss_profile(ordered.alpha.to_numpy(), ordered.loss.to_numpy())
        head = dict(zip(by, keys, strict=True)) | {"behind": ordered.loss.iloc[0]}
        rows.append(head | dataclasses.asdict(profile))
    return pd.DataFrame(rows)
