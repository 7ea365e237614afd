"""What a user of the typed public API writes: `mypy --strict` accepts it, and finds the mistakes that are marked."""

from typing import assert_type

import torch
from torch import Tensor, nn

import smesolve as sme
from smesolve import landscape, symbolic
from smesolve.comparison.exact import LinearMoments


def squared_length(theta: Tensor) -> Tensor:
    """An observable."""
    return theta.square().sum(-1)


x, y = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
network = sme.TwoLayerNetwork(in_features=2, width=4)
problem = sme.DropoutProblem(network, x, y, keep_prob=0.8)
theta0 = problem.initial(seed=0)
assert_type(theta0, Tensor)
assert_type(problem.mean_gradient(theta0), Tensor)

paths = sme.iterate(problem, theta0, lr=0.05, steps=4, paths=8)
assert_type(paths, Tensor)
equation = sme.ModifiedEquation(problem, lr=0.05, order=2)
assert_type(sme.solve(equation, theta0, ts=[0.0, 0.1], dt=0.05, paths=8), Tensor)
study = sme.weak_error(problem, theta0, lrs=[0.1, 0.05], horizon=0.2, observables=["loss", squared_length])
assert_type(study, sme.WeakErrorStudy)

module = sme.ModuleProblem(nn.Linear(2, 1).double(), x, y, batch_size=2)
kappa = sme.AveragedProblem(module, 4)
assert_type(sme.ScheduledProblem(problem, lr_factor=torch.cos).at(0.5), sme.Problem)
assert_type(LinearMoments(module, module.initial()).error(0.1, 1, 1.0), float)
iteration = symbolic.dropout(symbolic.ExplicitNetwork(hidden=2), sme.BernoulliMasks(0.8))
assert_type(symbolic.modified_equation(iteration).verify(), symbolic.Verification)
assert_type(landscape.trace(landscape.hessian_operator(problem, theta0)), landscape.Estimate)

# Mistakes; were one not found, the comment that expects it would be unused, which --strict refuses.
sme.iterate(problem, theta0, lr="0.05", steps=4, paths=8)  # type: ignore[call-overload]
sme.iterate(problem, theta0, lr=0.05, paths=8)  # type: ignore[call-overload]
sme.DropoutProblem(nn.Linear(2, 1), x, y, keep_prob=0.8)  # type: ignore[arg-type]
sme.weak_error(problem, theta0, lrs=0.1, horizon=0.2)  # type: ignore[arg-type]
sme.TwoLayerNetwork(2, 4, widht=3)  # type: ignore[call-arg]
sme.solve(equation, theta0, [0.0, 0.1], "euler", 0.05, 8)  # type: ignore[call-overload]
