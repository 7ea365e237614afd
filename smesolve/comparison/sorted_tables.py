"""Tables sorted by the order of their equations, which is a number or a name."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from smesolve.solver.modified_equation import sorted_orders

__all__ = ["in_sorted_orders"]


def in_sorted_orders(table: pd.DataFrame, keys: Sequence[str], ascending: Sequence[bool] | bool = True) -> pd.DataFrame:
    """Return a table sorted by columns; in the column `order`, numbers precede names.

    Args:
        table: table with a column `order`.
        keys: columns by which the table is sorted, the first one first.
        ascending: the direction for all columns, or one for each.
    """
    place = {order: k for k, order in enumerate(sorted_orders(table.order))}

    def key(column: pd.Series) -> pd.Series:
        return column.map(place) if column.name == "order" else column

    ways = [ascending] * len(keys) if isinstance(ascending, bool) else list(ascending)
    return table.sort_values(list(keys), ascending=ways, kind="stable", key=key)
