"""Exact moments of the equations with jumps: weak order 3 of every moment, and what small keep_prob takes."""

import math

import numpy as np
import pytest
import sympy
import torch
from problems import linear_problem
from sympy import Rational

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, enumerated_expectation, scalar_dropout
from smesolve.symbolic import gradient_descent, modified_equation

HORIZON, LRS = 1.0, [2.0**-k for k in range(7, 13)]


def slopes(errors):
    return np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))


@pytest.mark.parametrize(("order", "slope"), [(1, 1.0), (2, 2.0), (3, 3.0), ("poisson", 1.0)])
def test_slopes_of_the_scalar_model(order, slope):
    """Moments 1, 3 and 4 at keep_prob 0.8, to +- 0.05 at the two smallest learning rates."""
    errors = []
    for lr in LRS:
        forms = scalar_dropout(0.8, lr, HORIZON)
        errors.append(np.array(forms[order].moments) - np.array(forms[None].moments))
    assert np.abs(slopes(np.array(errors))[-1][[0, 2, 3]] - slope).max() < 0.05


def test_the_scalar_model_is_that_of_the_derived_equation():
    """Growth of E u^j by the symbolic drift and jump of the equation."""
    a, eta = sympy.symbols("a eta")
    k, lr, j = Rational(4, 5), Rational(1, 10), 3
    equation = modified_equation(gradient_descent(eta**2 * a**2 / 2, [a], {eta: sme.BernoulliMasks(k)}), order=3)
    drift, jump = (m[0].subs(equation.iteration.small, lr) / a for m in (equation.drift, equation.jump))
    mean = k * (1 + jump.subs(eta, 1 / k)) ** j + (1 - k) * (1 + jump.subs(eta, 0)) ** j
    growth = float(sympy.simplify(j * drift + (mean - 1) / lr))
    assert scalar_dropout(0.8, 0.1, 1.0)[3].third_moment == pytest.approx(math.exp(growth), rel=1e-12)


@pytest.mark.parametrize(("keep_prob", "errors"), [(0.1, (-0.34, -0.29, -0.048)), (0.01, (-0.45, -0.45, -0.005))])
def test_decay_of_fourth_moments_at_small_keep_prob(keep_prob, errors):
    """Relative errors of the rate at lr = keep_prob^2/2, of orders 1 and 2 and of steps at random times."""
    lr = keep_prob**2 / 2
    forms = scalar_dropout(keep_prob, lr, 20 * lr)
    exact = math.log(forms[None].fourth_moment)
    found = [math.log(forms[order].fourth_moment) / exact - 1 for order in (1, 2, "poisson")]
    assert np.allclose(found, errors, atol=0.005)
    assert abs(found[2]) < 0.05 < 0.25 < abs(found[1])


@pytest.mark.parametrize("keep_prob", [0.05, 0.3, 0.5, 0.8, 1.0])
def test_stability_limits_of_equations_with_jumps(keep_prob):
    for order in (3, "poisson"):
        limit = scalar_dropout(keep_prob, 0.01, 0.01)[order].stability_limit
        if math.isinf(limit):
            assert order == 3 and keep_prob == 1
            continue
        for factor, grows in ((0.999, False), (1.001, True)):
            lr = factor * limit
            assert (scalar_dropout(keep_prob, lr, lr)[order].second_moment > 1) == grows
    assert scalar_dropout(keep_prob, 0.01, 0.01)["poisson"].stability_limit == 2 * keep_prob**2


def test_moments_that_are_no_floats_are_infinite():
    """At keep_prob 0.01 and lr 1 the mean is multiplied by -99 in each step."""
    for steps, sign in ((200, 1), (201, -1)):
        iteration = scalar_dropout(0.01, 1.0, float(steps))[None]
        assert iteration.moments == (sign * math.inf, math.inf, sign * math.inf, math.inf)
    assert all(type(form.stability_limit) is float for form in scalar_dropout(0.3, 0.01, 0.1).values())


def test_linear_moments_of_one_neuron_are_those_of_the_scalar_model():
    x = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), x, 0 * x, keep_prob=0.3)
    moments = LinearMoments(problem, 0.7 * x[0])
    for order in (None, 1, 2, 3, "poisson"):
        exact = scalar_dropout(0.3, 0.02, 0.1, u0=0.7)[order]
        for degree, value in enumerate(exact.moments, start=1):
            assert moments.moments(0.02, order, 0.1, degree)[(1,) * degree] == pytest.approx(value, rel=1e-10)
        assert moments.stability_limit(order) == pytest.approx(exact.stability_limit, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, "poisson", "quadratic"])
def test_degree_2_is_what_observables_take(order):
    problem = linear_problem()
    theta0 = torch.tensor([0.5, -0.3], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    second = moments.moments(0.05, order, 0.5, degree=2)
    assert np.trace(second[1:, 1:]) == pytest.approx(moments.equation(0.05, order, 0.5, "squared_norm"), rel=1e-12)
    third = moments.moments(0.05, order, 0.5, degree=3)
    assert np.allclose(third[0], second, rtol=1e-12) and third[0, 0, 0] == pytest.approx(1.0)


def test_third_moments_of_the_iteration_are_those_of_all_sequences_of_masks():
    problem = linear_problem()
    theta0 = torch.tensor([0.5, -0.3], dtype=torch.float64)
    third = LinearMoments(problem, theta0).moments(0.2, None, 0.6)
    for index in [(0, 0, 0), (0, 0, 1), (1, 1, 1)]:
        exact = enumerated_expectation(problem, theta0, 0.2, 3, lambda t, i=index: t[..., i].prod(-1))
        assert third[tuple(i + 1 for i in index)] == pytest.approx(float(exact), rel=1e-12)


def test_third_moments_of_a_readout_have_weak_order_3():
    moments = LinearMoments(linear_problem(), torch.tensor([1.0, 0.8], dtype=torch.float64))
    lrs = [2.0**-7, 2.0**-8]
    errors = np.array([moments.moments(lr, 3, 1.0) - moments.moments(lr, None, 1.0) for lr in lrs])
    for index in [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 2), (2, 2, 2)]:
        assert abs(slopes(errors[(slice(None), *index)])[-1] - 3) < 0.05
    second = np.array([moments.moments(lr, 2, 1.0) - moments.moments(lr, None, 1.0) for lr in lrs])
    assert abs(slopes(second[:, 1, 1, 1])[-1] - 2) < 0.05


def test_moments_that_cannot_be_had_are_refused():
    moments = LinearMoments(linear_problem(), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"degree=7 has \(D \+ 1\)\^degree = 3\^7 moments"):
        moments.moments(0.1, 3, 1.0, degree=7)
    with pytest.raises(ValueError, match="order must be 1 or 2, or 'quadratic', here, got 3"):
        moments.scheme(0.1, 3, 1.0, "euler", 0.1)
    x = torch.ones(3, 2, dtype=torch.float64)
    gaussian = sme.DropoutProblem(sme.LinearNetwork(2), x, x[:, :1], law=sme.GaussianMasks(0.2))
    with pytest.raises(ValueError, match="problem must have at most 4096 different draws"):
        LinearMoments(gaussian, x[0]).moments(0.1, 3, 1.0)
