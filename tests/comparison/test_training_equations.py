"""Equations of training by torch's optimisers, against exact moments and enumeration."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, enumerated_expectation
from smesolve.problem.step_expansion import taylor_terms

X = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [0.8, -0.7], [0.1, 0.9]], dtype=torch.float64)
Y = torch.tensor([[0.9], [-0.3], [0.5], [1.1]], dtype=torch.float64)
READOUT = sme.DropoutProblem(sme.LinearNetwork(2), X, Y, keep_prob=0.8)
START = torch.tensor([2.0, -1.5], dtype=torch.float64)
HEAVY_BALLS = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"weight_decay": 0.2},
]


@pytest.mark.parametrize("options", HEAVY_BALLS)
def test_dropout_with_momentum_has_exact_slopes_one_and_two(options):
    training = sme.Training(READOUT, torch.optim.SGD, lr=0.25, **options)
    state = training.warm(training.start(START), steps=1)
    moments = LinearMoments(training, state)
    assert moments.iteration(0.125, 5) == pytest.approx(
        enumerated_expectation(training, state, 0.125, 5, "loss"), 1e-12
    )
    for order in (1, 2):
        errors = [moments.error(lr, order, 1.0) for lr in (2.0**-11, 2.0**-12)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.02)


def test_noise_of_dropout_with_momentum_enters_the_buffer_only():
    training = sme.Training(READOUT, torch.optim.SGD, lr=0.1, momentum=0.9)
    state = training.warm(training.start(START), steps=3)
    covariance = training.covariance(state)
    assert not covariance[:2].any() and not covariance[:, :2].any()
    assert torch.allclose(covariance[2:, 2:], READOUT.covariance(state[:2]) / 0.1**2, rtol=1e-12)


ADAPTIVE = [
    (torch.optim.Adam, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    (torch.optim.AdamW, {"betas": (0.8, 0.9)}),
    (torch.optim.NAdam, {"betas": (0.8, 0.9), "momentum_decay": 0.1}),
    (torch.optim.RMSprop, {"alpha": 0.9}),
    (torch.optim.RMSprop, {"alpha": 0.9, "centered": True, "momentum": 0.5}),
    (torch.optim.SGD, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("optimizer", "options"), ADAPTIVE)
def test_one_step_and_the_equation_agree_through_second_order(optimizer, options):
    """On a scalar problem with two-valued masks, with everything enumerated: E v(step) = e^(lr (G_0 + lr G_1)) v."""
    scalar = sme.DropoutProblem(sme.LinearNetwork(1), X[:1, :1], Y[:1], keep_prob=0.7)
    training = sme.Training(scalar, optimizer, lr=0.1, **options)
    state = training.warm(training.initial(seed=1), steps=12)
    draws, weights = training.all_draws()

    def terms(s):
        return training.step_terms(s.expand(len(weights), -1), draws, 2)

    def b(s):
        return weights @ terms(s)[0]

    def v(s):
        return torch.sin(training.parameters(s).sum(-1)) + (0.3 * s[..., 1:]).sum(-1) ** 2

    def generator(field):  # of functions (S,) -> ()
        return lambda function: lambda s: torch.func.grad(function)(s) @ field(s)

    G0 = generator(b)
    first, second = terms(state)
    slope = torch.func.jvp(b, (state,), (b(state),))[1]
    b1 = weights @ second - slope / 2
    centred = first - b(state)
    Sigma = centred.mT @ (weights[:, None] * centred)
    gradient, hessian = torch.func.grad(v)(state), torch.func.hessian(v)(state)
    exact = taylor_terms(lambda lr: weights @ v(training.step(state.expand(2, -1), draws, lr)), state, 2)
    assert exact[1] == pytest.approx(float(gradient @ b(state)), rel=1e-10)
    equation = G0(G0(v))(state) / 2 + gradient @ b1 + (Sigma * hessian).sum() / 2
    assert exact[2] == pytest.approx(float(equation), rel=1e-9, abs=1e-12)


def tanh_module(keep=0.8):
    layers = nn.Linear(2, 4, bias=False), nn.Tanh(), nn.Dropout(1 - keep), nn.Linear(4, 1, bias=False)
    return nn.Sequential(*layers).double()


def test_losses_of_adam_are_distributed_as_those_of_a_loop_with_nn_dropout():
    module = tanh_module()
    problem = sme.ModuleProblem(module, X, Y, loss="squared_error")
    training = sme.Training(problem, torch.optim.Adam, lr=0.05)
    state = training.initial(seed=2)
    paths = sme.iterate(training, state, 0.05, 12, 2000, save=[12])[-1]
    torch.manual_seed(0)
    ends = []
    for _ in range(250):
        nn.utils.vector_to_parameters(training.parameters(state).clone(), module.parameters())
        module.train()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(12):
            optimizer.zero_grad()
            ((module(X) - Y).square().sum(1) / 2).mean().backward()
            optimizer.step()
        ends.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    losses = [training.loss(paths).numpy(), problem.loss(torch.stack(ends)).numpy()]
    assert stats.ks_2samp(*losses).pvalue > 1e-3
    assert np.std(losses[0]) > 0.01 * np.mean(losses[0])
