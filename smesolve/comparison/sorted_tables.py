"""Tables sorted by the order of their equations, which is a number or a name."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from smesolve.solver.orders import sorted_orders

__all__ = ["in_sorted_orders"]


def in_sorted_orders(table: pd.DataFrame, keys: Sequence[str], ascending: Sequence[bool] | bool = True) -> pd.DataFrame:
    """Return a table sorted by columns, the first key first; in the column `order`, numbers precede names."""
    place = {order: k for k, order in enumerate(sorted_orders(table.order))}

    def key(column: pd.Series) -> pd.Series:
        return column.map(place) if column.name == "order" else column

    ways = [ascending] * len(keys) if isinstance(ascending, bool) else list(ascending)
    return table.sort_values(list(keys), ascending=ways, kind="stable", key=key)
