"""The equation of order 3: drift and jumps, proof of its order, code; and what obstructs order 4."""

import dataclasses

import numpy as np
import pytest
import sympy
import torch
from matplotlib.mathtext import MathTextParser
from symbolic_problems import p
from sympy import Matrix, Rational, sqrt, symbols

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks
from smesolve.symbolic import (
    ExplicitNetwork,
    Iteration,
    dropout,
    fourth_cumulant,
    gradient_descent,
    label_noise,
    modified_equation,
    momentum,
    third_cumulant,
    vanishes,
)

a, y, eta, lr = symbols("a y eta lr")
LAWS = [
    BernoulliMasks(p),
    BernoulliMasks(Rational(1, 10)),
    GaussianMasks(p),
    FiniteMasks([0, 1, 3], [Rational(2, 5), Rational(2, 5), Rational(1, 5)]),
]


def scalar_dropout(law):
    return gradient_descent((eta * a - y) ** 2 / 2, [a], {eta: law}, [y])


def own_iteration():
    """A step with terms in lr, lr^2 and lr^3, all random, and a nonlinear drift in two variables."""
    b, first, second = symbols("b eta_1 eta_2")
    step = [
        -lr * (first * a * b + a**3) + lr**2 * first * second * b**2 + lr**3 * second * a,
        lr * (second * a - b**2) - lr**2 * second**2 * a * b,
    ]
    return Iteration([a, b], step, {first: BernoulliMasks(Rational(1, 3)), second: GaussianMasks(Rational(1, 4))}, lr)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_order_3_is_proven_for_every_law(law):
    proof = modified_equation(scalar_dropout(law), order=3).verify()
    assert proof.holds and proof.order == 3
    assert proof.first_mismatch.power == 4
    assert "weak order 3 holds: one-step moments agree up to lr^3" in str(proof)


@pytest.mark.parametrize(
    "make",
    [
        own_iteration,
        pytest.param(
            lambda: momentum(dropout(ExplicitNetwork(hidden=1), BernoulliMasks(Rational(4, 5)))),
            marks=pytest.mark.slow,
            id="momentum",
        ),
        pytest.param(
            lambda: dropout(ExplicitNetwork(hidden=1), BernoulliMasks(p)), marks=pytest.mark.slow, id="dropout"
        ),
    ],
)
def test_order_3_is_proven_for_steps_with_higher_terms_momentum_and_networks(make):
    assert modified_equation(make(), order=3).verify().order == 3


def test_without_any_of_its_parts_the_order_falls():
    equation = modified_equation(scalar_dropout(BernoulliMasks(p)), order=3)
    b0, b1, b2 = equation.drift_terms
    xi, xi_1 = equation.jump_terms
    nothing = sympy.zeros(1, 1)
    for broken, order, index in [
        ({"drift_terms": (b0, b1, nothing)}, 2, (0,)),
        ({"jump_terms": (xi, nothing)}, 2, (0, 0)),
        ({"jump_terms": (-xi, -xi_1)}, 2, (0, 0, 0)),
        ({"drift_terms": (b0, nothing, b2)}, 1, (0,)),
        ({"jump_terms": (nothing, nothing)}, 1, (0, 0)),
        ({"jump_terms": (xi + b0, xi_1)}, 0, (0,)),
    ]:
        proof = dataclasses.replace(equation, **broken).verify()
        assert not proof.holds and proof.order == order
        assert proof.first_mismatch.indices == index


def test_the_mean_of_the_curvature_enters_the_drift():
    """-1/4 D^2 b0 : Sigma: without noise in the drift's own second derivative the order would be 2."""
    iteration = own_iteration()
    equation = modified_equation(iteration, order=3)
    hessian = [sympy.hessian(b, iteration.state) for b in equation.drift_terms[0]]
    term = Matrix([sum(h[i, j] * equation.covariance[i, j] for i in range(2) for j in range(2)) for h in hessian])
    assert any(not vanishes(entry) for entry in term)
    b0, b1, b2 = equation.drift_terms
    assert dataclasses.replace(equation, drift_terms=(b0, b1, b2 + term / 4)).verify().order == 2


def test_closed_form_of_scalar_dropout():
    equation = modified_equation(scalar_dropout(BernoulliMasks(p)), order=3)
    u, step = a / p - y, equation.iteration.small
    rate = 1 + step / (2 * p) + step**2 / (3 * p**2)
    assert vanishes((equation.drift + Matrix([u * rate]))[0])
    xi = u - eta * (a * eta - y)
    xi_1 = ((eta**2 - 1 / p) * -u - xi * -1 / p) / 2
    assert vanishes((equation.jump - Matrix([step * (xi + step * xi_1)]))[0])
    assert vanishes(equation.covariance[0] - (xi**2).subs(eta, 1 / p) * p - (xi**2).subs(eta, 0) * (1 - p))


def test_torch_code_equals_the_expressions():
    equation = modified_equation(dropout(ExplicitNetwork(hidden=1), BernoulliMasks(p)), order=3)
    iteration = equation.iteration
    values = {symbol: 0.3 + 0.4 * k for k, symbol in enumerate(iteration.constants)} | {p: 0.8}
    made = equation.to_torch(values, 0.05)
    assert made.rate == 20 and not hasattr(made, "f") and not hasattr(made, "g")
    theta = torch.randn(7, len(iteration.state), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = torch.full((7, 1), 1.25, dtype=torch.float64)
    names = [*iteration.state, *iteration.random, *values, iteration.small]
    for found, expression in ((made.drift(0.0, theta), equation.drift), (made.jump(0.0, theta, draw), equation.jump)):
        function = sympy.lambdify(names, list(expression), "numpy", cse=True)
        for path in range(7):
            exact = function(*theta[path].tolist(), 1.25, *values.values(), 0.05)
            np.testing.assert_allclose(found[path], exact, rtol=1e-11, atol=1e-13)


def test_latex_is_read_by_a_parser():
    latex = modified_equation(scalar_dropout(BernoulliMasks(p)), order=3).latex()
    first, *lines = latex.removeprefix("\\begin{align*}\n").removesuffix("\n\\end{align*}").split(" \\\\\n")
    assert "dN" in first and r"\xi_{1}" in first
    assert len(lines) == 5
    for line in (first, *lines):
        MathTextParser("path").parse(f"${line.replace('&', '').replace('qquad', 'quad').replace('text', 'mathrm')}$")


def test_what_obstructs_order_3_leads_to_the_jump_equation():
    assert "modified_equation(iteration, order=3)" in str(third_cumulant(scalar_dropout(BernoulliMasks(p))))


def test_the_fourth_cumulant_of_bernoulli_masks_is_negative_between_0_211_and_0_789():
    kappa = fourth_cumulant(scalar_dropout(BernoulliMasks(p)))
    exact = (1 - p) * (1 - 6 * p * (1 - p)) / p**3 * (a / p - y) ** 4
    assert vanishes(kappa.entries[0] - exact)
    assert not kappa.vanishes
    assert kappa.negative(p) == sympy.Interval.open((3 - sqrt(3)) / 6, (3 + sqrt(3)) / 6)
    gaussian = fourth_cumulant(scalar_dropout(GaussianMasks(p)))
    with pytest.raises(ValueError, match="symbol p does not decide the sign of the fourth cumulant"):
        gaussian.negative(p)


def test_noise_that_enters_linearly_by_a_gaussian_law_has_no_fourth_cumulant():
    noise = label_noise(ExplicitNetwork(samples=1), GaussianMasks(Rational(1, 4)))
    assert fourth_cumulant(noise).vanishes
    assert fourth_cumulant(noise).negative(p) == sympy.EmptySet
