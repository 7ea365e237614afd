"""Predicted leading constants against exact weak errors, whatever the horizon."""

import math

import numpy as np
import pytest
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, ScheduledMoments
from smesolve.comparison.leading_error import _from_step_sizes, first_constants, leading_constants, second_constants
from smesolve.comparison.observables import named_observables
from smesolve.problem.schedule import step


def stiff_problem():
    """Linear regression whose Hessian has eigenvalues that are 100 times apart."""
    x = np.array([[2.0, 1.8], [-1.6, -1.9], [1.7, 1.9], [-2.0, -1.9]])
    y = np.array([[1.0], [-0.3], [0.7], [-0.6]])
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, y, keep_prob=0.98)
    return problem, torch.tensor([0.6, -0.8], dtype=torch.float64)


def extrapolated(error, order, lr):
    """error(lr)/lr^order at lr = 0, from lr, lr/2 and lr/4."""
    coarse, middle, fine = (error(lr / part) / (lr / part) ** order for part in (1, 2, 4))
    return (4 * (2 * fine - middle) - (2 * middle - coarse)) / 3


@pytest.mark.parametrize("horizon", [1.0, pytest.param(16.0, marks=pytest.mark.slow)])
def test_constants_are_exact_at_horizons_of_many_relaxation_times(horizon):
    problem, theta0 = stiff_problem()
    moments = LinearMoments(problem, theta0)
    observables = named_observables(problem, ["squared_norm"])
    stiffness = horizon * 2 / problem.stability_limit(theta0)
    lr = horizon / (8 * math.ceil(stiffness))
    first = first_constants(problem, theta0, horizon, observables, lr)["squared_norm"]
    second = second_constants(problem, theta0, horizon, observables)["squared_norm"]
    for order, (constant, error) in ((1, first), (2, second)):
        exact = extrapolated(lambda rate, p=order: moments.error(rate, p, horizon, "squared_norm"), order, lr / 4)
        assert constant == pytest.approx(exact, rel=1e-3)
        assert 0 < error < 1e-3 * abs(constant)


@pytest.mark.slow
def test_the_error_of_a_constant_is_in_the_prediction():
    problem, theta0 = stiff_problem()
    table = leading_constants(problem, theta0, [1.0], named_observables(problem, ["loss", "theta[0]"]), 0.1, [1, 2])
    assert len(table) == 4
    assert (table.stderr > 0).all()
    assert (table.stderr < 1e-3 * table.constant.abs()).all()


def test_a_network_with_kinks_is_followed_by_stable_steps():
    """Without kinks, the fit to step sizes gives the constant of the adjoint, however large the step asked for."""
    problem, theta0 = stiff_problem()
    observables = named_observables(problem, ["squared_norm"])
    exact, _ = first_constants(problem, theta0, 16.0, observables, 0.1)["squared_norm"]
    limit = problem.stability_limit(theta0)
    fitted, _ = _from_step_sizes(problem, theta0, 16.0, observables, 0.99 * limit)["squared_norm"]
    assert fitted == pytest.approx(exact, rel=0.02)


def test_a_constant_in_single_precision_is_that_of_double_precision():
    problem, theta0 = stiff_problem()
    observables = named_observables(problem, ["loss"])
    expected, _ = first_constants(problem, theta0, 2.0, observables, 0.1)["loss"]
    network = sme.LinearNetwork(2).float()
    single = sme.DropoutProblem(network, problem.x.float(), problem.y.float(), keep_prob=0.98)
    constant, error = first_constants(single, theta0.float(), 2.0, named_observables(single, ["loss"]), 0.1)["loss"]
    assert constant == pytest.approx(expected, rel=1e-3)
    assert error < 1e-2 * abs(constant)


@pytest.mark.slow
def test_a_constant_under_a_schedule_with_a_jump_is_exact_at_a_long_horizon():
    problem, theta0 = stiff_problem()
    scheduled = sme.ScheduledProblem(problem, step(8.0, 0.3))
    observables = named_observables(problem, ["squared_norm"])
    constant, _ = first_constants(scheduled, theta0, 16.0, observables, 0.1)["squared_norm"]
    moments = ScheduledMoments(scheduled, theta0, substeps=512)
    exact = extrapolated(lambda lr: moments.error(lr, 1, 16.0, "squared_norm"), 1, 1 / 16)
    assert constant == pytest.approx(exact, rel=2e-3)
