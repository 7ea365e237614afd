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
