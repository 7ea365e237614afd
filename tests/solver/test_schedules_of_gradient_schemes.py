"""Schemes that take gradients, under schedules: without noise paths converge to the exact mean of the equation."""

import pytest
import torch
from problems import linear_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import ScheduledMoments
from smesolve.problem.schedule import Piecewise, cosine

START = torch.tensor([1.0, -0.5], dtype=torch.float64)
FACTOR = Piecewise([0.5], [lambda t: 0.2 + 2 * t, lambda t: 0.8 - t / 2])
LR = 0.25


def problems(keep_prob):
    """The readout in closed form, and as a module of which gradients are known only."""
    closed = linear_problem(keep_prob=keep_prob)
    module = nn.Sequential(nn.Dropout(1 - keep_prob), nn.Linear(2, 1, bias=False)).double()
    return closed, sme.ModuleProblem(module, closed.x, closed.y, loss="squared_error", masks="shared")


@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["svag", "sampled_euler"])
@pytest.mark.parametrize("order", [1, 2])
def test_without_noise_paths_converge_to_the_equation(order, scheme, momentum):
    made = problems(1.0)
    state = START
    if momentum:
        made = [sme.Training(one, torch.optim.SGD, lr=LR, momentum=momentum) for one in made]
        state = made[0].start(START)
    exact = ScheduledMoments(sme.ScheduledProblem(made[0], FACTOR), state)
    wanted = exact.equation(LR, order, 4, "theta[0]")
    assert abs(wanted - exact.equation(LR, 3 - order, 4, "theta[0]")) > 1e-3
    for problem in made:
        sde = sme.ModifiedEquation(sme.ScheduledProblem(problem, FACTOR), LR, order)
        coarse, fine = (
            float(sme.solve(sde, state, [0.0, 1.0], scheme, dt=dt, paths=1)[-1, 0, 0]) for dt in (1 / 64, 1 / 128)
        )
        assert 2 * fine - coarse == pytest.approx(wanted, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["svag", "sampled_euler"])
def test_weak_errors_by_differences_of_a_sampled_problem_hold_the_exact_ones(scheme):
    closed, sampled = problems(0.8)
    factor = cosine(1.0, 0.2)
    exact = ScheduledMoments(sme.ScheduledProblem(closed, factor), START)
    study = sme.weak_error(
        sme.ScheduledProblem(sampled, factor), START, [LR], 1.0, scheme=scheme, paths=2048, times=[1.0]
    )
    assert (study.table.estimator == "difference").all()
    for row in study.table.itertuples():
        assert row.low < exact.error(LR, row.order, 1.0) < row.high


@pytest.mark.slow
def test_a_schedule_of_keep_prob_is_known_to_schemes_that_take_gradients():
    """In closed form d_t b is known beside the draws."""
    problem = sme.ScheduledProblem(linear_problem(keep_prob=0.8), keep_prob=lambda t: 0.9 - 0.4 * t)
    exact = ScheduledMoments(problem, START)
    sde = sme.ModifiedEquation(problem, LR, 2)
    runs = sme.solve(sde, START, [0.0, 1.0], "svag", dt=1 / 64, paths=4096, observables=["theta[0]"]).iloc[-1]
    assert abs(runs["mean"] - exact.equation(LR, 2, 4, "theta[0]")) < 4 * runs["stderr"] + 2e-3
