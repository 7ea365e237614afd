"""Momentum, Adam and RMSprop in the time of the learning rate: proofs of order, and the numbers of `Training`."""

import pytest
import sympy
import torch

import smesolve as sme
from smesolve.symbolic import ExplicitNetwork, Iteration, adam, dropout, modified_equation, momentum, rmsprop

a, x, y, eta, lr = sympy.symbols("a x y eta lr", real=True)
LAWS = {"two values": sme.BernoulliMasks(0.7), "any keep_prob": sme.BernoulliMasks(sympy.Symbol("p", positive=True))}


def scalar(law):
    return Iteration([a], [-lr * eta * x * (eta * a * x - y)], {eta: law}, lr, [x, y])


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("optimizer", [adam, rmsprop, lambda iteration: momentum(iteration, rate=sympy.Symbol("c"))])
def test_the_weak_order_is_proven(law, optimizer):
    iteration = optimizer(scalar(law))
    for order in (1, 2):
        proof = modified_equation(iteration, order).verify()
        assert f"weak order {order} holds" in str(proof)


@pytest.mark.parametrize(
    ("made", "optimizer", "options"),
    [
        (lambda i: adam(i, 2.0, 1.0, 1e-3), torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-3}),
        (lambda i: rmsprop(i, 1.0, 1e-3), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}),
        (lambda i: momentum(i, rate=2.0), torch.optim.SGD, {"momentum": 0.8, "dampening": 0.8}),
    ],
)
def test_drift_and_covariance_are_those_of_all_draws(made, optimizer, options):
    """The joint covariance of g and g^2 among them."""
    data = torch.tensor([[0.9]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), *data, keep_prob=0.7)
    training = sme.Training(problem, optimizer, lr=0.1, **options)
    memory = {torch.optim.Adam: [0.3, 0.2, 0, 0], torch.optim.RMSprop: [0.2], torch.optim.SGD: [0.3, 1]}[optimizer]
    state = torch.tensor([1.2, *memory], dtype=torch.float64)
    draws, weights = training.all_draws()
    first, second = training.step_terms(state.expand(2, -1), draws, 2)
    mean = weights @ first
    covariance = (first - mean).mT @ (weights[:, None] * (first - mean))
    slope = torch.func.jacfwd(lambda s: weights @ training.step_terms(s.expand(2, -1), draws, 2)[0])(state) @ mean
    drift = mean + 0.1 * (weights @ second - slope / 2)
    iteration = made(scalar(LAWS["two values"]))
    equation = modified_equation(iteration, order=2)
    numbers = dict(zip(iteration.state, state.tolist(), strict=False)) | {x: 0.9, y: -0.4, iteration.small: 0.1}
    size = len(iteration.state)
    found = torch.tensor(sympy.Matrix(equation.drift).subs(numbers).tolist(), dtype=torch.float64).flatten()
    assert torch.allclose(found, drift[:size], rtol=1e-12)
    found = torch.tensor(sympy.Matrix(equation.covariance).subs(numbers).tolist(), dtype=torch.float64)
    assert torch.allclose(found, covariance[:size, :size], rtol=1e-11, atol=1e-14)


def test_dropout_with_adam_on_a_network():
    network = ExplicitNetwork(in_features=1, hidden=1, samples=1)
    iteration = adam(dropout(network, sme.BernoulliMasks(sympy.Rational(4, 5))), 1, 1, 0)
    assert len(iteration.state) == 6
    equation = modified_equation(iteration, order=1)
    assert equation.covariance[:2, :] == sympy.zeros(2, 6)  # noise enters the moments only
    assert "weak order 1 holds" in str(equation.verify())


def test_what_is_no_gradient_step_is_refused():
    curved = Iteration([a], [-lr * eta * a + lr**2 * a], {eta: LAWS["two values"]}, lr)
    for made in (adam, rmsprop, momentum, lambda i: momentum(i, rate=1.0)):
        with pytest.raises(sme.SmesolveError, match="iteration must have a step that is proportional"):
            made(curved)
    with pytest.raises(sme.SmesolveError, match=r"friction=1\.0 and rate=1\.0 name two time scales"):
        momentum(scalar(LAWS["two values"]), 1.0, rate=1.0)
