"""Exact moments under schedules against a solver of its own kind, and the error that they promise."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import linear_problem
from scipy.integrate import solve_ivp

import smesolve as sme
from smesolve.comparison.exact import ScheduledMoments
from smesolve.comparison.exact.quadratic_observable import QuadraticObservable
from smesolve.problem.schedule import Piecewise, cosine, step

START = torch.tensor([1.0, -0.5], dtype=torch.float64)
SCHEDULES = {
    "constant": {},
    "cosine": {"lr_factor": cosine(2.0, 0.1)},
    "fast": {"lr_factor": lambda t: 1 + 0.9 * torch.sin(3 * t)},
    "jump": {"lr_factor": step(1.0, 0.3)},
    "kink and jump of both": {
        "lr_factor": Piecewise([0.5, 1.5], [torch.ones_like, lambda t: 1.5 - t, lambda t: t / 2]),
        "keep_prob": Piecewise([1.0], [lambda t: 0.9 - 0.4 * t, lambda t: 0.4 + 0.1 * t]),
    },
}


def reference(moments, lr, order, horizon, observable):
    """The moment equation by an explicit method of order 8, from break to break."""
    P = np.outer([1.0, *START], [1.0, *START])
    for begin, end in pairwise([0.0, *moments.problem.breaks, horizon]):

        def slope(t, y, middle=(begin + end) / 2):
            return moments._generator(t, lr, order, t >= middle) @ y

        P = solve_ivp(slope, (begin, end), P.flatten(), "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return QuadraticObservable.of(moments.problem.problem, observable).expectation(P.reshape(3, 3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_moments_are_those_of_a_fine_reference(name):
    """Also with the learning rate of one step as long as the horizon, where no number of steps is fixed beforehand."""
    problem = sme.ScheduledProblem(linear_problem(keep_prob=0.8), **SCHEDULES[name])
    moments = ScheduledMoments(problem, START)
    for order, lr in ((1, 1.0), (2, 0.5)):
        exact = reference(moments, lr, order, 2.0, "squared_norm")
        assert moments.equation(lr, order, round(2 / lr), "squared_norm") == pytest.approx(exact, rel=1e-9)


def test_a_looser_tolerance_keeps_what_it_promises():
    problem = sme.ScheduledProblem(linear_problem(keep_prob=0.8), **SCHEDULES["fast"])
    exact = reference(ScheduledMoments(problem, START), 0.5, 1, 2.0, "theta[0]")
    errors = []
    for tolerance in (1e-2, 1e-4, 1e-8):
        found = ScheduledMoments(problem, START, tolerance).equation(0.5, 1, 4, "theta[0]")
        errors.append(abs(found - exact))
        assert errors[-1] <= tolerance * float(START.abs().max())
    assert errors[0] > errors[2]


def test_a_start_of_zero_and_small_parameters_are_held_to_their_own_size():
    for size in (0.0, 1e-8):
        one = torch.ones(1, 1, dtype=torch.float64)
        scalar = sme.DropoutProblem(sme.LinearNetwork(1), one, size * one, keep_prob=0.5)
        problem = sme.ScheduledProblem(scalar, lr_factor=cosine(2.0, 0.2))
        start = torch.full((1,), size, dtype=torch.float64)
        found = ScheduledMoments(problem, start).equation(0.5, 1, 4, "squared_norm")
        large = sme.ScheduledProblem(
            sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=0.5), lr_factor=cosine(2.0, 0.2)
        )
        wanted = size**2 * ScheduledMoments(large, one[0]).equation(0.5, 1, 4, "squared_norm")
        assert found == pytest.approx(wanted, rel=1e-9)


def test_a_jump_between_steps_that_is_not_declared_is_refused(monkeypatch):
    monkeypatch.setattr("smesolve.comparison.exact.scheduled_moments.DOUBLINGS", 4)
    problem = sme.ScheduledProblem(linear_problem(), lr_factor=lambda t: torch.where(t < 0.3, 1.0, 0.2))
    with pytest.raises(ValueError, match=r"tolerance=1e-10 is not reached at lr=0.5 by 16 steps .*; raise it, or"):
        ScheduledMoments(problem, START).equation(0.5, 1, 2)
