"""The noise scale against enumeration, its intervals by counting."""

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem
from torch import nn

import smesolve as sme
from smesolve.landscape import hessian_operator, noise_scale, random_gradients


def test_all_masks_give_the_exact_scale():
    problem = make_problem(width=4)
    theta = problem.initial(seed=1)
    found = noise_scale(problem, theta, draws=16)
    mean, covariance = problem.mean_gradient(theta), problem.covariance(theta)
    assert found.trace.value == pytest.approx(float(covariance.trace()), rel=1e-12)
    assert found.squared_gradient.value == pytest.approx(float(mean @ mean), rel=1e-12)
    expected = float(covariance.trace() / (mean @ mean))
    assert [found.scale.low, found.scale.value, found.scale.high] == pytest.approx([expected] * 3, rel=1e-12)


def test_intervals_hold_the_exact_scale():
    problem = make_problem(width=8)
    theta = problem.initial(seed=1)
    exact = noise_scale(problem, theta, draws=256)
    held = np.zeros(3)
    for seed in range(40):
        found = noise_scale(problem, theta, draws=100, seed=seed)
        for k, name in enumerate(("trace", "squared_gradient", "scale")):
            one = getattr(found, name)
            held[k] += one.low <= getattr(exact, name).value <= one.high
            assert one.low < one.value < one.high
    assert (held >= 34).all()  # of 38 expected; fewer than 34 have probability 0.003


def test_batches_of_one_sample_have_the_covariance_of_samples():
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
    y = torch.sin(3 * x[:, :1])
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    problem = sme.ModuleProblem(module, x, y, batch_size=1)
    theta = problem.initial(seed=0)
    each = torch.stack([sme.ModuleProblem(module, x[i : i + 1], y[i : i + 1]).mean_gradient(theta) for i in range(6)])
    mean = each.mean(0)
    exact = float((each - mean).square().sum(-1).mean() / mean.square().sum())
    found = noise_scale(problem, theta, draws=2048)
    assert found.scale.low <= exact <= found.scale.high
    assert found.scale.high / found.scale.low < 1.6


def test_where_the_gradient_vanishes_the_scale_has_no_upper_end():
    problem = linear_problem(in_features=12)
    theta = problem.initial(seed=0)
    for _ in range(4000):
        theta = theta - 0.2 * problem.mean_gradient(theta)
    found = noise_scale(problem, theta, draws=200)
    assert found.scale.high == np.inf and 0 < found.scale.low < np.inf
    assert "inf" in str(found)


def test_a_state_is_no_point():
    training = sme.Training(make_problem(), torch.optim.SGD, 0.1, momentum=0.9)
    with pytest.raises(sme.SmesolveError, match="problem must be the one that is trained"):
        noise_scale(training, training.initial())
    with pytest.raises(sme.SmesolveError, match="problem must have the gradient of a loss"):
        hessian_operator(training, training.initial())


@pytest.mark.parametrize("options", [{}, {"batch_size": 6}, {"label_noise": 1e-10}])
def test_noise_that_is_not_above_rounding_has_the_scale_0(options):
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
    problem = sme.ModuleProblem(nn.Linear(2, 1).double(), x, x[:, :1], loss="squared_error", **options)
    theta = problem.initial(seed=0)
    assert random_gradients(problem, theta, 70).shape == (70, problem.dim)
    found = noise_scale(problem, theta, draws=70)
    assert (found.scale.value, found.scale.low, found.scale.high) == (0.0, 0.0, 0.0)
    assert found.squared_gradient.value == pytest.approx(float(problem.mean_gradient(theta).square().sum()), rel=1e-9)
    zero = sme.ModuleProblem(nn.Linear(2, 1).double(), 0 * x, 0 * x[:, :1], loss="squared_error", **options)
    if "label_noise" not in options:
        assert np.isnan(noise_scale(zero, torch.zeros_like(theta), draws=70).scale.value)
