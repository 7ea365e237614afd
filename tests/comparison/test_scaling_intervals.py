"""Intervals, shares and costs in the studies of scaling, exactly: errors and growth rates are given, not sampled."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import GivenErrors, Q, exactly, first_coordinate
from problems import make_problem
from scipy import stats
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, ScheduledMoments
from smesolve.comparison.gradient_flow import flow_change
from smesolve.comparison.leading_constants import first_constants
from smesolve.comparison.readout_problem import readout_problem
from smesolve.experiments.scaling import acceleration as acceleration_module
from smesolve.experiments.scaling.acceleration import Acceleration, acceleration
from smesolve.experiments.scaling.horizon import LongHorizon, long_horizon
from smesolve.experiments.scaling.kappa import LinearScalingRule, linear_scaling_rule
from smesolve.experiments.scaling.schedule import SCHEDULES, schedules
from smesolve.experiments.scaling.width import mean_field_problem, width_sweep
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.iteration import DropoutIteration

# --- acceleration ---------------------------------------------------------------------------------------------------


def test_acceleration_states_errors_and_costs_as_shares(monkeypatch):
    """Costs of a step at order 2 under RK4: 4 gradients, a noise product (1.5) and a Hessian product (4)."""

    def seconds(process, theta0):
        return 2e-6 if isinstance(process, DropoutIteration) else 7e-6

    monkeypatch.setattr(acceleration_module, "_seconds_per_step", seconds)
    problem, lr, horizon = make_problem(), 0.05, 1.0
    theta0 = problem.initial()
    table = acceleration(problem, theta0, lr, horizon, [4, 2, 4], effort=GivenErrors()).table
    change = flow_change(problem, theta0, horizon, problem.loss)
    assert list(zip(table.order, table.factor, strict=True)) == [(1, 2), (1, 4), (2, 2), (2, 4)]
    for row in table.itertuples():
        error, half = 0.307 * row.order * lr, 0.02 * row.order  # of the solution at this step, its bias included
        assert row.solver_dt == exactly(row.factor * lr)
        assert row.relative == exactly(error / change)
        assert (row.relative_low, row.relative_high) == exactly(((error - half) / change, (error + half) / change))
        gradients = {1: 5.5, 2: 9.5}[row.order] * 20 / row.factor
        assert (row.gradients, row.iteration_gradients) == exactly((gradients, 20))
        assert row.gradient_speedup == exactly(20 / gradients)
        assert (row.seconds, row.iteration_seconds) == exactly((7e-6 * 20 / row.factor, 2e-6 * 20))
        assert row.speedup == exactly(2 / 7 * row.factor)


def test_nothing_is_accelerated_where_the_mean_gradient_is_sampled():
    """A step of c lr from gradients takes at least c of them."""
    problem, known = make_problem(), {"lr": 0.05, "horizon": 0.4, "factors": [2], "orders": [1]}
    dropped = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2), nn.Linear(3, 1)).double()
    sampled = sme.ModuleProblem(dropped, problem.x, torch.zeros(len(problem.x), 1))
    for one in (sme.Training(problem, torch.optim.Adam, lr=0.05), sampled):
        with pytest.raises(sme.SmesolveError, match="acceleration needs mean gradient and noise in closed form"):
            acceleration(one, one.initial(), **known)
    momentum = sme.Training(problem, torch.optim.SGD, lr=0.05, momentum=0.5)
    table = acceleration(momentum, momentum.initial(), **known, effort=GivenErrors()).table
    assert list(table.factor) == [2] and np.isfinite(table.relative).all()


def test_a_factor_breaks_even_where_its_whole_interval_is_inside():
    table = pd.DataFrame(
        {
            "order": 1, "factor": [2, 4, 8], "relative": [0.01, 0.02, 0.05], "relative_low": [0.005, -0.06, 0.03],
            "relative_high": [0.04, 0.03, 0.08], "gradient_speedup": [0.5, 1.0, 2.0], "speedup": [1.0, 2.0, 4.0],
        }
    )  # fmt: skip
    rows = Acceleration(table).break_even([0.04, 0.06, 0.079, 0.001]).set_index("tolerance")
    assert rows.factor[0.04] == 2 and rows.factor[0.06] == 4 and rows.factor[0.079] == 4
    assert np.isnan(rows.factor[0.001]) and np.isnan(rows.speedup[0.001])
    assert (rows.gradient_speedup[0.06], rows.speedup[0.06]) == (1.0, 2.0)
    assert (rows.factor_even == 4).all() and (rows.factor_even_seconds == 2).all()


def test_the_time_of_a_step_is_the_least_of_its_repetitions_over_steps_and_paths(monkeypatch):
    clock, lengths = [0.0], iter([5.0, 5, 5, 2, 3, 4, *[6.0] * 30])
    monkeypatch.setattr(acceleration_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    seen = []

    class Slow:
        block_size = 4

        def advance(self, theta, block, step):
            clock[0] += next(lengths)
            seen.append((tuple(theta.shape), step))
            return theta

    found = acceleration_module._seconds_per_step(Slow(), torch.zeros(2, dtype=torch.float64), repeats=3)
    assert found == exactly((2 + 3 + 4) / 3 / 4)
    assert seen == [((4, 2), step) for step in range(9)]


# --- long horizons --------------------------------------------------------------------------------------------------


def test_errors_of_long_horizons_are_shares_with_their_intervals(monkeypatch):
    problem, lr, times, paths = make_problem(width=1), 0.25, [0.25, 0.5, 1.0], 5
    theta0 = problem.initial()
    gaps = [[0.1, 0.2, 0.4, -0.3, 0.0], [1.0, 0.5, 0.75, 0.25, 0.6], [-1.0, -1.5, -0.75, -1.25, -1.6]]
    gaps = torch.tensor(gaps, dtype=torch.float64)

    def given(sde, start, ts, **options):
        assert (ts, options["dt"], options["paths"], options["seed"]) == ([0, *times], lr, paths, 3)
        ends = torch.zeros(4, paths, problem.dim, dtype=torch.float64)
        if sde.order == "quadratic":
            ends[1:, :, 0] = gaps
        return ends

    monkeypatch.setattr("smesolve.experiments.scaling.horizon.solve", given)
    effort = GivenErrors(seed=3)
    result = long_horizon(problem, theta0, lr, times, [0.1, 0.4], first_coordinate, effort, quadratic_paths=paths)
    table = result.table.set_index(["model", "equation", "time"])
    readout, start = readout_problem(problem, theta0)
    moments = LinearMoments(readout, start)
    change = flow_change(readout, start, 1.0, first_coordinate)
    for time in times:
        for equation in (1, 2, "quadratic"):
            row = table.loc[("readout", str(equation), time)]
            error = moments.equation(lr, equation, time, first_coordinate)
            error -= moments.iteration(lr, round(time / lr), first_coordinate)
            assert (row.relative, row.relative_low, row.relative_high) == exactly((error / change,) * 3)
    change = flow_change(problem, theta0, 1.0, first_coordinate)
    for time, gap, resolved in zip(times, gaps, (False, True, True), strict=True):  # the last one is below zero
        for order in (1, 2):
            row = table.loc[("network", str(order), time)]
            error, low, high = (time * (0.3 * order * lr + more) for more in (0, -0.05, 0.07))
            found = (row.relative, row.relative_low, row.relative_high)
            assert found == exactly((error / change, low / change, high / change))
            assert row.resolved == (order == 1)
        mean, half = float(gap.mean()), stats.t.ppf(0.975, paths - 1) * float(gap.std()) / paths**0.5
        row = table.loc[("network", "quadratic", time)]
        assert row.relative == exactly((error + mean) / change)
        assert row.relative_low == exactly((low + mean - half) / change)
        assert row.relative_high == exactly((high + mean + half) / change)
        assert row.resolved == resolved
    limit = moments.stability_limit()
    dropout = result.stationary[result.stationary.noise == "dropout"]
    assert sorted(set(dropout.lr)) == exactly([0.1 * limit, 0.4 * limit])


def test_label_noise_is_of_unit_size_on_the_readout_without_dropout(monkeypatch):
    """One feature: a Hessian H and noise of variance H / n, so E theta^2 = lr^2 (H / n) / (1 - (1 - lr H)^2)."""
    problem, n = make_problem(width=1, samples=4), 4
    theta0 = problem.initial()
    monkeypatch.setattr(
        "smesolve.experiments.scaling.horizon.solve", lambda *_, **more: torch.zeros(2, 2, problem.dim).double()
    )
    result = long_horizon(problem, theta0, 0.25, [0.5], [0.3], first_coordinate, GivenErrors(), quadratic_paths=2)
    noisy = result.stationary[result.stationary.noise == "label noise"].set_index("equation")
    readout, _ = readout_problem(problem, theta0)
    H = float(readout.x.square().mean())
    lr = 0.3 * 2 / H  # without dropout second moments are stable below 2/H
    assert noisy.lr.tolist() == exactly([lr] * len(noisy))
    assert noisy.exact["1"] == pytest.approx(lr**2 * H / n / (1 - (1 - lr * H) ** 2), rel=1e-9)
    assert noisy.variance["1"] == pytest.approx(lr / (2 * n), rel=1e-9)
    assert noisy.ratio["1"] == exactly(noisy.variance["1"] / noisy.exact["1"])


def test_the_nearest_equation_is_named_where_intervals_do_not_overlap():
    rows = [
        ("network", "1", 1.0, 0.5, 0.45, 0.55), ("network", "2", 1.0, -0.1, -0.14, -0.06),
        ("network", "quadratic", 1.0, 0.3, 0.25, 0.35),
        ("network", "1", 2.0, 0.2, 0.17, 0.23), ("network", "2", 2.0, -0.3, -0.35, -0.25),
        ("network", "quadratic", 2.0, 0.24, 0.2, 0.28),
        ("network", "1", 3.0, 0.2, 0.15, 0.25), ("network", "2", 3.0, 0.3, 0.24, 0.36),
        ("network", "quadratic", 3.0, 0.9, 0.8, 1.0),
    ]  # fmt: skip
    columns = ["model", "equation", "time", "relative", "relative_low", "relative_high"]
    found = LongHorizon(pd.DataFrame(rows, columns=columns), pd.DataFrame(), 0.1).nearest().set_index("time")
    assert found.nearest.to_dict() == {1.0: "2", 2.0: "", 3.0: ""}
    assert found.order_2_worse.to_dict() == {1.0: False, 2.0: True, 3.0: False}


def test_worse_counts_learning_rates():
    ratios = {"1": [0.9, 0.8, 0.95], "2": [0.95, 0.7, 0.9], "quadratic": [0.97, 0.85, 0.9]}
    frames = [
        pd.DataFrame({"noise": "dropout", "lr": [0.1, 0.2, 0.3], "equation": equation, "ratio": values})
        for equation, values in ratios.items()
    ]
    row = LongHorizon(pd.DataFrame(), pd.concat(frames), 0.1).worse().iloc[0]
    assert (row.lrs, row.order_2_worse, row.quadratic_nearest) == (3, 2, 2)


# --- linear scaling rule --------------------------------------------------------------------------------------------


def test_the_rule_states_shares_and_the_leading_term():
    problem = make_problem(width=2)
    theta0, lr, horizon = problem.initial(), 0.05, 0.5
    result = linear_scaling_rule(problem, theta0, lr, [2, 1, 5], horizon, 0.4, first_coordinate, GivenErrors())
    readout, start = readout_problem(problem, theta0)
    for row in result.table.itertuples():
        one, at = (readout, start) if row.model == "readout" else (problem, theta0)
        change = flow_change(one, at, horizon, first_coordinate)
        constant, _ = first_constants(one, at, horizon, {"g": first_coordinate}, lr)["g"]
        assert (row.lr, row.predicted) == exactly((row.kappa * lr, constant * row.kappa * lr / change))
        if row.model == "readout":
            error = LinearMoments(AveragedProblem(one, row.kappa), at).error(row.lr, 1, horizon, first_coordinate)
            low = high = error
        else:
            error, low, high = (horizon * (0.3 * row.lr + more) for more in (0, -0.05, 0.07))
        found = (row.relative, row.relative_low, row.relative_high)
        assert found == exactly((error / change, low / change, high / change))
        inside = max(-low, high) / change <= 0.4
        assert row.follows is (True if inside else False if low / change > 0.4 or high / change < -0.4 else None)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.1, 0.1, True), (-0.1, 0.05, True), (-0.11, 0.05, None), (0.09, 0.11, None), (0.1, 0.2, None),
        (0.11, 0.2, False), (-0.2, -0.11, False), (-0.2, -0.1, None), (-0.2, 0.2, None),
    ],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, verdict, monkeypatch):
    class Interval(GivenErrors):
        def weak_error(self, *given, **more):
            table = super().weak_error(*given, **more).table
            return SimpleNamespace(table=table.assign(error=0.0, low=low, high=high))

    monkeypatch.setattr("smesolve.experiments.scaling.kappa.flow_change", lambda *given: 1.0)
    problem = make_problem(width=2)
    table = linear_scaling_rule(problem, problem.initial(), 0.1, [1], 0.5, 0.1, "loss", Interval()).table
    assert table.follows[table.model == "network"].item() is verdict


def test_the_reach_lies_where_a_power_law_and_its_interval_cross_the_tolerance():
    kappas = np.array([1, 2, 4, 8, 16])
    error = -0.002 * kappas
    table = pd.DataFrame({"model": "network", "kappa": kappas, "relative": error, "predicted": 1.1 * error})
    table = table.assign(relative_low=1.5 * error, relative_high=0.5 * error, follows=[True, True, None, False, True])
    row = LinearScalingRule(table, 0.01).reach().iloc[0]
    assert (row.kappa, row.kappa_low, row.kappa_high) == exactly((5.0, 0.01 / 0.003, 10.0))
    assert (row.holds, row.fails, row.predicted) == exactly((2, 8, 5 / 1.1))
    beyond = LinearScalingRule(table, 0.1).reach().iloc[0]
    assert np.isnan(beyond.kappa) and np.isnan(beyond.kappa_low)
    touching = LinearScalingRule(table, 0.016).reach().iloc[0]
    assert touching.kappa == exactly(8.0)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_schedules_keep_the_table_and_take_the_slope_of_the_two_smallest_rates():
    problem = make_problem(width=1)
    theta0, lrs = problem.initial(), [0.5, 0.25, 0.125]
    result = schedules(problem, theta0, lrs, 1.0, ["step"], (2,), "loss", GivenErrors())
    network = result.table[result.table.model == "network"]
    for row in network.itertuples():
        error, low, high = (0.3 * row.order * row.lr + more for more in (0, -0.05, 0.07))
        assert (row.error, row.low, row.high) == exactly((error, low, high)) and row.resolved == (row.order == 1)
    readout, start = readout_problem(problem, theta0)
    moments = ScheduledMoments(SCHEDULES["step"](readout, 1.0), start)
    errors = {lr: moments.error(lr, 2, 1.0) for lr in lrs}
    rows = result.table[result.table.model == "readout"].set_index("lr")
    for lr, error in errors.items():
        assert (rows.error[lr], rows.low[lr], rows.high[lr], rows.order[lr]) == exactly((error, error, error, 2))
    fit = result.fit[result.fit.model == "readout"].iloc[0]
    assert fit.slope == exactly(np.log2(errors[0.25] / errors[0.125])) and fit.points == 2
    assert np.isnan(fit.slope_low) and np.isnan(fit.slope_high)


def test_schedules_have_the_values_that_their_names_say():
    problem = make_problem(width=2, keep_prob=0.6)
    theta = problem.initial()

    def share(name, time):
        at = SCHEDULES[name](problem, 2.0).at(time)
        return float((at.mean_gradient(theta) @ plain) / (plain @ plain))

    plain = problem.mean_gradient(theta)
    for name, values in (
        ("constant", {0.3: 1.0}),
        ("step", {0.99: 1.0, 1.0: 0.3}),
        ("cosine", {0.0: 1.0, 1.0: 0.55, 2.0: 0.1}),
        ("warm_up", {0.0: 0.1, 0.5: 0.55, 1.0: 1.0, 1.5: 1.0}),
    ):
        for time, value in values.items():
            assert share(name, time) == exactly(value), name
    falling = SCHEDULES["keep_prob"](problem, 2.0)
    for time, keep in ((0.0, 0.6), (1.0, 1 - 0.4 * 0.625), (2.0, 0.9)):
        assert torch.equal(falling.at(time).mean_gradient(theta), problem.with_keep_prob(keep).mean_gradient(theta))


# --- width ----------------------------------------------------------------------------------------------------------


def test_the_slope_against_width_is_the_weighted_regression_with_its_interval(monkeypatch):
    """numpy's own covariance of the weights, widened where the misfit is beyond the intervals."""
    monkeypatch.setattr("smesolve.experiments.scaling.width.flow_change", lambda *given: 2.0)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    widths = [1, 2, 3, 5]
    for scatter in (0.0, 0.5):

        class ByWidth(GivenErrors):
            def weak_error(self, problem, *given, scatter=scatter, **more):
                study = super().weak_error(problem, *given, **more)
                error = problem.width**-0.8 * np.exp(scatter * (-1.0) ** problem.width)
                half = (0.02 + 0.01 * np.log2(problem.width)) * error
                frame = study.table.assign(error=error, low=error - half, high=error + half, resolved=True)
                return SimpleNamespace(table=frame)

        result = width_sweep(x, x[:, :1], widths, 0.8, 0.1, 0.5, (1,), ByWidth())
        for row in result.slopes.itertuples():
            cells = result.table[result.table.arm == row.arm]
            weights = Q / (0.02 + 0.01 * np.log2(widths))
            fit, covariance = np.polyfit(np.log(widths), np.log(cells.relative), 1, w=weights, cov="unscaled")
            left = weights * (np.log(cells.relative) - np.polyval(fit, np.log(widths)))
            half = stats.t.ppf(0.975, 2) * (covariance[0, 0] * max(1, left @ left / 2)) ** 0.5
            assert row.slope == exactly(fit[0]) and row.points == 4
            assert (row.slope_low, row.slope_high) == exactly((fit[0] - half, fit[0] + half))


def test_the_arms_of_the_sweep_scale_as_their_names_say():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, horizon = x[:, :1], 0.2
    table = width_sweep(x, y, [4, 2], 0.8, 0.1, horizon, (1, 2), GivenErrors(seed=3)).table
    for row in table.itertuples():
        shrunk = row.width == 4
        keep = 0.4 if shrunk and row.arm != "fixed lr and keep_prob" else 0.8
        lr = 0.05 if shrunk and row.arm == "fixed lr/keep_prob" else 0.1
        assert (row.keep_prob, row.lr) == exactly((keep, lr))
        problem, theta0 = mean_field_problem(x, y, row.width, keep, 3)
        change = flow_change(problem, theta0, horizon, problem.modified_loss)
        whole, plain = float(problem.modified_loss(theta0)), float(problem.loss(theta0))
        assert row.penalty == exactly((whole - plain) / whole)
        errors = (horizon * (0.3 * row.order * lr + more) / change for more in (0, -0.05, 0.07))
        assert (row.relative, row.relative_low, row.relative_high) == exactly(tuple(errors))
        assert (row.resolved, row.reason) == (row.order == 1, "" if row.order == 1 else "inside the solver bias")
