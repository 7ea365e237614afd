"""Intervals that hold the truth for any bias up to a bound, against the normal distribution, and what follows."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from problems import linear_problem
from scipy.stats import norm

import smesolve as sme
from smesolve.comparison.defect_budget import with_bias
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.order_fit import fit_orders
from smesolve.comparison.outcomes import Status
from smesolve.confidence import CONFIDENCE, NORMAL_QUANTILE, bias_aware_half_width, with_interval


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 3.0, 5.999, 6.0, 100.0])
def test_the_interval_covers_with_its_confidence_at_the_bound_and_more_often_inside_it(ratio):
    sigma = 0.2
    half = float(bias_aware_half_width(np.array(NORMAL_QUANTILE * sigma), np.array(ratio * sigma)))

    def coverage(bias):
        return norm.cdf((half - bias) / sigma) - norm.cdf((-half - bias) / sigma)

    assert coverage(ratio * sigma) == pytest.approx(CONFIDENCE, abs=1e-8)
    assert coverage(ratio * sigma / 2) >= CONFIDENCE - 1e-8


def test_what_is_known_exactly_and_what_is_not_known_at_all():
    halves = bias_aware_half_width(np.array([0.0, 0.0, 1.0, np.nan]), np.array([0.0, 2.0, np.inf, 1.0]))
    assert halves[:3].tolist() == [0.0, 2.0, np.inf] and np.isnan(halves[3])


def rows(errors, half_width=1e-4, delta=0.0, at_kinks=0.0, part=0.5, share=0.0):
    """Rows as `DefectBudget` makes them, one for each (order, lr)."""
    return pd.DataFrame(
        {
            "order": order, "lr": lr, "time": 1.0, "observable": "loss", "error": error, "half_width": half_width,
            "stderr": half_width / NORMAL_QUANTILE, "rounding": 0.0, "diverged": 0, "undefined": 0,
            "heavy_tailed": False, "too_wide": False, "placement": delta, "placement_stderr": 1e-6,
            "at_kinks": at_kinks / 2, "part": part, "share": share,
            "has_memory": False,
        }
        for (order, lr), error in errors.items()
    )  # fmt: skip


def test_a_large_error_of_order_two_is_not_asymptotic_unless_it_is_noise():
    small, large, noise = (with_bias(rows({(1, 0.1): 1e-2, (2, 0.1): second})) for second in (3e-3, 4e-3, 5e-5))
    assert small.resolved.all() and not large.resolved.any()
    assert noise.resolved.tolist() == [True, False]
    lost = with_bias(rows({(1, 0.1): 1e-4, (2, 0.1): 9e-5}, half_width=2e-4))
    assert set(lost.reason) == {"inside its Monte Carlo interval"}


@pytest.mark.parametrize(
    ("part", "share", "bounds"),
    [(0.5, 0.0, {1: 2e-4, 2: 1e-4}), (0.75, 6e-5, {1: 2.1e-4, 2: 2.1e-4}), (0.5, 6e-5, {1: 2e-4, 2: 1.6e-4})],
)
def test_the_bounds_of_both_orders_are_parts_of_half_the_difference_of_both_placements(part, share, bounds):
    errors = {(1, 0.1): 1e-2, (2, 0.1): 1e-3}
    table = with_bias(rows(errors, delta=-2e-4, part=part, share=share)).set_index("order")
    assert table.bias.to_dict() == pytest.approx(bounds)
    for order in (1, 2):
        half = float(bias_aware_half_width(np.array(1e-4), np.array(table.bias[order])))
        assert table.high[order] - table.error[order] == pytest.approx(half)


def test_at_kinks_the_error_of_order_two_is_resolved_with_half_of_it_in_its_interval():
    table = with_bias(rows({(1, 0.1): 1e-2, (2, 0.1): 1e-3}, at_kinks=1e-3)).set_index("order")
    assert table.resolved.all()
    assert table.bias[2] == pytest.approx(5e-4) and 0 < table.low[2] < 5e-4


def test_the_slope_of_a_fit_knows_the_bias_of_defects():
    lrs, common = (
        np.array([0.2, 0.1]),
        {"order": 1, "observable": "loss", "solver_bias": 0.0, "solver_bias_stderr": 0.0},
    )
    table = pd.DataFrame({"lr": lrs, "error": 0.3 * lrs, "stderr": 1e-3 * lrs, "resolved": True} | common)
    exact, biased = fit_orders(table).iloc[0], fit_orders(table.assign(bias=0.1 * table.error)).iloc[0]
    assert biased.slope_high - biased.slope_low > 10 * (exact.slope_high - exact.slope_low)
    assert biased.slope_low < 1 < biased.slope_high


@pytest.mark.parametrize(
    ("interval", "options", "printed"),
    [
        ((0.010197, 0.010099, 0.010296), {"digits": 2}, "0.0102 [0.0101, 0.0103]"),
        ((0.1, 0.067, 0.23), {"digits": 2}, "0.1 [0.067, 0.23]"),
        ((-0.011328, -0.0114, -0.011257), {}, "-0.0113 [-0.0114, -0.0113]"),
        ((-0.01132812, -0.0113284, -0.0113278), {}, "-0.0113281 [-0.0113284, -0.0113278]"),
        ((1.5, 1.2, math.inf), {"digits": 2, "sign": "+", "unit": "%"}, "+1.5% [+1.2%, +inf%]"),
        ((2.0, 2.0, 2.0), {}, "2 [2, 2]"),
        ((math.nan, math.nan, math.nan), {}, "nan [nan, nan]"),
    ],
)
def test_an_interval_is_printed_with_ends_that_differ(interval, options, printed):
    assert with_interval(*interval, **options) == printed


@pytest.mark.parametrize("momentum", [0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_the_bias_of_a_few_steps_with_momentum_is_in_the_interval(momentum):
    training = sme.Training(linear_problem(0.8), torch.optim.SGD, lr=0.25, momentum=momentum)
    state = training.initial(seed=0)
    given = {"horizon": 0.25, "times": [0.25], "estimator": "defects", "paths": 512, "seed": 1}
    table = sme.weak_error(training, state, lrs=[0.25, 0.125, 0.0625], **given).table
    moments = LinearMoments(training, state)
    exact = pd.Series([moments.error(row.lr, row.order, row.time) for row in table.itertuples()])
    second = table.order == 2
    assert ((table.low <= exact) & (exact <= table.high)).all()
    # One step of the learning rate that the momentum belongs to, of which the estimate is wrong by half or more.
    one_step = table[second & (table.lr == 0.25)].iloc[0]
    assert abs(one_step.error / exact[one_step.name] - 1) > 0.3
    assert not one_step.resolved and one_step.reason == Status.OUTSIDE_ASYMPTOTICS
    assert table[second & (table.lr == 0.0625)].resolved.all()
    (single,) = sme.weak_error(training, state, lrs=[0.25], orders=[2], **given).table.itertuples()
    assert single.lr == 0.25 and not single.resolved and single.reason == Status.OUTSIDE_ASYMPTOTICS
