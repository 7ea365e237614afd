"""Every iteration of the package: drift, factor and covariance against enumeration or quadrature; the order proven."""

import numpy as np
import pytest
import sympy
from symbolic_problems import enumerated_correction, enumerated_moments, numeric
from sympy import Function, Matrix, Rational, Symbol

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks, UniformMasks
from smesolve.symbolic import (
    ExplicitNetwork,
    dropconnect,
    dropout,
    dropout_sgd,
    label_noise,
    modified_equation,
    momentum,
    parameter_noise,
    sgd,
    vanishes,
)

KEEP, GAUSS, UNIFORM = BernoulliMasks(Rational(4, 5)), GaussianMasks(Rational(1, 4)), UniformMasks(Rational(1, 2))
THREE = FiniteMasks([0, 1, 3], [Rational(2, 5), Rational(2, 5), Rational(1, 5)])
SMALL = FiniteMasks([Rational(4, 5), Rational(6, 5)], [Rational(1, 2), Rational(1, 2)])


def quartic(f, y):
    return (f - y) ** 4 / 4


LARGE = {"dropout, two layers", "dropout, quartic loss", "dropout, uniform masks", "dropout, Gaussian masks"}
"""Proofs that take longer; "dropout, three values" stays with the default tests."""

ITERATIONS = {
    "dropout": lambda: dropout(ExplicitNetwork(hidden=2), KEEP),
    "dropout, Gaussian masks": lambda: dropout(ExplicitNetwork(hidden=2, samples=2), GAUSS),
    "dropout, uniform masks": lambda: dropout(ExplicitNetwork(hidden=2, out_features=2), UNIFORM),
    "dropout, three values": lambda: dropout(ExplicitNetwork(hidden=2), THREE),
    "dropout, quartic loss": lambda: dropout(ExplicitNetwork(hidden=2, loss=quartic), UNIFORM),
    "dropout, two layers": lambda: dropout(ExplicitNetwork(hidden=[2, 1]), KEEP, layers=[1, 2]),
    "dropout, lower layer": lambda: dropout(ExplicitNetwork(hidden=[1, 2]), KEEP, layers=[1]),
    "SGD": lambda: sgd(ExplicitNetwork(samples=3)),
    "SGD, batch of 2": lambda: sgd(ExplicitNetwork(samples=2, hidden=1), batch=2),
    "dropout and SGD": lambda: dropout_sgd(ExplicitNetwork(samples=2), KEEP),
    "DropConnect": lambda: dropconnect(ExplicitNetwork(), KEEP),
    "DropConnect, readout": lambda: dropconnect(ExplicitNetwork(), GAUSS, layers=[2]),
    "label noise": lambda: label_noise(ExplicitNetwork(samples=2), GAUSS),
    "label noise, quartic loss": lambda: label_noise(ExplicitNetwork(loss=quartic), UNIFORM),
    "parameter noise": lambda: parameter_noise(ExplicitNetwork(hidden=1), SMALL),
    "parameter noise, linear": lambda: parameter_noise(ExplicitNetwork(hidden=1, activation="identity"), GAUSS),
    "momentum": lambda: momentum(dropout(ExplicitNetwork(), KEEP)),
    "momentum, label noise": lambda: momentum(label_noise(ExplicitNetwork(hidden=1), GAUSS), friction=Rational(3, 2)),
}


@pytest.mark.parametrize("name", ITERATIONS)
def test_moments_equal_enumeration_or_quadrature(name):
    iteration = ITERATIONS[name]()
    equation = modified_equation(iteration, order=2)
    symbols = [*iteration.state, *iteration.constants]
    for seed in range(2):
        point = np.random.default_rng(seed).normal(size=len(symbols))
        mean, covariance = enumerated_moments(iteration, symbols, point)
        factor = numeric(equation.diffusion, symbols, point)
        scale = max(1.0, np.abs(covariance).max())
        assert np.abs(covariance).max() > 1e-6
        assert np.abs(numeric(equation.drift_terms[0], symbols, point)[:, 0] - mean).max() < 1e-12 * scale
        correction = enumerated_correction(iteration, symbols, point)
        bound = 1e-12 * max(1.0, np.abs(correction).max())
        assert np.abs(numeric(equation.drift_terms[1], symbols, point)[:, 0] - correction).max() < bound
        assert np.abs(factor @ factor.T - covariance).max() < 1e-12 * scale
        assert np.abs(numeric(equation.covariance, symbols, point) - covariance).max() < 1e-12 * scale


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in ITERATIONS]
)
def test_order_2_is_proven_and_is_sharp(name):
    proof = modified_equation(ITERATIONS[name](), order=2).verify()
    assert proof.holds and proof.order == 2
    assert proof.first_mismatch.power == 3


def test_columns_of_sgd_are_those_of_the_sample_index():
    """Two samples: one column, half of the difference of the two gradients."""
    iteration = sgd(ExplicitNetwork(hidden=1, samples=2, activation=Function("sigma")))
    equation = modified_equation(iteration, order=1)
    network = ExplicitNetwork(hidden=1, samples=2, activation=Function("sigma"))
    losses = [network.sample_loss(network.output(i), network.y[i]) for i in range(2)]
    half = [sympy.diff(losses[1] - losses[0], theta) / 2 for theta in iteration.state]
    assert equation.diffusion.shape == (2, 1)
    assert all(vanishes(c - h) for c, h in zip(equation.diffusion, half, strict=True))
    assert all(
        vanishes(b + sympy.diff(network.risk(), theta))
        for b, theta in zip(equation.drift, iteration.state, strict=True)
    )


def test_momentum_is_the_equation_of_li_tai_e():
    """dV = -(m V + grad f) dt + sqrt(h) C dW, dX = V dt, h = sqrt(lr): order 1 in h, and the mismatch at h^2."""
    plain = modified_equation(dropout(ExplicitNetwork(), KEEP), order=1)
    equation = modified_equation(momentum(plain.iteration), order=1)
    size, m = len(plain.iteration.state), Symbol("m", positive=True)
    velocity = Matrix(equation.iteration.state[size:])
    assert sympy.simplify(equation.drift[:size, :] - velocity) == sympy.zeros(size, 1)
    assert all(vanishes(entry) for entry in equation.drift[size:, :] - (plain.drift - m * velocity))
    assert equation.diffusion[:size, :] == sympy.zeros(size, 3)
    assert equation.diffusion[size:, :] == plain.diffusion
    proof = equation.verify()
    assert proof.order == 1 and proof.first_mismatch.power == 2
    assert "agree up to h^1" in str(proof)


def test_momentum_is_heavy_ball():
    """theta' = theta + v', v' = mu v - lr g with v = h V, mu = 1 - m h, lr = h^2."""
    plain = dropout(ExplicitNetwork(hidden=1), KEEP)
    iteration = momentum(plain)
    h, m, lr = iteration.small, Symbol("m", positive=True), plain.small
    size = len(plain.state)
    for k in range(size):
        v = h * iteration.state[size + k]
        new = (1 - m * h) * v + plain.step[k].xreplace({lr: h**2})
        assert vanishes(sympy.expand(h * (iteration.state[size + k] + iteration.step[size + k]) - new))
        assert vanishes(sympy.expand(iteration.step[k] - new))
