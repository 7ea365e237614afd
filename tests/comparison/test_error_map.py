"""The map of errors and its limits, exactly: errors, weights and growth rates are given, not sampled."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import GivenErrors, Q, exactly, first_coordinate
from problems import make_problem
from scipy import stats

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.gradient_flow import flow_change, relaxation_time
from smesolve.comparison.mean_square_growth import growth_rates, observed_limit
from smesolve.comparison.readout_problem import readout_problem
from smesolve.comparison.stability_limits import stability_limits
from smesolve.experiments.scaling.map import ErrorMap, error_map

# --- growth of second moments ---------------------------------------------------------------------------------------


class GivenWeights:
    """Every path of a block is stretched by a factor of its own, whatever its state: weights are known."""

    def __init__(self, factors, antithetic=False):
        self.factors, self.antithetic, self.block_size = torch.tensor(factors).double(), antithetic, len(factors)

    def advance(self, theta, block, step):
        assert torch.allclose(theta.norm(dim=-1), torch.ones(self.block_size, dtype=torch.float64))
        if self.antithetic or step == 0:
            assert torch.equal(*theta.chunk(2)) == self.antithetic
        return (1 + (step < 3)) * self.factors[:, None] * theta


def states(dim):
    return torch.zeros(dim, dtype=torch.float64)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_growth_rate_is_the_logarithm_of_the_mean_weight_without_its_bias(antithetic):
    """E log(mean) = log E - Var / (2 size E^2) to first order; the first three steps are not recorded."""
    factors = [0.5, 1.5, 2.0, 1.0]
    rates = growth_rates(GivenWeights(factors, antithetic), states(3), settling=3, steps=5, populations=2, seed=0)
    weights = np.square(factors)
    exact = np.log(weights.mean()) + weights.var(ddof=1) / (2 * 4 * weights.mean() ** 2)
    assert rates == exactly([exact] * 2)


def test_paths_are_resampled_by_their_length():
    """Along the longer axis of diag(3, 1) all paths end up, and grow by 9; the first two weights tell how soon."""

    class Stretch:
        block_size, antithetic = 5000, False

        def advance(self, theta, block, step):
            return theta * torch.tensor([3.0, 1.0], dtype=torch.float64)

    assert growth_rates(Stretch(), states(2), 30, 4, 1, 0) == pytest.approx(np.log(9), abs=1e-12)
    # from a uniform angle the mean weight r = 9 u^2 + v^2 of unit vectors (u, v) is 5
    first = growth_rates(Stretch(), states(2), 0, 1, 1, 0)[0]
    both = 2 * growth_rates(Stretch(), states(2), 0, 2, 1, 0)[0]
    assert first == pytest.approx(np.log(5), abs=0.03)
    # resampled in proportion to r, and at length 1 again, the mean weight is E (81 u^2 + v^2) / E r
    assert both - first == pytest.approx(np.log(41 / 5), abs=0.03)


@pytest.mark.parametrize(("order", "share"), [(None, 0.3), (None, 3.0), (None, 0.05), (1, 0.3), (2, 0.3)])
@pytest.mark.parametrize("bend", [0.0, 2.0])
def test_an_observed_limit_has_students_interval_over_its_populations(order, share, bend, monkeypatch):
    """Given rates z + bend z^2 + c_i a relaxation time, z = lr/L - 1, less an error in h where the equation is stepped.

    Settling is 12 relaxation times and recording 16, or 4 in the search; the last rates lie within 6% of the root.
    """
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), 2 * one, one, keep_prob=0.2)
    relaxation = 0.2 / 4  # 1 / Hess L_S = keep_prob / feature^2
    limit, shifts, lrs = share * relaxation, np.array([0.0, 0.01, -0.02, 0.003]), []

    def given(process, like, settling, steps, populations, seed):
        assert (len(like), seed) == (1, 7)
        if order is None:
            lr, h, error = process.lr, process.lr / relaxation, 0.0
            assert float(process.problem.y.abs().max()) == 0
        else:
            lr = process._sde._equation.lr
            assert process.antithetic and process._sde._equation.order == order
            unit = relaxation / (1 + (order - 1) * lr / (2 * relaxation))
            h = process.dt / unit
            assert h in (exactly(0.15), exactly(0.075))
            error = 5 * h
        assert settling == max(4, round(12 / h)) and steps == max(4, round((4 if populations == 1 else 16) / h))
        if populations > 1:
            lrs.append(lr)
        z = lr / limit - 1
        return h * (z + bend * z * abs(z) + (shifts if populations > 1 else np.zeros(1)) + error)

    def rate(lr, shift):
        z = lr / limit - 1
        return z + bend * z * abs(z) + shift

    monkeypatch.setattr("smesolve.comparison.mean_square_growth.growth_rates", given)
    found = observed_limit(problem, order, populations=4, seed=7)
    first, root, last = np.unique(lrs)
    assert (first, last) == exactly((0.94 * root, 1.06 * root))
    parabolas = [np.polyfit([first, root, last], [rate(lr, c) for lr in (first, root, last)], 2) for c in shifts]
    roots = np.array([min(np.roots(p).real, key=lambda r: abs(r - root)) if bend else -p[2] / p[1] for p in parabolas])
    far = np.abs(roots / root - 1).max()
    half = stats.t.ppf(0.975, 3) * roots.std(ddof=1) / 2
    close = {"rel": 1e-9} if not bend else {"abs": 3 * bend**2 * far**3 * root}  # the roots are of second order
    assert found.lr == pytest.approx(roots.mean(), **close)
    assert (found.low, found.high) == pytest.approx((roots.mean() - half, roots.mean() + half), **close)
    if not bend:
        assert roots == pytest.approx(limit * (1 - shifts), rel=1e-9)


# --- error map ------------------------------------------------------------------------------------------------------


def test_the_map_states_shares_of_the_change_and_multiples_of_the_limit(monkeypatch):
    given = SimpleNamespace(lr=0.5, low=0.4, high=0.7)
    monkeypatch.setattr("smesolve.comparison.stability_limits.observed_limit", lambda *_, **more: given)
    problem = make_problem(width=2)
    theta0 = problem.initial()
    result = error_map(problem, theta0, [0.3], [0.1, 0.2], 1.5, (1, 2), first_coordinate, GivenErrors())
    here = problem.with_keep_prob(0.3)
    readout, start = readout_problem(here, theta0)
    moments, horizon = LinearMoments(readout, start), 1.5 * relaxation_time(here, theta0)
    scale = moments.stability_limit()
    assert result.observable == "first_coordinate" and set(result.table.model) == {"readout", "network"}
    assert sorted(set(result.table.lr)) == exactly(
        sorted({horizon / round(horizon / (multiple * scale)) for multiple in (0.1, 0.2)})
    )
    for row in result.table.itertuples():
        assert (row.horizon, row.multiple) == exactly((horizon, row.lr / scale))
        at = (readout, start) if row.model == "readout" else (here, theta0)
        change = flow_change(*at, horizon, first_coordinate)
        if row.model == "network":
            size = horizon * 0.3 * row.order * row.lr
            error, low, high = size, size - 0.05 * horizon, size + 0.07 * horizon
            assert (row.resolved, row.reason) == (row.order == 1, "" if row.order == 1 else "inside the solver bias")
            assert (row.discrete, row.sde) == exactly((2.0, 2.0 + 0.3 * row.order))
        else:
            error = low = high = moments.error(row.lr, row.order, horizon, first_coordinate)
            assert row.resolved and row.sde - row.discrete == pytest.approx(error, rel=1e-9)
        found = (row.relative, row.relative_low, row.relative_high)
        assert found == pytest.approx((error / change, low / change, high / change), rel=1e-9)
    limits = result.limits.set_index("process")
    for process, order in (("iteration", None), ("order 1", 1), ("order 2", 2)):
        row = limits.loc[process]
        assert row.predicted == exactly(moments.stability_limit(order))
        if row.predicted < readout.stability_limit(start):
            assert (row.observed, row.low, row.high, row.ratio) == exactly((0.5, 0.4, 0.7, 0.5 / row.predicted))
        else:
            assert np.isnan(row.observed) and np.isnan(row.ratio)


def test_cells_with_an_unstable_mean_are_not_measured(monkeypatch):
    monkeypatch.setattr("smesolve.experiments.scaling.map.stability_limits", lambda *given: pd.DataFrame())
    problem = make_problem(width=1, keep_prob=0.9)
    table = error_map(problem, problem.initial(), [0.9], [0.3, 3.0], 2.1, (1,), "loss", GivenErrors()).table
    network = table[table.model == "network"].set_index("reason")
    assert network.resolved[""] and not network.resolved["mean unstable"]
    assert np.isnan(network.relative["mean unstable"]) and np.isnan(network.relative_high["mean unstable"])


def synthetic_cells():
    rng, rows = np.random.default_rng(1), []
    for keep in (0.5, 0.1, 0.02):
        for multiple in (0.02, 0.05, 0.1, 0.2, 0.3, 0.31):
            lr = multiple * 2 * keep**2
            error = (lr / keep**1.7) ** 1.5 * np.exp(0.1 * rng.standard_normal()) * keep
            row = {"keep_prob": keep, "lr": lr, "multiple": multiple, "relative": error, "horizon": keep}
            rows.append(row | {"relative_low": 0.9 * error, "relative_high": 1.1 * error, "resolved": True})
    return pd.DataFrame(rows).assign(model="network", order=1)


def test_the_spread_is_the_scatter_about_a_parabola():
    """Of the cells up to a multiple of 0.3, over the three parameters of the parabola less."""
    table = synthetic_cells()
    found = ErrorMap(table, pd.DataFrame(), "loss").collapse().set_index("ordinate")
    cells = table[table.multiple <= 0.3]
    for ordinate, unit in (("relative", 1.0), ("rate", cells.horizon)):
        row = found.loc[ordinate]
        assert row.cells == len(cells) == 15

        def spread(power, unit=unit):
            x, y = np.log(cells.lr / cells.keep_prob**power), np.log(cells.relative / unit)
            return (np.polyfit(x, y, 2, full=True)[1][0] / (15 - 3)) ** 0.5

        for power in (0, 1, 2):
            assert row[f"spread_{power}"] == pytest.approx(spread(power), rel=1e-6)
        powers = np.linspace(0, 3, 3001)
        best = powers[np.argmin([spread(power) for power in powers])]
        assert row.power == pytest.approx(best, abs=2e-3)
        assert row.spread == pytest.approx(spread(row.power), rel=1e-6) and row.spread <= spread(best)


def test_the_bootstrap_moves_an_error_by_its_standard_error(monkeypatch):
    """Every cell drawn once, and noise in the first one only: the spread is a known function of one normal number."""
    draws = np.random.default_rng(0).standard_normal(400)

    class OneCell:
        normals = iter(np.tile(draws, 2))  # for both ordinates

        def integers(self, high, size):
            assert high == size
            return np.arange(size)

        def standard_normal(self, size):
            return next(self.normals) * (np.arange(size) == 0)

    table = synthetic_cells()
    rng = OneCell()
    monkeypatch.setattr("smesolve.comparison.collapse.np.random.default_rng", lambda seed: rng)
    found = ErrorMap(table, pd.DataFrame(), "loss").collapse().set_index("ordinate")
    cells = table[table.multiple <= 0.3]
    for ordinate, unit in (("relative", 1.0), ("rate", cells.horizon)):
        heights = np.repeat(np.log((cells.relative / unit).to_numpy())[:, None], 400, axis=1)
        heights[0] += np.log(1 + 0.1 / Q * draws)  # the intervals are error -+ 10%
        for power in (0, 1, 2):
            x = np.log(cells.lr / cells.keep_prob**power)
            ends = np.quantile((np.polyfit(x, heights, 2, full=True)[1] / 12) ** 0.5, [0.025, 0.975])
            row = found.loc[ordinate]
            assert (row[f"spread_{power}_low"], row[f"spread_{power}_high"]) == pytest.approx(tuple(ends), rel=1e-6)


def test_cells_of_the_other_sign_and_unresolved_ones_do_not_enter_the_collapse():
    table = synthetic_cells()
    table.loc[3, ["relative", "relative_low", "relative_high"]] *= -1
    table.loc[8, "resolved"] = False
    row = ErrorMap(table, pd.DataFrame(), "loss").collapse().iloc[0]
    assert row.cells == 13
    few = table[table.keep_prob > 0.05]
    assert ErrorMap(few, pd.DataFrame(), "loss").collapse().empty  # two keep_probs tell no power


def test_a_limit_that_is_observed_has_four_populations_of_the_iteration_and_eight_of_an_equation(monkeypatch):
    asked = {}

    def given(readout, process, populations, seed):
        asked[process] = (populations, seed)
        return SimpleNamespace(lr=1.0, low=0.9, high=1.2)

    monkeypatch.setattr("smesolve.comparison.stability_limits.observed_limit", given)
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=0.1)
    limits = stability_limits(problem, (1, 2), seed=5)
    assert asked == {None: (4, 5), 1: (8, 5), 2: (8, 5)}
    closed = [2 * 0.01, 2 * 0.01 / 0.9, 2 * 0.01 / 0.8]
    assert limits.predicted.tolist() == pytest.approx(closed, rel=1e-9)
    assert limits.ratio.tolist() == pytest.approx([1 / limit for limit in closed], rel=1e-9)
