"""Orders and constants fitted to errors whose expansion is known."""

from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, scalar_dropout
from smesolve.comparison.order_fit import _verdict, fit_orders

SHAPES = {
    "polynomial": lambda x: 1 - 0.4 * x + 0.3 * x**2 - 0.2 * x**3,
    "exponential": lambda x: np.exp(-0.8 * x),
    "geometric series": lambda x: 1 / (1 - 0.4 * x),
    "even": lambda x: 1 + 0.4 * x**2,
    "cancelling": lambda x: 1 + 0.03 * x - 0.02 * x**2,
}
"""error / (c lr^order) against lr / max lr."""


def study(order, lrs, errors, relative, seed=0):
    """A weak-error table of errors with the given relative standard errors."""
    stderr = relative * np.abs(errors)
    measured = errors + stderr * np.random.default_rng(seed).standard_normal(len(lrs))
    return pd.DataFrame(
        {
            "order": order, "lr": lrs, "observable": f"seed {seed}", "error": measured, "stderr": stderr,
            "solver_bias": 0.0, "solver_bias_stderr": 0.0, "resolved": np.abs(measured) > 1.96 * stderr,
        }
    )  # fmt: skip


def shaped(name, order, points, relative, seeds):
    """Studies of 0.3 lr^order times a shape."""
    lrs = 0.2 / 2.0 ** np.arange(points)
    errors = 0.3 * lrs**order * SHAPES[name](lrs / 0.2)
    first = crc32(f"{name} {order} {points} {relative}".encode())  # shared noise would miss in the same studies
    return pd.concat([study(order, lrs, errors, relative, first + seed) for seed in range(seeds)])


