"""Errors by defects against exact moments, predicted constants, and what they must not depend on."""

from functools import reduce

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import smesolve as sme
from smesolve.comparison.defect_budget import DefectBudget, with_bias
from smesolve.comparison.defects import COLUMNS, DefectSampler
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.study_design import StudyDesign
from smesolve.problem.observables import named_observables
from smesolve.sampling.runner import Runner


def linear_problem(keep_prob=0.8):
    generator = np.random.default_rng(5)
    x, y = generator.standard_normal((6, 3)), 3 * generator.standard_normal((6, 1))
    return sme.DropoutProblem(sme.LinearNetwork(3, 1), x, y, keep_prob=keep_prob)


START = torch.tensor([2.0, 1.5, -1.8], dtype=torch.float64)


def tanh_data():
    x = torch.tensor(np.random.default_rng(np.random.SeedSequence(0)).standard_normal((8, 2)))
    return x, torch.sin(2 * x[:, :1])


def tanh_problem():
    return sme.DropoutProblem(sme.TwoLayerNetwork(2, 4, 1, "tanh"), *tanh_data(), keep_prob=0.8)


def tanh_module(**noise):
    layers = nn.Linear(2, 4, bias=False), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1, bias=False)
    return sme.ModuleProblem(nn.Sequential(*layers).double(), *tanh_data(), loss="squared_error", **noise)


