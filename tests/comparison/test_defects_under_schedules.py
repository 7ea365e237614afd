"""Errors by defects of problems that depend on time: against exact moments, predicted constants and single steps."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_defects import START, linear_problem, measured, tanh_module, tanh_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.defect_budget import UNKNOWN_PART_UNDER_SCHEDULES, DefectBudget
from smesolve.comparison.defect_plan import gregory_weights
from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.exact import ScheduledMoments
from smesolve.comparison.instant import Instant
from smesolve.comparison.leading_constants import leading_constants
from smesolve.comparison.shifted_runs import ShiftedRuns
from smesolve.comparison.study_design import StudyDesign
from smesolve.problem.observables import named_observables
from smesolve.problem.schedule import Piecewise, cosine, step, warm_up
from smesolve.sampling.runner import Runner

BOTH = {
    "lr_factor": Piecewise([0.25, 0.75], [lambda t: 0.3 + t, lambda t: 1.2 - t, lambda t: t / 2]),
    "keep_prob": Piecewise([0.5], [lambda t: 0.9 - 0.2 * t, lambda t: 0.7 + 0.2 * t]),
}
TOLERANCE = 1e-7
"""Of exact moments, whose cost is most of these tests."""

SCHEDULES = {
    "cosine": {"lr_factor": cosine(1.0, 0.1)},
    "warm-up": {"lr_factor": warm_up(0.5)},
    "jump": {"lr_factor": step(0.5, 0.3)},
    "keep_prob from 1 on": {"keep_prob": lambda t: 1 - 0.2 * t},
    "breaks of both": BOTH,
}


def bounds(problem, start, lr, horizon, mean, half):
    """The bounds on the bias of both orders, of one observable at one time, and the noise of what they are made of."""
    design = StudyDesign.of(problem, start, [lr], horizon, orders=[1, 2], observables=["loss"], times=[horizon])
    shares = {order: DefectBudget(design, lr, Runner()).share(order) for order in (1, 2)}
    delta, second = abs(mean[3]) + half[3], abs(mean[2])
    found = {order: UNKNOWN_PART_UNDER_SCHEDULES * delta + share * second for order, share in shares.items()}
    return found | {1: max(delta, found[1])}


def linear_module(keep_prob=0.8):
    """`linear_problem` as a module, of which only draws are known."""
    base = linear_problem()
    layers = nn.Dropout(1 - keep_prob), nn.Linear(3, 1, bias=False)
    return sme.ModuleProblem(nn.Sequential(*layers).double(), base.x, base.y, loss="squared_error", masks="shared")


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [*map(partial(pytest.param, marks=SLOW), list(SCHEDULES)[:-1]), "breaks of both"])
def test_both_orders_hold_the_exact_errors_of_a_linear_readout(name):
    problem, lr = sme.ScheduledProblem(linear_problem(0.8), **SCHEDULES[name]), 0.05
    exact = ScheduledMoments(problem, START, TOLERANCE)
    mean, half, _ = measured(problem, START, lr, 1.0, 1024, names=("loss", "theta[0]"), times=[0.5, 1.0], at_once=True)
    for t, o, time, observable in ((0, 1, 0.5, "theta[0]"), (1, 0, 1.0, "loss")):
        bias = bounds(problem, START, lr, 1.0, mean[t, o], half[t, o])
        for order in (1, 2):
            error = exact.error(lr, order, time, observable)
            assert abs(mean[t, o, order] - error) < half[t, o, order] + bias[order]
            assert order == 2 or half[t, o, order] < 0.1 * abs(error)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "jump", "breaks of both"])
def test_errors_from_draws_alone_are_those_of_the_closed_form(name):
    factor, lr = SCHEDULES[name]["lr_factor"], 0.05
    problem = sme.ScheduledProblem(linear_module(), factor)
    assert not problem.has_closed_form
    exact = ScheduledMoments(sme.ScheduledProblem(linear_problem(0.8), factor), START, TOLERANCE)
    mean, half, _ = measured(problem, START, lr, 1.0, 2048, at_once=True)
    bias = bounds(problem, START, lr, 1.0, mean[0, 0], half[0, 0])
    for order in (1, 2):
        assert abs(mean[0, 0, order] - exact.error(lr, order, 1.0)) < half[0, 0, order] + bias[order]
    assert half[0, 0, 1] < 0.1 * abs(mean[0, 0, 1])


@pytest.mark.parametrize(
    "name", [pytest.param("warm-up", marks=SLOW), "jump", pytest.param("breaks of both", marks=SLOW)]
)
def test_the_relative_bias_of_order_one_is_of_second_order(name):
    """Without noise the estimate has one value; breaks that are steps cost nothing."""
    problem = sme.ScheduledProblem(linear_problem(keep_prob=1.0), SCHEDULES[name]["lr_factor"])
    exact, relative = ScheduledMoments(problem, START, 1e-9), []
    for lr in (0.125, 0.0625, 0.03125):
        sampler = DefectSampler(problem, START, lr, [round(1 / lr)], named_observables(problem, ["loss"]), (1,), False)
        companion = sampler.values(0)[0, 0, 0, 1]
        relative.append(companion / (exact.error(lr, 1, 1.0) - exact.error(lr, 2, 1.0)) - 1)
    assert abs(relative[0]) < 0.015
    assert relative[0] / relative[1] > 3.5 and relative[1] / relative[2] > 3.8


@pytest.mark.parametrize("name", [None, "cosine", "warm-up", "jump"])
def test_a_companion_goes_on_by_the_flow_of_its_moves(name):
    """Of one parameter without noise, each step multiplies by (1 - h u lr) exp(lr/2 int h^2 u^2 - h u' dt)."""
    x, y = torch.tensor([[1.5], [0.8], [-1.1]], dtype=torch.float64), torch.tensor([[2.0], [1.0], [-1.5]]).double()
    problem = sme.DropoutProblem(sme.LinearNetwork(1), x, y, keep_prob=1.0)
    factor = SCHEDULES[name]["lr_factor"] if name else torch.ones_like
    ends, pieces = (factor.breaks, factor.pieces) if isinstance(factor, Piecewise) else ((), (factor,))
    h, end, misses = float((x**2).mean()), float((x * y).mean() / (x**2).mean()), []
    for steps in (8, 16, 32):
        lr, factors, moved = 1 / steps, [], 0.0
        for piece, (begin, last) in zip(pieces, pairwise([0.0, *ends, 1.0]), strict=True):
            t = torch.linspace(begin, last, 4097, dtype=torch.float64)
            u = piece(t)
            moved += lr / 2 * float(h**2 * torch.trapezoid(u**2, t) - h * (u[-1] - u[0]))
            factors.append(piece(torch.arange(begin, last, lr, dtype=torch.float64)))
        exact = (3.0 - end) * float((1 - h * lr * torch.cat(factors)).prod()) * np.exp(moved) + end
        followed = sme.ScheduledProblem(problem, lr_factor=factor) if name else problem
        observables = named_observables(followed, ["theta[0]"])
        sampler = DefectSampler(followed, torch.tensor([3.0]).double(), lr, [steps], observables, (1,), False)
        value, error = sampler.values(0)[0, 0, 0, :2]
        misses.append(abs(value + error - exact) / abs(error))
    assert misses[0] < 0.02 and misses[0] / misses[1] > 6 and misses[1] / misses[2] > 6


@pytest.mark.parametrize("intervals", [1, 2, 3, 4, 5, 9])
def test_nodes_have_weights_that_integrate_cubic_polynomials(intervals):
    nodes, weights = np.arange(intervals + 1.0), gregory_weights(intervals)
    for power in range(4 if intervals > 1 else 2):
        assert weights @ nodes**power == pytest.approx(intervals ** (power + 1) / (power + 1), rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.9, marks=SLOW)])
