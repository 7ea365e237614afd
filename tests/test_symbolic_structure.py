"""The cotangents of dropout at any width: derived, enumerated, and equal to the network's gradient."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import sympy
from symbolic_problems import p, two_layer_dropout
from sympy import Symbol, sqrt
from test_symbolic_masks import three_valued_masks

from smesolve.problem.masks import BernoulliMasks, GaussianMasks
from smesolve.symbolic import cotangent_expansion, modified_equation, vanishes

WIDTH = 3


@pytest.mark.parametrize("law", [BernoulliMasks(p), three_valued_masks(), GaussianMasks(p)])
def test_expansion_is_the_table_of_the_pair_form(law):
    v, s = law.variance, law.skew
    expansion = cotangent_expansion(law)
    expected = {
        "square_mean": 1 + v,
        "square_linear": sqrt(v) * (2 + s),
        "square_quadratic": sqrt(law.chi_variance),
        "pair_mean": 1,
        "pair_linear": sqrt(v),
        "pair_pair": v,
        "mask_mean": 1,
        "mask_linear": sqrt(v),
    }
    for name, value in expected.items():
        assert vanishes(getattr(expansion, name) - sympy.sympify(value)), name


@pytest.mark.parametrize("keep_prob", [0.5, 0.8, 0.8123, 1.0])
def test_coefficients_of_a_law_of_numbers_are_floats(keep_prob):
    law = BernoulliMasks(keep_prob)
    expansion = cotangent_expansion(law)
    assert float(expansion.square_mean) == pytest.approx(1 / keep_prob, rel=1e-14)
    linear = law.variance**0.5 * (2 + law.skew)
    assert float(expansion.square_linear) == pytest.approx(linear, rel=1e-14)
    assert float(expansion.pair_pair) == pytest.approx(law.variance, rel=1e-14)
    assert expansion.square_quadratic == 0


def normals_of(law, zeta):
    """xi, Xi and omega of one mask: the orthonormal polynomials that stand for the normals."""
    v, s, h = float(law.variance), float(law.skew), float(law.chi_variance)
    xi = zeta / np.sqrt(v)
    omega = (zeta**2 - s * zeta - v) / np.sqrt(h) if h else np.zeros_like(zeta)
    pair = np.outer(xi, xi)
    np.fill_diagonal(pair, 0.0)
    return xi, pair, omega


def masks_of(law):
    values, weights = law.support
    for choice in product(range(len(values)), repeat=WIDTH):
        eta = np.array([float(values[k]) for k in choice])
        yield eta, np.prod([float(weights[k]) for k in choice])


@pytest.mark.parametrize("law", [BernoulliMasks(0.8), BernoulliMasks(0.5), three_valued_masks()])
def test_expansion_holds_for_every_mask_of_width_3(law):
    e = cotangent_expansion(law)
    gram = 0.0
    for eta, weight in masks_of(law):
        xi, pair, omega = normals_of(law, eta - 1)
        square = float(e.pair_mean) + float(e.pair_linear) * np.add.outer(xi, xi) + float(e.pair_pair) * pair
        diagonal = float(e.square_mean) + float(e.square_linear) * xi + float(e.square_quadratic) * omega
        np.fill_diagonal(square, diagonal)
        assert np.abs(square - np.outer(eta, eta)).max() < 1e-13
        assert np.abs(float(e.mask_mean) + float(e.mask_linear) * xi - eta).max() < 1e-14
        used = np.concatenate([[1.0], xi, pair[np.triu_indices(WIDTH, 1)], omega])
        gram = gram + weight * np.outer(used, used)
    # The stand-ins are orthonormal, so independent normals in their place have the same covariance.
    kept = np.diag(gram) != 0
    assert np.abs(gram[np.ix_(kept, kept)] - np.eye(kept.sum())).max() < 1e-14


@pytest.mark.parametrize("law", [BernoulliMasks(0.8), three_valued_masks()])
def test_cotangents_give_the_diffusion_columns_at_width_3(law):
    """J(c) with c on the unit normals is, column by column, the C of the explicit network."""
    iteration = two_layer_dropout(2, 1, WIDTH)
    iteration = dataclasses.replace(iteration, random=dict.fromkeys(iteration.random, law))
    equation = modified_equation(iteration, order=1)
    symbols = [*iteration.state, *iteration.constants]
    point = np.random.default_rng(2).normal(size=len(symbols))
    columns = np.array(sympy.lambdify(symbols, equation.diffusion, "numpy")(*point))
    w, a, x, y = point[:3], point[3:6], point[6:8], point[8:]
    features = np.tanh(np.outer(x, w))
    z = features * a

    def pullback(c):
        slope = (1 - features**2) * a * x[:, None]
        return np.concatenate([(c * slope).mean(0), (c * features).mean(0)])

    e = cotangent_expansion(law)
    error = z.sum(1, keepdims=True) - y[:, None]
    pairs = np.array(np.triu_indices(WIDTH, 1)).T
    # -drift = grad L_S = J(E S z - y)
    mean = (float(e.pair_mean) * (z.sum(1, keepdims=True) - z)) + float(e.square_mean) * z - y[:, None]
    drift = np.array(sympy.lambdify(symbols, equation.drift, "numpy")(*point))[:, 0]
    assert np.abs(drift + pullback(mean)).max() < 1e-14
    expected = []
    for k in range(WIDTH):
        xi = np.eye(WIDTH)[k]
        s = float(e.pair_linear) * np.add.outer(xi, xi)
        np.fill_diagonal(s, float(e.square_linear) * xi)
        c = z @ s - float(e.mask_linear) * xi * y[:, None]
        expected.append(pullback(c))
        if k == 0:
            form = e.contributions_form().noise
            values = dict.fromkeys(form.free_symbols, 0.0)
            numbers = {"e": error[0, 0], "z_k": z[0, 0], "xi_k": 1.0, r"\sum_{r} \xi_{r} z_{r}": z[0, 0]}
            values |= {q: numbers[q.name] for q in values if q.name in numbers}
            assert float(form.subs(values)) == pytest.approx(c[0, 0], abs=1e-14)
    for k, r in pairs:
        s = np.zeros((WIDTH, WIDTH))
        s[k, r] = s[r, k] = float(e.pair_pair)
        expected.append(pullback(z @ s))
    if e.square_quadratic != 0:
        expected += [pullback(z * np.eye(WIDTH)[k] * float(e.square_quadratic)) for k in range(WIDTH)]
    assert np.abs(columns - np.array(expected).T).max() < 1e-14


def test_contributions_form_is_that_of_the_paper():
    e, z, xi = sympy.symbols("e z_k xi_k")
    linear, pairs = Symbol(r"\sum_{r} \xi_{r} z_{r}"), Symbol(r"\sum_{r \ne k} \Xi_{kr} z_{r}")
    v, s = 1 / p - 1, 1 / p - 2
    form = cotangent_expansion(BernoulliMasks(p)).contributions_form()
    assert vanishes(form.mean - (e + v * z))
    assert vanishes(form.noise - (sqrt(v) * (xi * (e + s * z) + linear) + v * pairs))


def test_latex_names_every_part():
    tex = cotangent_expansion(GaussianMasks(p)).latex()
    assert tex.count(" &= ") == 5
    for symbol in (r"\xi_{k}", r"\Xi_{kr}", r"\omega_{k}", "e", "z_{k}"):
        assert symbol in tex
    assert tex.count("{") == tex.count("}")