def measured(
    problem, theta0, lr, horizon, paths, orders=(1, 2), kinked=False, names=("loss",), times=None, at_once=False
):
    """Means and half-widths of all columns; all paths at once take a fraction of the time on tiny networks."""
    saved = [round(time / lr) for time in times or [horizon]]
    sampler = DefectSampler(problem, theta0, lr, saved, named_observables(problem, names), orders, kinked)
    if at_once:
        vars(sampler)["block_size"] = paths
    blocks = range(-(-paths // sampler.block_size))
    found = MeanEstimate.of(reduce(PathStatistics.merged, (sampler.statistics(block) for block in blocks)))
    shape = len(saved), len(names), len(COLUMNS)
    return found.mean.reshape(shape), found.half_width.reshape(shape), found


@pytest.mark.parametrize("keep_prob", [0.8, 0.6])
def test_both_orders_hold_the_exact_errors_of_a_linear_readout(keep_prob):
    problem, lr = linear_problem(keep_prob), 0.025
    exact = LinearMoments(problem, START)
    mean, half, _ = measured(problem, START, lr, 1.0, 2048, names=("loss", "theta[0]"), times=[0.5, 1.0], at_once=True)
    for t, time in enumerate((0.5, 1.0)):
        for o, name in enumerate(("loss", "theta[0]")):
            for order in (1, 2):
                error = exact.error(lr, order, time, name)
                bias = abs(mean[t, o, 3]) + half[t, o, 3]
                assert abs(mean[t, o, order] - error) < half[t, o, order] + bias
                assert half[t, o, order] < 0.35 * max(abs(error), 1e-4)
        assert abs(mean[t, 0, 0] - exact.iteration(lr, round(time / lr))) < half[t, 0, 0]


def test_the_relative_bias_of_order_one_is_of_second_order():
    """Without noise the estimate has one value: a single path with keep_prob 1."""
    problem = linear_problem(keep_prob=1.0)
    exact, relative = LinearMoments(problem, START), []
    for lr in (0.1, 0.05, 0.025):
        # 64 paths of which each takes one step of order 2: the mean over the steps is left to chance, so order 1 only
        sampler = DefectSampler(problem, START, lr, [round(1 / lr)], named_observables(problem, ["loss"]), (1,), False)
        companion = sampler.values(0)[0, 0, 0, 1]
        relative.append(companion / (exact.error(lr, 1, 1.0) - exact.error(lr, 2, 1.0)) - 1)
    assert abs(relative[0]) < 0.02
    assert relative[0] / relative[1] == pytest.approx(4, rel=0.25)
    assert relative[1] / relative[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("problem", "spread"), [(tanh_problem(), (0.4, 0.8)), (tanh_module(masks="shared"), (0.5, 1.7))]
)
def test_constants_of_a_network(problem, spread):
    """The constants 0.004214 and 0.00181 were predicted from value Hessians; one path spreads about as much as they."""
    theta0 = tanh_problem().initial(seed=1)
    mean, half, found = measured(problem, theta0, 0.1, 2.0, 1024, at_once=True)
    for order, constant in ((1, 0.004214), (2, 0.00181)):
        value, width = mean[0, 0, order] / 0.1**order, half[0, 0, order] / 0.1**order
        assert abs(value - constant) < width + 0.15 * constant  # the constant is that of lr -> 0
        deviation = found.stderr.reshape(mean.shape)[0, 0, order] * found.paths**0.5
        assert deviation < spread[order - 1] * abs(mean[0, 0, order])


def test_nodes_far_apart_give_the_same_error():
    problem, lr = linear_problem(), 1 / 256
    sampler = DefectSampler(problem, START, lr, [128, 256], named_observables(problem, ["loss"]), (1,), False)
    assert sampler.spacing == 4
    mean, half, _ = measured(problem, START, lr, 1.0, 256, orders=(1,))
    exact = LinearMoments(problem, START)
    assert abs(mean[0, 0, 1] - exact.error(lr, 1, 1.0) + exact.error(lr, 2, 1.0)) < 1.5 * half[0, 0, 1]
    assert half[0, 0, 1] < 0.1 * mean[0, 0, 1]


def test_a_sample_depends_on_its_block_only():
    problem = linear_problem()
    make = lambda seed: DefectSampler(  # noqa: E731
        problem, START, 0.1, [5, 10], named_observables(problem, ["loss"]), (1, 2), False, seed
    )
    first = make(0).values(3)
    assert np.array_equal(first, make(0).values(3))
    assert not np.array_equal(first, make(0).values(2))
    assert not np.array_equal(first, make(1).values(3))


def test_the_run_is_that_of_the_iteration():
    """In blocks of equal size they have the same draws."""
    problem = linear_problem()
    sampler = DefectSampler(problem, START, 0.1, [10], named_observables(problem, ["loss"]), (1,), False)
    vars(sampler)["block_size"] = problem.block_size
    runs = sme.iterate(problem, START, 0.1, 10, paths=problem.block_size)
    assert np.array_equal(sampler.values(0)[:, 0, 0, 0], problem.loss(runs[-1]).numpy())


def budgets(problem, theta0, lrs, orders=(1, 2), paths=256, rel_tol=None, horizon=1.0):
    rows = []
    for lr in lrs:
        design = StudyDesign.of(problem, theta0, [lr], horizon, orders=orders, observables=["loss"], times=[horizon])
        budget = DefectBudget(design, lr, Runner())
        budget.draw(paths, rel_tol, 2**14)
        rows += budget.rows(rel_tol)
    return with_bias(pd.DataFrame(rows))


def test_paths_are_added_until_the_tolerance_is_reached():
    problem = linear_problem()
    table = budgets(problem, START, [0.05], rel_tol=0.15)
    exact = LinearMoments(problem, START)
    assert (table.half_width <= 0.15 * 1.05 * table.error.abs()).all()
    for row in table.itertuples():
        assert row.low < exact.error(0.05, row.order, 1.0) < row.high


def test_an_error_of_exactly_zero_is_not_resolved():
    problem = sme.DropoutProblem(sme.LinearNetwork(3, 1), np.zeros((4, 3)), np.zeros((4, 1)), keep_prob=0.8)
    table = budgets(problem, torch.zeros(3, dtype=torch.float64), [0.1, 0.05], paths=16)
    assert not table.resolved.any()
    assert (table.error == 0).all()


@pytest.mark.parametrize(("keep_prob", "lrs"), [(0.8, [0.5, 0.25]), (0.5, [0.25, 0.125])])
def test_a_range_that_is_not_asymptotic_is_called_so(keep_prob, lrs):
    """Beyond lr/keep_prob^2 of a half both errors are of one size, and no expansion in the learning rate holds."""
    problem = linear_problem(keep_prob)
    exact = LinearMoments(problem, START)
    table = budgets(problem, START, lrs, paths=2048)
    assert not table[table.lr == lrs[0]].resolved.any()
    for row in table[table.resolved].itertuples():
        assert row.low < exact.error(row.lr, row.order, 1.0) < row.high


class Ramp(sme.Problem):
    """The loss -theta - 0.2 relu(theta), without noise: theta moves at speed 1 below zero and at speed 1.2 above."""

    dim = draw_dim = noise_dim = 1

    def draw(self, uniforms):
        return uniforms

    def loss(self, theta):
        return (-theta - 0.2 * theta.relu())[..., 0]

    def gradient(self, theta, draw=None):
        return -1.0 - 0.2 * (theta > 0).to(theta)

    mean_gradient = gradient

    def noise_product(self, theta, normals):
        return 0 * theta


@pytest.mark.parametrize("start", [-0.306, -0.314, -0.3002, -0.3198])
def test_a_crossing_counts_by_where_in_the_step_it_is(start):
    """The equation is at 1.2 (1 + start) at t = 1; the iteration keeps its speed to the end of a step."""
    theta0, lr, jump = torch.tensor([start], dtype=torch.float64), 0.02, 0.2
    mean, half, found = measured(Ramp(), theta0, lr, 1.0, 4096, kinked=True, names=("theta[0]",), at_once=True)
    crossing = np.ceil(-start / lr) * lr  # the end of the step
    iteration, equation = start + crossing + 1.2 * (1 - crossing), 1.2 * (1 + start)
    assert mean[0, 0, 0] == pytest.approx(iteration)
    deviation = found.stderr.reshape(mean.shape)[0, 0] * found.paths**0.5
    for order in (1, 2):  # the drift of order 2 is that of order 1 wherever there is a derivative
        assert abs(mean[0, 0, order] - (equation - iteration)) < half[0, 0, order] + 0.05 * jump * lr
    assert deviation[4] < 0.51 * jump * lr  # U decides whether the path has crossed


def test_without_kinks_long_shifts_and_two_companions_give_the_same_errors():
    """Both find errors up to a relative O(lr), with derivatives and with finite steps."""
    problem, exact = linear_problem(), LinearMoments(linear_problem(), START)
    for lr, bias in ((0.1, 0.12), (0.05, 0.06)):
        mean, half, _ = measured(problem, START, lr, 1.0, 4096, kinked=True, at_once=True)
        for order in (1, 2):
            error = exact.error(lr, order, 1.0)
            assert abs(mean[0, 0, order] - error) < half[0, 0, order] + bias * abs(error)
        assert abs(mean[0, 0, 4]) < 0.1 * abs(mean[0, 0, 1])


@pytest.mark.slow
def test_kinks_leave_order_two_an_error_that_falls_like_the_learning_rate():
    """Differences of means give 0.00065 lr at lr 0.05 for this network (`benchmarks/kinks.py`, to a tenth)."""
    data = pytest.importorskip("sklearn.datasets").load_diabetes()
    x, y = data.data[:64], data.target[:64, None]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    features = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
    network = sme.FeatureNetwork(features, nn.Linear(8, 1)).double()
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.8, masks="per_sample")
    rows = budgets(problem, problem.initial(seed=0), [0.05], horizon=0.5, paths=1024).set_index("order")
    assert abs(rows.error[2] / 0.05 - 0.00065) < rows.half_width[2] / 0.05 + 0.000065
    assert rows.low[2] > 0 and rows.bias[2] > 0.4 * rows.error[2]
    assert rows.low[1] / 0.05 < 0.0051 + 0.0002 and rows.high[1] / 0.05 > 0.0051 - 0.0002


# --- weak_error and validity_range -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_weak_error_by_defects_certifies_both_orders():
    problem = linear_problem()
    exact = LinearMoments(problem, START)
    study = sme.weak_error(
        problem, START, [0.1, 0.05, 0.025, 0.0125], 1.0, estimator="defects", paths=512, rel_tol=0.15, max_paths=4096
    )
    rows = study.table[study.table.time == 1.0]
    assert set(study.table.estimator) == {"defects"}
    for row in rows.itertuples():
        assert row.low < exact.error(row.lr, row.order, 1.0) < row.high
        assert row.sde - row.discrete == pytest.approx(row.error)
    fit = study.fit().set_index("order")
    assert fit.slope_low[1] < 1 < fit.slope_high[1] and fit.slope_low[2] < 2 < fit.slope_high[2]
    assert "defects" not in study.maximum().columns and len(study.maximum()) == 8


def classifier():
    x, y = tanh_data()
    module = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 3, bias=False))
    return sme.ModuleProblem(module.double(), x, (y[:, 0] > 0).long() + (x[:, 0] > 1), loss="cross_entropy")


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(tanh_module(), id="one mask a sample"),
        pytest.param(classifier(), id="cross-entropy"),
        pytest.param(tanh_module(batch_size=4), id="mini-batches without replacement"),
        pytest.param(tanh_module(label_noise=0.5), id="label noise"),
        pytest.param(tanh_module(weight_decay=0.3), id="weight decay"),
    ],
)
def test_defects_and_the_difference_agree_for_sampled_gradients(problem):
    theta0, common = problem.initial(seed=1), {"lrs": [0.2], "horizon": 2.0, "times": [2.0]}
    defects = sme.weak_error(problem, theta0, **common, estimator="defects", paths=512).table
    difference = sme.weak_error(problem, theta0, **common, paths=1024, dt=0.1).table
    assert set(difference.estimator) == {"difference"}
    # Independent estimates: their difference has the root of the sum of squares as its half-width.
    halves = np.hypot(defects.high - defects.low, difference.high - difference.low) / 2
    assert ((defects.error - difference.error).abs() < halves).all()
    assert defects[defects.order == 1].resolved.all()


