"""Schedules written by the user: the values that they read may change, and the largest learning rate decides."""

import numpy as np
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.problem.schedule import Piecewise, ScheduledProblem, step


def scalar(feature=1.0, keep_prob=0.8):
    """L_S = 1/2 (w x - y)^2 + v/2 (w x)^2: Hessian x^2 / keep_prob."""
    x = torch.full((1, 1), feature, dtype=torch.float64)
    return sme.DropoutProblem(sme.LinearNetwork(1), x, torch.ones_like(x), keep_prob=keep_prob)


class Rate:
    """A schedule whose level may be set."""

    def __init__(self, level):
        self.level = level

    def __call__(self, t):
        return self.level * (1 - t / 4)


def test_a_schedule_whose_variable_changed_is_the_new_one():
    problem, theta = scalar(), torch.tensor([0.3], dtype=torch.float64)
    rate, keep = Rate(1.0), Rate(0.8)
    pieces = Piecewise([0.5], [rate, lambda t: rate.level + 0 * t])
    for make in (lambda: rate, lambda: pieces):
        rate.level, keep.level = 1.0, 0.8
        scheduled = ScheduledProblem(problem, make(), keep)
        scheduled.at(0.25).mean_gradient(theta), scheduled.drift_slope(0.25, theta), scheduled.jumps
        rate.level, keep.level = 2.0, 0.4
        fresh = ScheduledProblem(problem, Rate(2.0), Rate(0.4))
        assert torch.equal(scheduled.at(0.25).mean_gradient(theta), fresh.at(0.25).mean_gradient(theta))
        assert torch.equal(scheduled.drift_slope(0.25, theta), fresh.drift_slope(0.25, theta))
    paths = sme.iterate(scheduled, theta, 0.25, 4, 8)
    rate.level = 0.0
    assert torch.equal(sme.iterate(scheduled, theta, 0.25, 4, 8)[-1], theta.expand(8, 1))
    assert not torch.equal(paths[-1], theta.expand(8, 1))


def test_a_break_that_becomes_a_jump_is_one():
    levels = {"after": 1.0}
    schedule = Piecewise([0.5], [torch.ones_like, lambda t: levels["after"] + 0 * t])
    problem = ScheduledProblem(scalar(), schedule)
    assert problem.jumps == ()
    levels["after"] = 0.5
    assert problem.jumps == (0.5,)


@pytest.mark.parametrize(
    ("lr_factor", "keep_prob", "words"),
    [
        (lambda t: 1 - 4 * t, None, r"lr_factor at time 0.5 must be a number of at least 0, got -1.0"),
        (lambda t: 1 / (0.5 - t), None, r"lr_factor at time 0.5 must be a number of at least 0, got inf"),
        (None, lambda t: 0.8 + t**2 * 2, r"keep_prob at time 0.5 must lie in \(0, 1\], got 1.3"),
    ],
)
def test_values_that_become_bad_later_are_refused(lr_factor, keep_prob, words):
    problem = ScheduledProblem(scalar(), lr_factor, keep_prob)
    with pytest.raises(ValueError, match=words):
        sme.iterate(problem, torch.tensor([0.3], dtype=torch.float64), 0.25, 4, 8)


def test_the_stability_limit_is_the_least_over_the_schedule():
    """Hessian x^2 / keep(t), so the limit is 2 keep(t) / (x^2 u(t)) at its worst time."""
    theta = torch.tensor([0.3], dtype=torch.float64)
    base = scalar(2.0)

    def limit(u, keep, horizon):
        return ScheduledProblem(base, u, keep).stability_limit(theta, horizon)

    assert limit(lambda t: 3 + 0 * t, None, 1.0) == pytest.approx(2 * 0.8 / 4 / 3)
    assert limit(step(0.5, 3.0), None, 1.0) == pytest.approx(2 * 0.8 / 4 / 3)
    assert limit(step(0.5, 3.0), None, 0.5) == pytest.approx(2 * 0.8 / 4)
    assert limit(None, lambda t: 0.9 - 0.8 * t, 1.0) == pytest.approx(2 * 0.1 / 4, rel=0.05)
    spike = Piecewise([0.5, 0.5001], [torch.ones_like, lambda t: 5 + 0 * t, torch.ones_like])
    assert limit(spike, None, 1.0) == pytest.approx(2 * 0.8 / 4 / 5)
    rising = Piecewise([0.5], [lambda t: 1 + 8 * t, torch.ones_like])
    assert limit(rising, None, 1.0) == pytest.approx(2 * 0.8 / 4 / 5)
    # both at once: u / keep = (1 - t) / (0.9 - 0.8 t) is greatest at t = 0
    assert limit(lambda t: 1 - t, lambda t: 0.9 - 0.8 * t, 1.0) == pytest.approx(2 * 0.9 / 4, rel=1e-6)
    assert limit(lambda t: 0 * t, None, 1.0) == np.inf


def test_the_stability_limit_of_a_network_follows_keep_prob():
    problem = make_problem(width=4)
    theta = problem.initial(0)
    scheduled = ScheduledProblem(problem, lambda t: 1 + t, lambda t: 0.9 - 0.6 * t)
    times = np.linspace(0, 1, 200, endpoint=False)
    exact = min(scheduled.at(float(t)).stability_limit(theta) for t in times[::20])
    worst = scheduled.at(1.0, left_limit=True).stability_limit(theta)
    assert worst * 0.999 <= scheduled.stability_limit(theta, 1.0) <= exact


@pytest.mark.parametrize(
    ("factor", "lr", "stable"), [(0.2, 2.0, True), (3.0, 1.0, False), (1.0, 1.0, True), (1.0, 1.7, False)]
)
def test_weak_error_refuses_by_the_effective_learning_rate(factor, lr, stable):
    """keep_prob 0.8 and a unit feature: the limit is 1.6."""
    problem = ScheduledProblem(scalar(), lambda t: factor + 0 * t)
    theta0 = torch.tensor([0.3], dtype=torch.float64)

    def study():
        return sme.weak_error(problem, theta0, [lr], 2 * lr, orders=(1,), observables=["theta[0]"], paths=64)

    if stable:
        assert np.isfinite(study().table.error).all()
    else:
        with pytest.raises(ValueError, match="beyond the stability limit"):
            study()


def test_weak_error_refuses_a_factor_that_grows_too_large_later():
    problem = ScheduledProblem(scalar(), step(2.0, 3.0))
    theta0 = torch.tensor([0.3], dtype=torch.float64)
    sme.weak_error(problem, theta0, [1.0], 2.0, orders=(1,), observables=["theta[0]"], paths=64)
    with pytest.raises(ValueError, match="at the worst time of the schedule"):
        sme.weak_error(problem, theta0, [1.0], 4.0, orders=(1,), observables=["theta[0]"], paths=64)
