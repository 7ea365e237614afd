"""Order 3 in steps of many learning rates: moments of a step by enumeration, proof of a kick, reproducibility."""

import itertools

import numpy as np
import pytest
import sympy
import torch
from numpy.polynomial.hermite_e import hermegauss
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.solver.skewed_rk4 import SkewedRK4


def mean_products(states, weights):
    """E of all products of up to three coordinates."""
    psi = torch.cat([torch.ones(len(states), 1, dtype=states.dtype), states], dim=1)
    return torch.einsum("b,bi,bj,bk->ijk", weights, psi, psi, psi)


def after_one_step(problem, theta, lr, ratio):
    """Moments after dt = ratio lr: of the scheme by all draws and a Gauss-Hermite rule, of training by all masks."""
    draws, chances = problem.all_draws()
    nodes, weights = hermegauss(8)
    nodes, weights = (torch.tensor(part, dtype=torch.float64) for part in (nodes, weights / weights.sum()))
    first = torch.tensor(list(itertools.product(range(len(chances)), range(8))))
    pairs = torch.tensor(list(itertools.product(range(len(first)), repeat=2)))
    chosen = [first[pairs[:, k]] for k in (0, 1)]
    chance = torch.stack([chances[part[:, 0]] * weights[part[:, 1]] for part in chosen]).prod(0)
    scheme = SkewedRK4(problem, lr, ratio * lr)
    normals = [nodes[part[:, 1], None] for part in chosen]
    found = scheme.move(theta.expand(len(chance), -1), [draws[part[:, 0]] for part in chosen], normals)
    states, masses = theta[None], torch.ones(1, dtype=torch.float64)
    for _ in range(ratio):
        steps = [states - lr * problem.gradient(states, draw.expand(len(states), -1)) for draw in draws]
        states, masses = torch.cat(steps), torch.cat([masses * chance for chance in chances])
    return mean_products(found, chance), mean_products(states, masses)


@pytest.mark.parametrize("ratio", [2, 5])
def test_moments_of_a_step_are_those_of_training_up_to_the_fourth_power(ratio):
    """Weak order 3: local errors fall as lr^4 for a fixed dt/lr, of a tanh neuron under dropout, all moments to 3."""
    problem = make_problem(width=1, samples=2, keep_prob=0.7)
    assert problem.noise_dim == 1
    theta, errors = problem.initial(), []
    for lr in (0.02, 0.01):
        found, exact = after_one_step(problem, theta, lr, ratio)
        errors.append(float((found - exact).abs().max()))
    assert np.log2(errors[0] / errors[1]) > 3.85
    assert errors[1] < 1e-6


def test_a_kick_has_the_generator_of_the_equation_without_b():
    """Moments 1 to 3 of a kick over h = lr c^3 through lr^3, of a cubic b and a noise C zeta with quadratic C."""
    lr, theta, n, chi, c, ratio = sympy.symbols("lr theta n chi c ratio", positive=True)
    skew = sympy.Symbol("s", real=True)
    b_ = sympy.symbols("b0:4", real=True)
    a_ = sympy.symbols("a0:3", real=True)
    b = sum(value * theta**k for k, value in enumerate(b_))
    C = sum(value * theta**k for k, value in enumerate(a_))

    def at(function, place):
        return function.subs(theta, place)

    def cut(value):
        """Drop what is beyond lr^3."""
        value = sympy.expand(value)
        return sum(value.coeff(lr, k) * lr**k for k in range(4))

    b_0 = at(b, 0)
    b_1 = cut(at(b, lr * b_0))
    beyond = (5 * b_0 - 7 * b_1 + 2 * cut(at(b, lr * b_0 + lr * b_1))) / 6
    w = -lr / 2 * b_0
    N = cut(lr * at(C, w) * (c * n + chi))
    kick = cut(lr * ratio * beyond + N - lr / 2 * (cut(at(b, w + N)) - at(b, w)))
    rest = ratio * (1 - 1 / c)  # the variance of chi, which stands for the Brownian part in units of lr C
    b1 = -sympy.diff(b, theta) * b / 2
    noise = sympy.Symbol("zeta")
    xi1 = -(sympy.diff(C, theta) * b + sympy.diff(b, theta) * C) * noise / 2
    sigma = C**2
    second = sympy.diff(b, theta, 2)
    b2 = sympy.diff(b, theta) ** 2 * b / 3 + second * b**2 / 12 - second * sigma / 4
    cross = sympy.expand(2 * C * noise * xi1).coeff(noise, 2)
    for degree in (1, 2, 3):
        v = theta**degree
        d1, d2, d3 = (sympy.diff(v, theta, k) for k in (1, 2, 3))
        generator = lr * (b1 * d1 + sigma * d2 / 2) + lr**2 * (b2 * d1 + cross * d2 / 2 + skew * C**3 * d3 / 6)
        moment = sympy.Poly(cut(kick**degree), n, chi)
        zeta, normal = [1, 0, 1, skew], [1, 0, rest, 0]
        found = sum(part * zeta[i] * normal[j] for (i, j), part in moment.terms())
        claimed = cut(lr * ratio * at(generator, 0))
        assert sympy.simplify((found - claimed).subs(ratio, c**3)) == 0


def test_third_moments_of_paths_are_the_exact_ones_up_to_the_order():
    problem, lr = linear_problem(), 0.05
    theta0 = torch.tensor([1.0, 0.8], dtype=torch.float64)
    exact = LinearMoments(problem, theta0).moments(lr, None, 1.0)
    equation = sme.ModifiedEquation(problem, lr, 3)
    (_, end) = sme.solve(equation, theta0, [0.0, 1.0], "skewed_rk4", dt=0.25, paths=2**14)
    psi = torch.cat([torch.ones(len(end), 1, dtype=torch.float64), end], dim=1)
    values = torch.einsum("bi,bj,bk->bijk", psi, psi, psi)
    deviation = (values.mean(0).numpy() - exact) / (values.std(0).numpy() / len(end) ** 0.5 + 1e-12)
    assert np.abs(deviation).max() < 4


def test_paths_do_not_depend_on_their_number():
    problem = make_problem()
    sde = sme.ModifiedEquation(problem, 0.05, 3)
    few, many = (
        sme.solve(sde, problem.initial(), [0.0, 0.2, 0.4], "skewed_rk4", dt=0.2, paths=paths, seed=3)
        for paths in (10, problem.block_size + 10)
    )
    assert torch.equal(few, many[:, :10]) and not torch.equal(few[1, 0], few[1, 1])
    table = sme.solve(sde, problem.initial(), [0.0, 0.4], "skewed_rk4", dt=0.2, paths=10, observables=["loss"])
    assert np.isfinite(table["mean"]).all()


def test_what_the_scheme_does_not_step_is_refused():
    problem = make_problem()
    theta0 = problem.initial()
    with pytest.raises(ValueError, match=r"dt=0\.1 is below 2 lr = 0\.2"):
        sme.solve(sme.ModifiedEquation(problem, 0.1, 3), theta0, [0.0, 0.2], "skewed_rk4", dt=0.1, paths=2)
    for order in (1, 2, "quadratic", "poisson"):
        with pytest.raises(ValueError, match="scheme='skewed_rk4' steps the equation of order 3"):
            sme.solve(sme.ModifiedEquation(problem, 0.1, order), theta0, [0.0, 0.2], "skewed_rk4", dt=0.2, paths=2)
    with pytest.raises(ValueError, match="leave scheme out, or take 'skewed_rk4' for long steps"):
        sme.solve(sme.ModifiedEquation(problem, 0.1, 3), theta0, [0.0, 0.2], "euler", dt=0.2, paths=2)
