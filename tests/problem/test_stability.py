"""Stability limits of training steps other than gradient descent."""

import math

import pytest
import torch

import smesolve as sme
from smesolve.problem.stability import curvature_limit, step_limit


@pytest.mark.parametrize("friction", [1.0, 0.1, 1e-3])
def test_the_limit_of_an_oscillation_falls_with_its_friction(friction):
    """Of x'' + c x' + x = 0 Euler's step has eigenvalues with |1 + nu|^2 = 1 - c lr + lr^2: the limit is c."""
    A = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
    found = step_limit(lambda at, lr: lr * at @ A.mT, torch.zeros(2, dtype=torch.float64), math.inf)
    assert found == pytest.approx(friction, rel=2e-3)


def test_the_limit_of_adam_is_found_where_a_beta_would_reach_zero():
    """At that learning rate a second moment is the square of one gradient, whose root has no derivative at 0."""
    x = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), x, x, keep_prob=0.5)
    training = sme.Training(problem, torch.optim.Adam, lr=0.001, betas=(0.9, 0.9))
    state = training.warm(training.initial(seed=1), 40)
    assert 0 < training.stability_limit(state) <= training.largest_lr == pytest.approx(0.01)
    with pytest.raises(sme.SmesolveError, match=r"lr=0\.05 is above 0\.01, from where on 1 - beta"):
        sme.weak_error(training, state, [0.05], 0.1, orders=[1], paths=4)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_hessian_that_is_not_finite_has_no_limit(dim):
    theta = torch.ones(dim, dtype=torch.float64)
    with pytest.raises(sme.SmesolveError, match="theta has a Hessian whose entries are not finite"):
        curvature_limit(lambda vector: torch.nan * vector, theta)
    assert curvature_limit(lambda vector: 4 * vector, theta) == pytest.approx(0.5)
    assert curvature_limit(lambda vector: -vector, theta) == math.inf
