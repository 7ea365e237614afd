"""The power of keep_prob for which errors lie on one curve is that of the least spread, beside local minima."""

import numpy as np
import pandas as pd
import pytest

from smesolve.comparison.collapse import spreads_about_one_curve


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("smesolve.comparison.collapse.RESAMPLES", 8)


def cells(keep_probs, lrs, relative, half_width=0.0):
    """Cells of one order, each with the same horizon."""
    table = pd.DataFrame({"keep_prob": keep_probs, "lr": lrs, "relative": relative})
    table["relative_low"], table["relative_high"] = table.relative - half_width, table.relative + half_width
    return table.assign(model="network", order=1, multiple=0.1, horizon=2.0, resolved=True)


def spread_by_polyfit(table, power):
    x, heights = np.log(table.lr) - power * np.log(table.keep_prob), np.log(table.relative)
    x = (x - x.mean()) / x.std(ddof=0)
    left = heights - np.polyval(np.polyfit(x, heights, 2), x)
    return np.sqrt((left**2).sum() / (len(table) - 3))


@pytest.mark.parametrize("power", [0.0, 0.7, 2.0])
def test_errors_on_one_curve_have_its_power(power):
    keep_probs, lrs = (part.ravel() for part in np.meshgrid([0.8, 0.3, 0.1], [0.01, 0.02, 0.04, 0.08]))
    scaled = np.log(lrs / keep_probs**power)
    found = spreads_about_one_curve(cells(keep_probs, lrs, np.exp(0.9 * scaled + 0.02 * scaled**2)))
    for row in found.to_dict("records"):
        assert row["power"] == pytest.approx(power, abs=1e-5)
        assert row["power_low"] == pytest.approx(power, abs=1e-5) == row["power_high"]
        assert row["spread"] < 1e-5 < row["spread_1"]


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 15, 18, 21, 22])  # most of them have a local minimum
def test_the_spread_is_the_least_one_of_all_powers(seed):
    rng = np.random.default_rng(seed)
    keep_probs, lrs = rng.choice([0.8, 0.3, 0.1, 0.03], 9), np.exp(rng.uniform(-8, -2, 9))
    keep_probs[:3] = 0.8, 0.3, 0.1
    table = cells(keep_probs, lrs, np.exp(rng.normal(-5, 1, 9)))
    row = spreads_about_one_curve(table).iloc[0]
    powers = np.linspace(-1, 5, 1201)
    spreads = np.array([spread_by_polyfit(table, power) for power in powers])
    assert row.spread <= spreads.min() * (1 + 1e-6)
    assert row.spread == pytest.approx(spread_by_polyfit(table, row.power), rel=1e-9)
    assert row[["spread_0", "spread_1", "spread_2"]].tolist() == pytest.approx(spreads[[200, 400, 600]], rel=1e-9)
