"""Theorem 2 of Zhang, Xu: the mean squared gradient norm of f falls along the flow of R_S + R_1 where R_S = 0."""

import numpy as np
import pytest
import sympy
import torch
from sympy import Function
from sympy.core.function import AppliedUndef

import smesolve as sme
from smesolve.landscape import first_penalty
from smesolve.symbolic import DropoutFormulas, ExplicitNetwork
from smesolve.symbolic.gradient_norm import curvature_rate, gradient_norm_rate, squares_rate

V = sympy.Symbol("v", positive=True)


def real_values(expression):
    """Replace sigma, sigma' and sigma'' at each point by real symbols, of which nothing else is known."""
    calls = {call: sympy.Dummy(real=True) for call in expression.atoms(AppliedUndef)}
    return expression.xreplace(calls)


@pytest.mark.parametrize(("inputs", "width", "samples"), [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 1, 3)])
def test_the_rate_is_negative_where_the_activation_is_piecewise_linear(inputs, width, samples):
    network = ExplicitNetwork(in_features=inputs, hidden=width, samples=samples, activation=Function("sigma"))
    rate = gradient_norm_rate(network, V)
    squares, curvature = squares_rate(network, V), curvature_rate(network, V)
    assert sympy.expand(real_values(rate - squares - curvature)) == 0
    assert real_values(squares).is_nonpositive
    bends = {call for call in rate.atoms(AppliedUndef) if call.func.__name__.endswith("primeprime")}
    assert bends and curvature.xreplace(dict.fromkeys(bends, sympy.Integer(0))) == 0
    straight = rate.xreplace(dict.fromkeys(bends, sympy.Integer(0)))
    assert sympy.expand(real_values(straight - squares)) == 0


def test_the_rate_of_a_smooth_activation_can_be_positive():
    network = ExplicitNetwork(hidden=1, activation="tanh")
    w, a = network.parameters
    x = network.x[0][0]
    h, slope = sympy.tanh(w * x), 1 - sympy.tanh(w * x) ** 2
    expected = -4 * V * (a * h * slope * x) ** 2 * (1 - a**2 * slope * x**2)
    assert sympy.expand(gradient_norm_rate(network, V) - expected) == 0
    at = {w: sympy.Rational(1, 2), x: 1, V: 1}
    assert expected.subs(at | {a: 1}) < 0 < expected.subs(at | {a: 2})


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_rate_is_that_of_a_network_in_torch(activation):
    """By automatic differentiation of the network itself, relu on its own pattern of active neurons."""
    n, d, m = 3, 2, 2
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, 1))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(d, m, 1, activation), x, y, keep_prob=0.8)
    theta = torch.from_numpy(rng.standard_normal(problem.dim))

    def outputs(parameters):
        hidden, readout = parameters[: m * d].reshape(m, d), parameters[m * d :]
        return getattr(torch, activation)(torch.from_numpy(x) @ hidden.T) @ readout

    def norm(parameters):
        return torch.func.jacrev(outputs)(parameters).square().sum() / n

    rate = -torch.func.grad(norm)(theta) @ torch.func.grad(lambda point: first_penalty(problem, point))(theta)
    relu = Function("relu")
    names = ExplicitNetwork(d, m, 1, n, relu if activation == "relu" else "tanh", data=(x.tolist(), y.tolist()))
    variance = sympy.Float(problem.law.variance)
    symbolic = squares_rate(names, variance) + curvature_rate(names, variance)
    at = dict(zip(names.parameters, theta.tolist(), strict=True))
    calls = {}
    for call in symbolic.atoms(AppliedUndef):
        z = float(call.args[0].subs(at))
        values = {"relu": max(z, 0.0), "reluprime": float(z > 0), "reluprimeprime": 0.0}
        calls[call] = sympy.Float(values[call.func.__name__])
    assert float(symbolic.xreplace(calls).subs(at)) == pytest.approx(float(rate), rel=1e-12)
    assert activation == "tanh" or rate < 0


def test_the_rate_is_among_the_claims():
    claims = DropoutFormulas(ExplicitNetwork(hidden=1), sme.BernoulliMasks(sympy.Symbol("p"))).claims
    found = [claim for claim in claims if claim.name == "rate of the mean squared gradient of f at R_S = 0"]
    assert len(found) == 1 and found[0].exact