def test_the_defect_of_one_step_is_that_of_exact_moments(momentum):
    """(Q_2 - P) v / lr^3 of one step as lr -> 0, by Richardson's extrapolation, for v linear and quadratic."""
    problem, start = linear_problem(0.7), START
    schedules = {"lr_factor": lambda t: 1 + t + t**2}
    if momentum:
        problem = sme.Training(problem, torch.optim.SGD, lr=0.5, momentum=momentum)
        start = problem.warm(problem.start(START), 2)
    else:
        schedules["keep_prob"] = lambda t: 0.7 - 0.5 * t + t**2
    problem = sme.ScheduledProblem(problem, **schedules)
    exact = ScheduledMoments(problem, start, 1e-12)
    paths, lr = 20_000, 1e-3
    sampler = DefectSampler(problem, start, lr, [1], named_observables(problem, ["loss"]), (2,), False)
    vars(sampler)["block_size"] = paths
    shifts, weights = ShiftedRuns(sampler, 0)._stencil(start.expand(paths, -1), Instant.of(problem, 0, lr))
    for name, function in named_observables(problem, ["theta[0]", "theta[2]", "loss", "squared_norm"]).items():
        errors = [exact.error(step, 2, step, name) / step**3 for step in (0.02, 0.01, 0.005)]
        first = [2 * fine - coarse for coarse, fine in pairwise(errors)]
        limit = (4 * first[1] - first[0]) / 3
        found = (weights * function(start + shifts)).sum(0)
        stderr = float(found.std()) / paths**0.5
        assert abs(float(found.mean()) - limit) < 4 * stderr + 5e-3 * abs(limit)
        assert stderr < 0.1 * max(abs(limit), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
def test_momentum_under_a_cosine_has_its_exact_errors(closed):
    lr, schedule = 0.03125, cosine(1.0, 0.2)
    made = [
        sme.Training(base, torch.optim.SGD, lr=0.25, momentum=0.8) for base in (linear_problem(0.8), linear_module(0.8))
    ]
    state = made[0].warm(made[0].start(START), 2)
    exact = ScheduledMoments(sme.ScheduledProblem(made[0], schedule), state, 1e-5)
    problem = sme.ScheduledProblem(made[0] if closed else made[1], schedule)
    mean, half, _ = measured(problem, state, lr, 1.0, 1024, at_once=True)
    bias = bounds(problem, state, lr, 1.0, mean[0, 0], half[0, 0])
    for order in (1, 2):
        assert abs(mean[0, 0, order] - exact.error(lr, order, 1.0)) < half[0, 0, order] + bias[order]
    assert half[0, 0, 1] < 0.25 * abs(mean[0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [cosine(2.0, 0.1), step(1.0, 0.3)])
def test_constants_of_a_network_are_the_predicted_ones(schedule):
    theta0, lr = tanh_problem().initial(seed=1), 0.1
    closed = sme.ScheduledProblem(tanh_problem(), schedule)
    observables = named_observables(closed, ["loss"])
    (constant,) = leading_constants(closed, theta0, [2.0], observables, 0.1, orders=[1]).constant
    for problem in (closed, sme.ScheduledProblem(tanh_module(), schedule)):
        mean, half, _ = measured(problem, theta0, lr, 2.0, 512, at_once=True)
        assert abs(mean[0, 0, 1] / lr - constant) < half[0, 0, 1] / lr + 0.15 * abs(constant)
        assert half[0, 0, 1] / lr < 0.3 * abs(constant)


@pytest.mark.slow
def test_shuffled_epochs_under_a_schedule_have_their_exact_error():
    """Least squares without noise but the order: the mean over all orders of every epoch against the equation's."""
    x = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [0.8, -0.7], [0.1, 0.9]], dtype=torch.float64)
    y = torch.tensor([[0.9], [-0.3], [0.5], [1.1]], dtype=torch.float64)
    epochs = sme.ShuffledEpochs(nn.Linear(2, 1, bias=False).double(), x, y, batch_size=2)
    problem, lr = sme.ScheduledProblem(epochs, warm_up(0.4, 0.2)), 0.05
    start = torch.tensor([2.0, -1.5], dtype=torch.float64)
    mean, half, _ = measured(problem, start, lr, 0.8, 512, at_once=True)
    ends = {}
    for order in (1, 2):
        sde = sme.ModifiedEquation(problem, lr, order)
        ends[order] = sme.solve(sde, start, [0.0, 0.8], "small_noise_rk4", dt=lr / 4, paths=2)[-1, 0]
    runs = sme.iterate(problem, start, lr, 16, 20_000, seed=3, observables=["loss"]).iloc[-1]
    bias = bounds(problem, start, lr, 0.8, mean[0, 0], half[0, 0])
    for order in (1, 2):
        error = float(problem.loss(ends[order])) - runs["mean"]
        assert abs(mean[0, 0, order] - error) < half[0, 0, order] + bias[order] + 3 * runs["stderr"]


