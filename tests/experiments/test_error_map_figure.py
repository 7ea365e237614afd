"""The map of errors: its contours stay inside of what is resolved."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm
from matplotlib.tri import TriContourSet

from smesolve.experiments.shared.error_map_figures import _heat_map
from smesolve.figures import Figure


def cells(resolved):
    """A grid of three multiples at three keep_probs, whose errors are those of lr / 10."""
    rows = [
        {"keep_prob": keep, "multiple": multiple, "lr": multiple * keep**2, "relative": multiple * keep**2 / 10}
        for keep in (0.8, 0.3, 0.1)
        for multiple in (0.1, 0.3, 0.9)
    ]
    return pd.DataFrame(rows).assign(resolved=resolved)


@pytest.mark.parametrize("unresolved", [[], [0, 1, 2], [3, 4, 5], [0, 4, 8], list(range(9))])
def test_no_contour_crosses_a_cell_that_is_not_resolved(unresolved):
    table = cells([k not in unresolved for k in range(9)])
    axis = Figure().subplots()
    _heat_map(axis, table, LogNorm(1e-5, 1.0))
    contours = [found for found in axis.collections if isinstance(found, TriContourSet)]
    lines = [path.vertices for found in contours for path in found.get_paths()]
    points = np.concatenate([np.empty((0, 2)), *lines])
    missing = table.iloc[unresolved]
    for lr, keep in zip(missing.lr, missing.keep_prob, strict=True):
        near = np.abs(np.log(points / [lr, keep])).max(axis=1, initial=0.0) < 0.3
        assert not near.any()
    assert unresolved or len(points)


def test_one_row_or_one_column_has_no_contours():
    for table in (cells(True).iloc[:3], cells(True).iloc[::3]):
        _heat_map(Figure().subplots(), table, LogNorm(1e-5, 1.0))
