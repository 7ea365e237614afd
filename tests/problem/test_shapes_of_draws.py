"""Gradients, steps and noise broadcast the dimensions of theta against those of draws, whatever the noise."""

import pytest
import torch

import smesolve as sme
from smesolve.problem.averaged_problem import AveragedProblem

X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2)
Y = X.sum(1, keepdim=True) ** 2


def module(**noise):
    torch.manual_seed(0)
    layers = torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)
    return sme.ModuleProblem(torch.nn.Sequential(*layers).double(), X, Y, **noise)


def shuffled():
    return sme.ShuffledEpochs(torch.nn.Linear(2, 1).double(), X, Y, batch_size=3)


def dropout(keep_prob):
    return sme.DropoutProblem(sme.TwoLayerNetwork(2, 3, 1, "tanh"), X, Y, keep_prob=keep_prob)


PROBLEMS = {
    "no noise": module,
    "weight decay": lambda: module(weight_decay=0.1),
    "batches": lambda: module(batch_size=2),
    "labels": lambda: module(label_noise=0.1),
    "parameters": lambda: module(parameter_noise=0.1),
    "shuffled": shuffled,
    "dropout": lambda: dropout(0.8),
    "dropout, all kept": lambda: dropout(1.0),
    "no noise, scheduled": lambda: sme.ScheduledProblem(module(), lambda t: 1 - t / 2),
    "no noise, momentum": lambda: sme.Training(module(), torch.optim.SGD, lr=0.1, momentum=0.9),
    "no noise, Adam": lambda: sme.Training(module(), torch.optim.Adam, lr=0.1),
    "no noise, averaged": lambda: AveragedProblem(module(), 4),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_dimensions_of_draws_are_dimensions_of_gradients(name):
    problem = PROBLEMS[name]()
    theta, draw = problem.initial(seed=0), problem.sample(5, seed=0)
    for start, lead in ((theta, (5,)), (theta.expand(5, -1), (5,)), (theta.expand(3, 1, -1), (3, 5))):
        assert problem.gradient(start, draw).shape == (*lead, problem.dim)
        assert problem.step(start, draw, 0.1).shape == (*lead, problem.dim)
        assert problem.step_terms(start, draw, 2)[1].shape == (*lead, problem.dim)
    each = problem.gradient(theta.expand(5, -1), draw)
    torch.testing.assert_close(problem.gradient(theta, draw), each, rtol=0, atol=1e-14, equal_nan=True)


def test_noise_along_a_direction_has_the_dimensions_of_draws_where_there_is_none():
    problem = module()
    theta = problem.initial(seed=0)
    along = problem.noise_along(problem.noise_coefficients(theta, torch.ones_like(theta)), problem.sample(5, seed=0))
    assert torch.equal(along, torch.zeros(5, dtype=torch.float64))
