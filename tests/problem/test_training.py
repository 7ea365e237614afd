"""Training by torch's optimisers: the step is torch's, its expansion that of the formulas, and bad calls are answered."""

import math
import pickle

import pytest
import torch
from problems import make_problem

import smesolve as sme

OPTIONS = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"weight_decay": 0.1, "maximize": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}),
    (torch.optim.SGD, {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.2}),
    (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (torch.optim.Adam, {"maximize": True, "betas": (0.0, 0.99)}),
    (torch.optim.AdamW, {}),
    (torch.optim.AdamW, {"weight_decay": 0.5, "betas": (0.8, 0.95)}),
    (torch.optim.NAdam, {}),
    (torch.optim.NAdam, {"momentum_decay": 0.1, "weight_decay": 0.2}),
    (torch.optim.NAdam, {"betas": (0.7, 0.9), "weight_decay": 0.2, "decoupled_weight_decay": True}),
    (torch.optim.RMSprop, {}),
    (torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"centered": True, "alpha": 0.9, "maximize": True}),
    (torch.optim.RMSprop, {"momentum": 0.9}),
    (torch.optim.RMSprop, {"momentum": 0.5, "centered": True, "alpha": 0.9, "weight_decay": 0.1}),
]


@pytest.fixture(scope="module")
def problem():
    return make_problem(width=4)


@pytest.mark.parametrize(("optimizer", "options"), OPTIONS)
def test_fifty_steps_are_those_of_torch(problem, optimizer, options, monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch keeps a product of NAdam in it
    training = sme.Training(problem, optimizer, lr=0.05, **options)
    state = training.initial(seed=3)
    parameter = torch.nn.Parameter(problem.initial(seed=3).clone())
    other = optimizer([parameter], lr=0.05, **options)
    for step in range(50):
        draw = problem.sample(1, seed=5, step=step)[0]
        parameter.grad = problem.gradient(parameter.detach(), draw)
        other.step()
        state = training.step(state, draw, 0.05)
        assert torch.allclose(training.parameters(state), parameter.detach(), rtol=1e-12, atol=1e-12)
    assert float((parameter.detach() - problem.initial(seed=3)).abs().max()) > 0.01
    buffer = other.state[parameter].get("momentum_buffer")
    if buffer is not None:  # it is the last one
        start = training.dim - 12 - bool(options.get("dampening"))
        assert torch.allclose(state[start : start + 12], buffer, rtol=1e-11, atol=1e-13)
