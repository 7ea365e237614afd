"""The generated torch SDE: the numbers of the symbolic equation, and what torchsde needs."""

import re

import numpy as np
import pytest
import sympy
import torch
import torchsde
from symbolic_problems import p, two_layer_dropout
from sympy import Function

from smesolve.problem.masks import BernoulliMasks
from smesolve.symbolic import Iteration, modified_equation

LR = 0.05


def values_of(iteration, seed=0):
    rng = np.random.default_rng(seed)
    return {symbol: rng.normal() for symbol in iteration.constants} | {p: 0.8}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(2, 1, 2, 1), (2, 2, 2, 2)])
def test_f_and_g_equal_numpy(order, shape):
    equation = modified_equation(two_layer_dropout(*shape), order)
    iteration, values = equation.iteration, values_of(equation.iteration)
    sde = equation.to_torch(values, LR)
    y = torch.randn(7, len(iteration.state), dtype=torch.float64)
    f, g = sde.f(torch.tensor(0.0), y), sde.g(torch.tensor(0.0), y)
    assert f.shape == y.shape and g.shape == (7, *equation.diffusion.shape)
    symbols = [*iteration.state, *values, iteration.small]
    drift = sympy.lambdify(symbols, equation.drift, "numpy")
    diffusion = sympy.lambdify(symbols, sympy.sqrt(iteration.small) * equation.diffusion, "numpy")
    for path in range(7):
        point = [*y[path].tolist(), *values.values(), LR]
        assert np.allclose(f[path], drift(*point)[:, 0], rtol=1e-12, atol=1e-13)
        assert np.allclose(g[path], diffusion(*point), rtol=1e-12, atol=1e-13)


def test_torchsde_takes_it_as_it_is():
    """sdeint with `euler` is y + f dt + g dW along the same Brownian path."""
    equation = modified_equation(two_layer_dropout(1, 1, 2))
    sde = equation.to_torch({"p": 0.8, "x_1_1": 0.7, "y_1_1": -0.4}, LR)
    y0 = torch.randn(11, 4, dtype=torch.float64)
    ts = torch.linspace(0.0, 0.25, 3, dtype=torch.float64)
    bm = torchsde.BrownianInterval(0.0, 0.25, size=(11, 3), dtype=torch.float64, entropy=1)
    paths = torchsde.sdeint(sde, y0, ts, bm=bm, method="euler", dt=0.125)
    y = y0
    for k, (start, end) in enumerate([(0.0, 0.125), (0.125, 0.25)]):
        y = y + 0.125 * sde.f(start, y) + torch.einsum("bdm,bm->bd", sde.g(start, y), bm(start, end))
        assert torch.allclose(paths[k + 1], y, rtol=0, atol=1e-14)
    assert torchsde.sdeint(sde, y0, ts, method="euler", dt=0.125).shape == (3, 11, 4)


def test_constant_entries_are_spread_over_paths():
    x, eta, lr = sympy.symbols("x eta lr")
    iteration = Iteration([x], [-2 * lr * (x - (eta - 1))], {eta: BernoulliMasks(sympy.Rational(1, 2))}, lr)
    sde = modified_equation(iteration).to_torch({}, 0.25)
    y = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    assert torch.equal(sde.g(0.0, y), torch.full((3, 1, 1), -1.0, dtype=torch.float64))
    assert torch.equal(sde.f(0.0, y), -2.5 * y)


def test_without_noise_it_still_has_a_diffusion():
    equation = modified_equation(two_layer_dropout(1, 1, 1, keep_prob=1.0, data=([[1.0]], [[0.5]])))
    assert torch.equal(equation.to_torch({}, LR).g(0.0, torch.ones(3, 2)), torch.zeros(3, 2, 1))


def test_drift_has_gradients():
    equation = modified_equation(two_layer_dropout(1, 1, 2), order=1)
    sde = equation.to_torch(values_of(equation.iteration), LR)
    y = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: sde.f(0.0, y), y)


def test_symbols_that_python_could_not_tell_apart_are_refused():
    x, primed, plain, lr = sympy.symbols("x c' c_ lr")
    equation = modified_equation(Iteration([x], [-lr * (primed * x + plain)], {}, lr, constants=[primed, plain]))
    with pytest.raises(ValueError, match="c', c_ would all be called c_ in Python"):
        equation.to_torch({"c'": 1.0, "c_": 2.0}, LR)


def test_what_is_missing_is_said():
    equation = modified_equation(two_layer_dropout(1, 1, 1))
    with pytest.raises(ValueError, match=re.escape("values lacks p, y_1_1: give a number for each constant.")):
        equation.to_torch({"x_1_1": 1.0}, LR)
    with pytest.raises(ValueError, match=r"lr must be a positive number, got 0\.0"):
        equation.to_torch(values_of(equation.iteration), 0.0)
    abstract = modified_equation(two_layer_dropout(1, 1, 1, activation=Function("sigma")), order=1)
    with pytest.raises(ValueError, match=r"undefined functions \(sigma, sigmaprime\), which have no values: "):
        abstract.to_torch(values_of(abstract.iteration), LR)
