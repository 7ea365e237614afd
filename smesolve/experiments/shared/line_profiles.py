"""Profiles of the loss on lines between solutions, line by line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd

from smesolve.landscape.flatness import loss_profile

__all__ = ["line_profiles"]


def line_profiles(lines: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return one row per line: its `loss_profile`, and `behind`, the loss at the smallest alpha.

    Args:
        lines: columns `by`, alpha, loss; one row per position.
        by: the columns that identify a line.
    """
    rows = []
    for keys, group in lines.groupby(list(by), sort=False):
        ordered = group.sort_values("alpha")
        profile = loss_profile(ordered.alpha.to_numpy(), ordered.loss.to_numpy())
        head = dict(zip(by, keys, strict=True)) | {"behind": ordered.loss.iloc[0]}
        rows.append(head | dataclasses.asdict(profile))
    return pd.DataFrame(rows)
