"""Drift, covariance and diffusion against enumeration over all masks, and against closed forms."""

import dataclasses
from itertools import combinations, product

import numpy as np
import pytest
import sympy
import torch
from matplotlib.mathtext import MathTextParser
from symbolic_problems import enumerated_moments, numeric, p, two_layer_dropout
from sympy import Function, Matrix, Rational, Symbol, diff, sqrt
from test_symbolic_masks import three_valued_masks

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks
from smesolve.symbolic import Iteration, modified_equation, smooth_function, vanishes

LR = Symbol("lr")


def cubic(u):
    return u - u**3 / 3


def with_law(iteration, law):
    return dataclasses.replace(iteration, random=dict.fromkeys(iteration.random, law))


@pytest.mark.parametrize(("activation", "keep_prob"), [("tanh", 0.5), (cubic, p)])
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (3, 1), (2, 2)])
def test_moments_equal_enumeration(width, outputs, activation, keep_prob):
    iteration = two_layer_dropout(2, 2, width, outputs, activation, keep_prob)
    equation = modified_equation(iteration, order=1)
    rng = np.random.default_rng(width + 10 * outputs)
    symbols = [*iteration.state, *iteration.constants, *([p] if keep_prob is p else [])]
    point = rng.normal(size=len(symbols))
    if keep_prob is p:
        point[-1] = 0.7
    law = BernoulliMasks(0.7 if keep_prob is p else keep_prob)
    iteration = dataclasses.replace(iteration, random=dict.fromkeys(iteration.random, law))
    mean, covariance = enumerated_moments(iteration, symbols, point)
    factor = numeric(equation.diffusion, symbols, point)
    scale = np.abs(covariance).max()
    assert factor.shape == (width * (2 + outputs), width * (width + 1) // 2)
    assert np.abs(numeric(equation.drift, symbols, point)[:, 0] - mean).max() < 1e-12
    assert np.abs(factor @ factor.T - covariance).max() < 1e-12 * scale
    assert np.abs(numeric(equation.covariance, symbols, point) - covariance).max() < 1e-12 * scale


@pytest.mark.parametrize("number", [Rational, float])
def test_three_valued_masks_equal_enumeration(number):
    law = three_valued_masks(number)
    iteration = with_law(two_layer_dropout(2, 1, 3), law)
    equation = modified_equation(iteration, order=1)
    symbols = [*iteration.state, *iteration.constants]
    point = np.random.default_rng(0).normal(size=len(symbols))
    mean, covariance = enumerated_moments(iteration, symbols, point)
    factor = numeric(equation.diffusion, symbols, point)
    assert factor.shape == (6, 3 + 3 + 3)
    assert np.abs(factor @ factor.T - covariance).max() < 1e-12 * np.abs(covariance).max()
    assert np.abs(numeric(equation.drift, symbols, point)[:, 0] - mean).max() < 1e-12


@pytest.mark.parametrize("law", [BernoulliMasks(p), BernoulliMasks(0.8), three_valued_masks(), GaussianMasks(p)])
@pytest.mark.parametrize(("activation", "outputs"), [(Function("sigma"), 1), ("tanh", 2)])
def test_diffusion_is_an_exact_factor_of_the_covariance(law, activation, outputs):
    equation = modified_equation(with_law(two_layer_dropout(1, 1, 2, outputs, activation), law), order=1)
    difference = equation.diffusion * equation.diffusion.T - equation.covariance
    assert all(vanishes(entry) for entry in difference)


def test_masks_of_different_laws():
    theta, first, second = sympy.symbols("theta eta_1 eta_2")
    iteration = Iteration(
        [theta],
        [-LR * (first * theta + second**2 - 1) * first],
        {first: BernoulliMasks(Rational(1, 3)), second: GaussianMasks(Rational(1, 5))},
        LR,
    )
    equation = modified_equation(iteration)
    assert vanishes((equation.diffusion * equation.diffusion.T - equation.covariance)[0])


def test_a_gradient_of_mean_zero_is_all_diffusion():
    theta, eta = sympy.symbols("theta eta")
    law = FiniteMasks([-3, Rational(3, 2)], [Rational(1, 9), Rational(8, 9)])
    iteration = Iteration([theta], [-LR * eta**3 * theta], {eta: law}, LR)
    equation = modified_equation(iteration)
    assert equation.drift == sympy.zeros(1, 1)
    assert equation.covariance == Matrix([[theta**2 * (Rational(3**6, 9) + Rational(3**6 * 8, 2**6 * 9))]])
    assert equation.diffusion * equation.diffusion.T == equation.covariance


def test_columns_are_linear_then_pairs_in_triu_order_then_quadratic():
    """Column by column: the projections E[g q_l] of the gradient by enumeration."""
    law, width = three_valued_masks(), 4
    iteration = with_law(two_layer_dropout(1, 1, width), law)
    equation = modified_equation(iteration, order=1)
    symbols = [*iteration.state, *iteration.constants]
    point = np.random.default_rng(1).normal(size=len(symbols))
    gradient = sympy.lambdify([*iteration.random, *symbols], [-s for s in iteration.step_terms[0]], "numpy", cse=True)
    v, s, h = float(law.variance), float(law.skew), float(law.chi_variance)
    values, weights = law.support
    columns = np.zeros((2 * width, 2 * width + width * (width - 1) // 2))
    pairs = torch.triu_indices(width, width, 1).T.tolist()
    assert pairs == [list(pair) for pair in combinations(range(width), 2)]
    for choice in product(range(3), repeat=width):
        zeta = np.array([values[k] - 1.0 for k in choice])
        weight = np.prod([float(weights[k]) for k in choice])
        linear = zeta / np.sqrt(v)
        quadratic = (zeta**2 - s * zeta - v) / np.sqrt(h)
        basis = np.concatenate([linear, [linear[k] * linear[r] for k, r in pairs], quadratic])
        columns += weight * np.outer(gradient(*(1 + zeta), *point), basis)
    assert np.abs(numeric(equation.diffusion, symbols, point) - columns).max() < 1e-12


@pytest.mark.parametrize("sigma", [smooth_function("sigma"), sympy.tanh, cubic])
def test_order_2_drift_is_the_gradient_of_the_modified_loss(sigma):
    """b0 + lr b1 = -grad(L_S + lr/4 |grad L_S|^2) with L_S = R_S + v/(2n) sum_ik z_ik^2."""
    iteration = two_layer_dropout(2, 1, 2, activation=sigma, keep_prob=p)
    (w1, w2, a1, a2), (x1, x2, y1, y2) = iteration.state, iteration.constants
    z = [[a * sigma(w * x) for w, a in ((w1, a1), (w2, a2))] for x in (x1, x2)]
    risk = sum((sum(row) - y) ** 2 for row, y in zip(z, (y1, y2), strict=True)) / 4
    loss = risk + (1 / p - 1) / 4 * sum(contribution**2 for row in z for contribution in row)
    energy = loss + iteration.small / 4 * sum(diff(loss, q) ** 2 for q in iteration.state)
    drift = modified_equation(iteration, order=2).drift
    assert all(vanishes(b + diff(energy, q)) for b, q in zip(drift, iteration.state, strict=True))


def test_scalar_dropout_is_a_geometric_brownian_motion():
    """f = eta a, u = a/p - y: du = -(1/p)(1 + lr/(2p)) u dt + sqrt(lr) sqrt(1/p - 1) u/p dW."""
    a, y, eta, lr = sympy.symbols("a y eta lr")
    iteration = Iteration([a], [-lr * eta * (eta * a - y)], {eta: BernoulliMasks(p)}, lr, constants=[y])
    u = a / p - y
    first, second = modified_equation(iteration, order=1), modified_equation(iteration, order=2)
    assert vanishes(first.drift[0] + u)
    assert vanishes(second.drift[0] + (1 + lr / (2 * p)) * u)
    assert vanishes(second.covariance[0] - (1 / p - 1) * u**2)
    assert second.diffusion.shape == (1, 1)
    assert vanishes(second.diffusion[0] - sqrt(1 / p - 1) * u)


def test_worked_example_of_li_tai_e():
    """f_1 = (x-1)^2 - 1, f_2 = (x+1)^2 - 1 (ICML 2017): dX = -2 (1 + lr) X dt + 2 sqrt(lr) dW."""
    x, eta, lr = sympy.symbols("x eta lr")
    iteration = Iteration([x], [-2 * lr * (x - (eta - 1))], {eta: BernoulliMasks(Rational(1, 2))}, lr)
    equation = modified_equation(iteration)
    assert vanishes(equation.drift[0] + 2 * (1 + lr) * x)
    assert equation.diffusion == Matrix([[-2]])


def test_without_noise_the_diffusion_is_one_column_of_zeros():
    equation = modified_equation(two_layer_dropout(1, 1, 2, keep_prob=1.0))
    assert equation.diffusion == sympy.zeros(4, 1)
    assert equation.covariance == sympy.zeros(4, 4)


def test_parameters_are_in_the_order_of_torch():
    """The symbolic gradient at given weights equals torch's, flattened by parameters_to_vector."""
    n, d, m, o, keep = 3, 2, 2, 2, 0.8
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=rng).double(), torch.randn(n, o, generator=rng).double()
    hidden, readout = torch.nn.Linear(d, m, bias=False).double(), torch.nn.Linear(m, o, bias=False).double()
    mask = torch.tensor([1 / keep, 0.0], dtype=torch.float64)
    loss = (readout(torch.tanh(hidden(x)) * mask) - y).square().sum() / (2 * n)
    weights = [hidden.weight, readout.weight]
    expected = torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, weights))
    iteration = two_layer_dropout(n, d, m, o, "tanh", keep, data=(x.tolist(), y.tolist()))
    gradient = sympy.lambdify([*iteration.random, *iteration.state], [-s for s in iteration.step_terms[0]], "numpy")
    theta = torch.nn.utils.parameters_to_vector(weights).tolist()
    assert np.abs(np.array(gradient(*mask.tolist(), *theta)) - expected.numpy()).max() < 1e-14