def test_half_of_a_single_learning_rate_tells_the_bias_of_order_one():
    table = sme.weak_error(linear_problem(), START, [0.1], 1.0, orders=[1], estimator="defects", paths=256).table
    assert set(table.lr) == {0.1}
    exact = LinearMoments(linear_problem(), START).error(0.1, 1, 1.0)
    last = table.iloc[-1]
    assert last.low < exact < last.high and last.bias > 0


def test_the_loss_of_held_out_data_has_its_exact_errors():
    generator = np.random.default_rng(7)
    unseen = generator.standard_normal((4, 3)), 3 * generator.standard_normal((4, 1))
    problem, lr = linear_problem().with_test_data(*unseen), 0.05
    exact = LinearMoments(problem, START)
    mean, half, _ = measured(problem, START, lr, 1.0, 2048, names=("loss", "test_loss"), at_once=True)
    for o, name in enumerate(("loss", "test_loss")):
        for order in (1, 2):
            error = exact.error(lr, order, 1.0, name)
            assert abs(mean[0, o, order] - error) < half[0, o, order] + abs(mean[0, o, 3])
        assert half[0, o, 1] < 0.2 * abs(mean[0, o, 1])
    assert abs(mean[0, 1, 1] - mean[0, 0, 1]) > half[0, 1, 1]  # another number than that of the training data


def test_the_range_of_validity_is_that_of_exact_errors():
    problem, tolerance = linear_problem(), 0.01
    found = sme.validity_range(problem, START, 1.0, tolerance, orders=[1], paths=256)
    row = found.table.iloc[0]
    exact = LinearMoments(problem, START)
    start = float(problem.loss(START))
    relative = {
        steps: abs(exact.error(1 / steps, 1, 1.0) / (exact.iteration(1 / steps, steps) - start))
        for steps in range(4, 20)
    }
    below = max(1 / steps for steps, value in relative.items() if value < tolerance)
    above = min(1 / steps for steps, value in relative.items() if value > tolerance)
    assert row.lr_low < above and row.lr_high > below
    assert row.lr_low < row.lr < row.lr_high < found.stability_limit
    assert found.conclusion().startswith(
        "Order 1 describes the training to 1% of the change of the loss up to lr = 0.1"
    )


def test_a_tolerance_that_is_never_exceeded_is_limited_by_stability():
    found = sme.validity_range(linear_problem(), START, 0.5, 0.9, orders=[1], paths=64)
    assert found.table.limited_by.tolist() == ["stability"]
    assert "up to the stability limit" in repr(found)