def test_breaks_are_nodes_and_must_be_steps():
    problem = sme.ScheduledProblem(linear_problem(), Piecewise([0.375, 5.0], [torch.ones_like] * 3))
    sampler = DefectSampler(problem, START, 1 / 256, [128, 256], named_observables(problem, ["loss"]), (1,), False)
    assert sampler.breaks == {96} and sampler.spacing == 4
    study = {"orders": [1], "estimator": "defects", "paths": 16}
    with pytest.raises(sme.SmesolveError, match=r"lr=0\.1 does not divide the schedule's break=0\.375; take"):
        sme.weak_error(problem, START, [0.1], 1.0, **study)
    found = sme.weak_error(problem, START, [0.125], 0.25, **study)  # breaks beyond the horizon do not matter
    assert np.isfinite(found.table.error).all()


@pytest.mark.slow
def test_a_range_of_validity_under_a_schedule_holds_the_exact_one():
    problem = sme.ScheduledProblem(linear_problem(0.8), step(0.5, 0.3))
    found = sme.validity_range(problem, START, 1.0, 0.005, orders=[1], rel_tol=0.05, paths=256)
    exact = ScheduledMoments(problem, START)
    assert ((1 / found.errors.lr).round() % 2 == 0).all()  # every learning rate meets the jump

    def relative(steps):
        change = exact.iteration(1 / steps, steps) - float(problem.loss(START))
        return abs(exact.error(1 / steps, 1, 1.0) / change)

    (row,) = found.table.itertuples()
    assert relative(2 * round(0.5 / row.lr_low) + 2) < 0.005 < relative(max(2, 2 * round(0.5 / row.lr_high) - 2))
    with pytest.raises(sme.SmesolveError, match="must be multiples of a part of the horizon 1, a half up to a 256th"):
        sme.validity_range(sme.ScheduledProblem(linear_problem(), step(1 / 3.14159, 0.3)), START, 1.0)