def test_latex_is_one_balanced_environment():
    tex = modified_equation(two_layer_dropout(1, 1, 2, activation=smooth_function("sigma"))).latex()
    assert tex.startswith("\\begin{align*}\n") and tex.endswith("\n\\end{align*}")
    lines = tex.splitlines()[1:-1]
    assert len(lines) == 1 + 4 + 4 + 3 * 4
    assert all(line.endswith(r" \\") for line in lines[:-1])
    parser = MathTextParser("path")
    for line in lines:
        assert line.count(" &= ") == 1
        parser.parse(f"${line.removesuffix(' ' + chr(92) * 2).replace('&', '')}$")


def test_latex_leaves_zeros_out():
    a, b, eta, lr = sympy.symbols("a b eta lr")
    iteration = Iteration([a, b], [-lr * eta * a, -lr * b], {eta: BernoulliMasks(p)}, lr)
    tex = modified_equation(iteration, order=1).latex()
    assert "{C_{1}\\right)_{a}" in tex.replace("\\left(", "{")
    assert "C_{1}\\right)_{b}" not in tex


@pytest.mark.parametrize("order", [0, 4])
def test_orders_beyond_3_are_refused(order):
    with pytest.raises(ValueError, match=f"order must be .* got {order}; order 4 would take jumps"):
        modified_equation(two_layer_dropout(1, 1, 1), order=order)


def test_wrong_shapes_are_refused():
    equation = modified_equation(two_layer_dropout(1, 1, 1))
    with pytest.raises(ValueError, match=r"diffusion has shape \(1, 2\), expected \(2, 2\)"):
        dataclasses.replace(equation, diffusion=sympy.zeros(1, 2))
    with pytest.raises(ValueError, match=r"drift_terms\[1\] has shape \(3, 1\), expected \(2, 1\)"):
        dataclasses.replace(equation, drift_terms=(sympy.zeros(2, 1), sympy.zeros(3, 1)))