def linear_moments():
    """Linear regression, keep_prob 0.8."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((6, 1))
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, y, keep_prob=0.8)
    return LinearMoments(problem, torch.tensor([1.0, -0.5], dtype=torch.float64))


@pytest.mark.parametrize("relative", [1e-2, 1e-5, 0.0])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("observable", ["theta[0]", "loss", "squared_norm"])
def test_exact_errors_have_their_order_however_well_they_are_known(observable, order, relative):
    moments = linear_moments()
    lrs = np.array([0.1, 0.05, 0.025, 0.0125])
    errors = np.array([moments.error(lr, order, 1.0, observable) for lr in lrs])
    small = 0.1 / 2.0 ** np.arange(4, 8)
    constant = np.polyfit(small, [moments.error(lr, order, 1.0, observable) / lr**order for lr in small], 3)[-1]
    fit = fit_orders(pd.concat([study(order, lrs, errors, relative, seed) for seed in range(4)]))
    assert not (fit.verdict == "another order").any()
    assert (fit.slope_low <= order).mean() == (fit.slope_high >= order).mean() == 1
    assert ((fit.constant_low <= constant) & (constant <= fit.constant_high)).mean() >= 0.75
    assert (fit.points >= 3).all()


@pytest.mark.parametrize("keep_prob", [0.8, 0.9])
def test_scalar_dropout_is_not_of_another_order(keep_prob):
    lrs = np.array([0.2, 0.1, 0.05, 0.025])
    for order in (1, 2):
        moments = [scalar_dropout(keep_prob, lr, 1.0) for lr in lrs]
        errors = np.array([m[order].second_moment - m[None].second_moment for m in moments])
        fit = fit_orders(pd.concat([study(order, lrs, errors, 1e-5, seed) for seed in range(6)]))
        assert not (fit.verdict == "another order").any()
        assert (fit.slope_high - fit.slope_low > 1e-4).all()


@pytest.mark.parametrize("relative", [0.15, 3e-2, 3e-3, 1e-5])
@pytest.mark.parametrize("points", [3, 4, 5])
def test_slopes_and_constants_are_covered_at_every_precision(points, relative):
    """200 studies, 40 of each shape, with noise of their own."""
    fit = fit_orders(pd.concat([shaped(name, 2, points, relative, 40) for name in SHAPES]))
    more = fit[fit.points >= 3]
    constant = (fit.constant_low <= 0.3) & (fit.constant_high >= 0.3)
    assert ((more.slope_low <= 2) & (more.slope_high >= 2)).mean() >= 0.93
    assert constant.mean() >= 0.93
    assert (fit.verdict == "another order").mean() <= 0.05


@pytest.mark.parametrize("points", [3, 4, 5])
@pytest.mark.parametrize("true", [1, 3])
def test_errors_of_another_order_are_found(true, points):
    lrs = 0.2 / 2.0 ** np.arange(points)
    for relative in (3e-2, 1e-3, 1e-7):
        errors = 0.3 * lrs**true * SHAPES["geometric series"](lrs / 0.2)
        fit = fit_orders(pd.concat([study(2, lrs, errors, relative, seed) for seed in range(10)]))
        assert (fit.verdict == "another order").all()
        assert (fit.constant_p_value < 0.05).mean() >= 0.9


def test_an_error_whose_leading_term_is_small_is_found_by_precise_errors():
    """Half of the error at the smallest learning rate is of order 1, less elsewhere."""
    lrs = 0.2 / 2.0 ** np.arange(4)
    errors = 0.3 * lrs**2 * (1 + lrs[-1] / lrs)
    fit = fit_orders(study(2, lrs, errors, 1e-5)).iloc[0]
    assert fit.verdict == "another order"


@pytest.mark.parametrize("share", [1.0, 3.0])
@pytest.mark.parametrize("relative", [1e-2, 1e-4, 1e-7])
def test_a_leading_term_that_dominates_at_the_smallest_learning_rate_is_found(share, relative):
    """error = c lr^2 (1 + share lr_min/lr): at lr_min half of the error or more is of order 1."""
    lrs = 0.2 / 2.0 ** np.arange(5)
    errors = 0.3 * lrs**2 * (1 + share * lrs[-1] / lrs)
    fit = fit_orders(pd.concat([study(2, lrs, errors, relative, seed) for seed in range(20)]))
    assert (fit.verdict == "another order").mean() >= 0.95


@pytest.mark.parametrize("relative", [3e-2, 1e-3])
def test_the_order_to_which_a_network_with_kinks_falls_back_is_found(relative):
    """error = 0.00046 lr + 0.0042 lr^2, as the second-order equation of a relu network has it."""
    lrs = np.array([0.1, 0.05, 0.025, 0.0125, 0.00625])
    errors = 0.00046 * lrs + 0.0042 * lrs**2
    fit = fit_orders(pd.concat([study(2, lrs, errors, relative, seed) for seed in range(20)]))
    assert (fit.verdict == "another order").mean() >= 0.95


def test_the_interval_of_the_slope_never_shrinks_to_a_wrong_point():
    """From 1% on, more precise errors shorten the interval to what the missing terms leave open."""
    widths = []
    for relative in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        fit = fit_orders(shaped("exponential", 1, 4, relative, 1)).iloc[0]
        assert fit.slope_low <= 1 <= fit.slope_high
        widths.append(fit.slope_high - fit.slope_low)
    assert widths[0] > widths[1]
    assert widths[2:] == pytest.approx([widths[2]] * 3, rel=0.01)


def test_learning_rates_equal_up_to_rounding_are_one():
    lrs = np.array([0.1, 0.1 * (1 + 2e-16), 0.05, 0.025])
    assert lrs[0] != lrs[1]
    errors = 0.3 * lrs * (1 + 0.2 * lrs)
    fit = fit_orders(study(1, lrs, errors, 1e-3)).iloc[0]
    assert fit.points == 3
    assert abs(fit.slope - 1) < 0.5
    alone = fit_orders(study(1, lrs[:2], errors[:2], 1e-3)).iloc[0]
    assert alone.points == 1
    assert alone.verdict == "not resolved"
    assert np.isnan(alone.slope)


def test_two_points_give_a_local_slope_and_a_constant_with_room_for_the_next_terms():
    lrs = np.array([0.1, 0.05])
    fit = fit_orders(study(1, lrs, 0.3 * lrs * np.exp(3 * lrs), 1e-6)).iloc[0]
    assert fit.verdict == "local slope"
    assert fit.slope == pytest.approx(1 + 0.15 / np.log(2), rel=1e-4)
    assert fit.constant_low < 0.3 < fit.constant_high


def corrected(lrs, relative, seed, correction=0.0):
    """A study of order 2 whose errors have a next term."""
    lrs = np.array(lrs)
    return study(2, lrs, 0.3 * lrs**2 * (1 + correction * lrs), relative, seed)


def test_the_interval_of_the_constant_covers_with_two_points():
    fit = fit_orders(pd.concat([corrected([0.1, 0.05], 0.01, seed, correction=1.0) for seed in range(400)]))
    assert ((fit.constant_low <= 0.3) & (fit.constant_high >= 0.3)).mean() >= 0.928


def test_a_fit_without_noise_finds_order_and_constant_from_any_start():
    table = corrected([0.2, 0.1, 0.05, 0.025, 0.0125], 0.05, 0, correction=3.5)
    table["error"] = -0.3 * table.lr**2 * (1 + 3.5 * table.lr)
    fit = fit_orders(table).iloc[0]
    assert fit.slope == pytest.approx(2, abs=1e-6)
    assert fit.constant == pytest.approx(-0.3, rel=1e-6)
    assert fit.points == 5


def test_points_that_a_fit_cannot_use_are_named():
    table = corrected([0.4, 0.2, 0.1, 0.05, 0.025], 0.01, 1)
    table.loc[0, "error"] *= -1
    table.loc[4, "resolved"] = False
    fit = fit_orders(table).iloc[0]
    assert fit.points == 3
    assert "lr=0.025: unresolved" in fit.left_out
    assert "lr=0.4: error has the other sign" in fit.left_out
    table = corrected([0.4, 0.2, 0.1, 0.05, 0.025], 0.01, 1)
    table.loc[0, "error"] *= 3
    fit = fit_orders(table).iloc[0]
    assert "lr=0.4: outside the asymptotic range" in fit.left_out
    assert fit.slope_low < 2 < fit.slope_high
    assert np.isnan(fit_orders(table.iloc[:1]).slope.iloc[0])


@pytest.mark.parametrize(
    ("slope", "constant", "predicted", "points", "verdict"),
    [
        ((1.001, 2.999), (1.0, 2.0), 1.5, 4, "certified"),
        ((1.9, 2.1), (1.0, 2.0), np.nan, 4, "certified"),
        ((1.0, 2.1), (1.0, 2.0), 1.5, 4, "too wide"),
        ((1.9, 3.0), (1.0, 2.0), 1.5, 4, "too wide"),
        ((1.9, np.inf), (1.0, 2.0), 1.5, 4, "too wide"),
        ((2.01, 2.5), (1.0, 2.0), 1.5, 4, "another order"),
        ((1.5, 1.99), (1.0, 2.0), 1.5, 4, "another order"),
        ((1.9, 2.1), (1.0, 2.0), -1.5, 4, "not asymptotic"),
        ((1.9, 2.1), (-1.0, 2.0), -1.5, 4, "certified"),
        ((1.9, 2.1), (1.0, 2.0), 1.5, 2, "local slope"),
        ((np.nan, np.nan), (np.nan, np.nan), 1.5, 1, "not resolved"),
    ],
)
def test_verdicts_on_a_fit(slope, constant, predicted, points, verdict):
    """An order is certified where the interval holds neither neighbour."""
    row = dict(zip(("slope_low", "slope_high", "constant_low", "constant_high"), (*slope, *constant), strict=True))
    assert _verdict(row | {"predicted_constant": predicted, "points": points}, 2) == verdict
