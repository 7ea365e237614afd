"""Draws, normals and vectors broadcast against theta, or are refused by one sentence."""

import pytest
import torch
from problems import make_problem
from torch import nn

import smesolve as sme

DROPOUT = make_problem(width=2)


def module():
    return nn.Sequential(nn.Linear(DROPOUT.x.shape[1], 2), nn.Tanh(), nn.Dropout(0.2), nn.Linear(2, 1)).double()


PROBLEMS = {
    "shared": lambda: DROPOUT,
    "per sample": lambda: make_problem(width=2, masks="per_sample"),
    "weak noise": lambda: DROPOUT.with_weak_noise(),
    "average": lambda: sme.AveragedProblem(DROPOUT, 2),
    "momentum": lambda: sme.Training(DROPOUT, torch.optim.SGD, lr=0.1, momentum=0.9),
    "module": lambda: sme.ModuleProblem(module(), DROPOUT.x, DROPOUT.y),
    "batches": lambda: sme.ModuleProblem(module().eval(), DROPOUT.x, DROPOUT.y, batch_size=2),
    "epochs": lambda: sme.ShuffledEpochs(module(), DROPOUT.x[:4], DROPOUT.y[:4], batch_size=2),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_leading_dimensions_broadcast_or_are_refused(kind):
    problem = PROBLEMS[kind]()
    theta = problem.initial(seed=0)
    calls = {
        "draw": lambda theta, count: problem.gradient(theta, problem.sample(count, seed=0)),
        "vector": lambda theta, count: problem.hessian_product(theta, theta.new_ones(count, problem.dim)),
        "normals": lambda theta, count: problem.noise_product(theta, theta.new_ones(count, problem.noise_dim)),
    }
    for name, call in calls.items():
        assert call(theta, 4).shape == (4, problem.dim)
        assert call(theta.expand(3, 1, -1), 4).shape == (3, 4, problem.dim)
        words = rf"theta and {name} must be the same or 1, got \(2,.*\) and \(4,.*\); give {name} for each theta"
        with pytest.raises(sme.SmesolveError, match=words):
            call(theta.expand(2, -1), 4)


@pytest.mark.parametrize("order", [1, 2])
def test_increments_of_an_equation_are_refused_alike(order):
    equation, theta = sme.ModifiedEquation(DROPOUT, 0.1, order), DROPOUT.initial(seed=0).expand(2, -1)
    normals = theta.new_ones(4, DROPOUT.noise_dim)
    for call in (
        lambda: equation.f_and_g_prod(0.0, theta, normals),
        lambda: equation.euler_advance(0.0, theta, 0.1, normals),
        lambda: DROPOUT.linearize(theta).mean_noise_and_curvature(normals),
    ):
        with pytest.raises(sme.SmesolveError, match=r"theta and normals must be the same or 1, got \(2,.*\) and \(4,"):
            call()


@pytest.mark.skipif(DROPOUT.kernels is None, reason="without kernels there is no step by one")
def test_increments_of_a_step_by_one_kernel_are_refused_alike():
    theta = DROPOUT.initial(seed=0).expand(2, -1)
    with pytest.raises(sme.SmesolveError, match=r"theta and increments must be the same or 1, got \(2,.*\) and \(4,"):
        DROPOUT.small_noise_rk4(theta, theta.new_ones(4, DROPOUT.noise_dim), 1, 0.1, 0.1, True)
