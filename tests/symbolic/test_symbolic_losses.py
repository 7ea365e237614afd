"""Polynomial losses at any width: generated kernels against enumeration, and the derivation they come from."""

import re
from itertools import product

import numpy as np
import pytest
import sympy
import torch
from problems import plain_gradient
from symbolic_problems import p, rule
from sympy import Rational, Symbol

import smesolve as sme
from smesolve.symbolic import (
    ExplicitNetwork,
    LossExpansion,
    PolynomialLossProblem,
    dropout,
    modified_equation,
    squared_error,
    vanishes,
)

LOSSES = {
    "squared": squared_error,
    "cubic": lambda f, y: (f - y) ** 3 / 3 + f**2 * y,
    "quartic": lambda f, y: (f - y) ** 4 / 4 - 0.3 * f,
    "linear": lambda f, y: f * y,
}
LAWS = {
    "Bernoulli": sme.BernoulliMasks(0.7),
    "Gaussian": sme.GaussianMasks(0.3),
    "uniform": sme.UniformMasks(0.9),
    "three values": sme.FiniteMasks([0.0, 1.0, 3.0], [0.4, 0.4, 0.2]),
}
THREE = sme.FiniteMasks([0, 1, 3], [Rational(2, 5), Rational(2, 5), Rational(1, 5)])


def make(loss, law, width=3, outputs=2, bias=True, samples=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, outputs, generator=generator, dtype=torch.float64)
    problem = PolynomialLossProblem(sme.TwoLayerNetwork(2, width, outputs, bias=bias), x, y, loss, law=law)
    return problem, torch.randn(5, problem.dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("loss", LOSSES)
def test_mean_and_covariance_equal_enumeration_or_quadrature(loss, law):
    """loss' has degree 3 in each mask and the cotangent one more: second moments need a rule of degree 8."""
    problem, thetas = make(LOSSES[loss], LAWS[law], bias=loss == "quartic")
    theta = thetas[0]
    nodes, weights = rule(LAWS[law], 8)
    masks = torch.tensor(np.array(list(product(nodes, repeat=3))))
    probabilities = torch.tensor(np.array(list(product(weights, repeat=3)))).prod(-1)
    gradients = torch.stack([plain_gradient(problem, theta, mask, LOSSES[loss]) for mask in masks])
    assert torch.allclose(problem.gradient(theta, masks), gradients, rtol=1e-12, atol=1e-12)
    mean = probabilities @ gradients
    covariance = (gradients - mean).mT @ (probabilities[:, None] * (gradients - mean))
    scale = covariance.abs().max().clamp(min=1)
    assert (problem.mean_gradient(theta) - mean).abs().max() < 1e-12 * scale
    assert (problem.covariance(theta) - covariance).abs().max() < 1e-12 * scale


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(
    "loss",
    [
        *LOSSES.values(),
        lambda f, y: 2 * f,
        lambda f, y: f * y,
        lambda f, y: (f - y) ** 2 - f**2,
        lambda f, y: f**2,
        lambda f, y: y * f**2,
        lambda f, y: f**3,
        lambda f, y: y * f**3 / 3 + f,
        lambda f, y: (y * f) ** 4 - 2 * f,
        lambda f, y: sympy.tanh(y) * (f - y) ** 2 + sympy.Max(0, y) * f * sympy.log(2),
    ],
)
def test_losses_of_any_shape(loss, width, outputs, bias):
    """Exact against the enumeration of all masks, from the loss alone: without the target, and with its functions as
    coefficients."""
    law = LAWS["three values"]
    problem, thetas = make(loss, law, width, outputs, bias, samples=3)
    theta, vector = thetas[0], thetas[1]
    masks, probabilities = problem.all_draws()
    F, y = sympy.symbols("F y", real=True)
    maximum = {"Max": lambda zero, values: values.clamp(min=zero), "tanh": torch.tanh}
    risk_of = sympy.lambdify([F, y], loss(F, y), [maximum, "math"])

    def risk(theta, mask):
        at = problem.network.linearize(theta, problem.x)
        outputs = (at.readout * mask[..., None, :]) @ at.features + (0.0 if at.bias is None else at.bias)
        return risk_of(outputs, problem.y.mT).sum((-2, -1)) / problem.samples

    gradients = torch.stack([torch.func.grad(risk)(theta, mask) for mask in masks])
    mean = probabilities @ gradients
    covariance = (gradients - mean).mT @ (probabilities[:, None] * (gradients - mean))
    assert torch.allclose(problem.gradient(theta, masks), gradients, rtol=1e-12, atol=1e-12)
    assert torch.allclose(problem.mean_gradient(theta), mean, rtol=1e-11, atol=1e-11)
    assert (problem.covariance(theta) - covariance).abs().max() < 1e-12 * covariance.abs().max().clamp(min=1)
    average = probabilities @ torch.stack([risk(theta, mask) for mask in masks])
    assert torch.allclose(problem.modified_loss(theta), average, rtol=1e-12, atol=1e-12)
    assert torch.allclose(problem.loss(theta), risk(theta, torch.ones_like(masks[0])), rtol=1e-12, atol=1e-12)
    slope = torch.func.jvp(problem.mean_gradient, (theta,), (vector,))[1]
    both = problem.hessian_product(theta, torch.stack([vector, 2 * vector]))
    assert torch.allclose(both, torch.stack([slope, 2 * slope]), rtol=1e-11, atol=1e-11)
    normals = torch.ones(5, problem.noise_dim, dtype=torch.float64)
    together = problem.linearize(thetas).noisy_mean_gradient(normals, 0.7)
    apart = 0.7 * problem.mean_gradient(thetas) + problem.noise_product(thetas, normals)
    assert together.shape == thetas.shape and torch.allclose(together, apart, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("width", [1, 2, 5])
def test_every_masks_gradient_is_mean_plus_noise_product_of_its_functions(loss, law, width):
    """Mask by mask, at widths below, at and above the order of the noise."""
    problem, theta = make(LOSSES[loss], LAWS[law], width=width)
    masks = LAWS[law].quantile(torch.rand(5, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    gradient = problem.gradient(theta, masks)
    functions = problem.noise_coordinates(masks)
    assert functions.shape == (5, problem.noise_dim)
    expected = problem.mean_gradient(theta) + problem.noise_product(theta, functions)
    assert (gradient - expected).abs().max() < 1e-12 * gradient.abs().max()
    for modified, mean in zip(theta, problem.mean_gradient(theta), strict=True):
        assert torch.allclose(torch.func.grad(problem.modified_loss)(modified), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_squared_error_is_dropout_problem_normal_by_normal(law):
    problem, theta = make(squared_error, LAWS[law], width=4)
    hand = sme.DropoutProblem(problem.network, problem.x, problem.y, law=LAWS[law])
    normals = torch.randn(5, hand.noise_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert problem.noise_dim == hand.noise_dim
    for name, arguments in [
        ("loss", ()),
        ("modified_loss", ()),
        ("mean_gradient", ()),
        ("noise_product", (normals,)),
        ("gradient", (1 + 0.1 * normals[:, :4],)),
        ("hessian_product", (theta.flip(0),)),
        ("noisy_mean_gradient", (normals, 0.3)),
    ]:
        ours, theirs = (getattr(one.linearize(theta), name) for one in (problem, hand))
        ours, theirs = ours(*arguments), theirs(*arguments)
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13), name


@pytest.mark.parametrize("loss", LOSSES)
def test_without_dropout_there_is_no_noise(loss):
    problem, theta = make(LOSSES[loss], sme.BernoulliMasks(1.0))
    normals = torch.zeros(5, 0, dtype=torch.float64)
    assert problem.noise_dim == 0
    assert torch.equal(problem.noise_product(theta, normals), torch.zeros_like(theta))
    assert torch.equal(problem.covariance(theta[0]), torch.zeros(problem.dim, problem.dim, dtype=torch.float64))
    ones = torch.ones(5, problem.width, dtype=torch.float64)
    assert torch.allclose(problem.gradient(theta, ones), problem.mean_gradient(theta), rtol=1e-12, atol=1e-13)
    assert torch.equal(problem.linearize(theta).noisy_mean_gradient(normals, 1.0), problem.mean_gradient(theta))


def test_factor_is_that_of_the_explicit_derivation():
    """Quartic loss, three values: covariance of the explicit network, derived without cumulants."""
    problem, thetas = make(LOSSES["quartic"], LAWS["three values"], width=2, outputs=1, bias=False, samples=1)
    data = (problem.x.tolist(), problem.y.tolist())
    network = ExplicitNetwork(in_features=2, loss=LOSSES["quartic"], data=data)
    equation = modified_equation(dropout(network, THREE), order=1)
    sde = equation.to_torch({}, lr=0.25)
    factor = 2 * sde.g(0.0, thetas)
    assert torch.allclose(factor @ factor.mT, problem.covariance(thetas), rtol=1e-11, atol=1e-11)
    assert torch.allclose(-sde.f(0.0, thetas), problem.mean_gradient(thetas), rtol=1e-12, atol=1e-12)


def test_the_modified_equation_takes_it():
    problem, theta = make(LOSSES["quartic"], LAWS["Bernoulli"], outputs=1)
    sde = sme.ModifiedEquation(problem, lr=0.01, order=2)
    paths = sme.solve(sde, 0.3 * theta[0], [0.0, 0.02, 0.04], scheme="small_noise_rk4", dt=0.02, paths=16, seed=0)
    assert paths.shape == (3, 16, problem.dim) and paths.isfinite().all()


@pytest.mark.parametrize("law", [sme.BernoulliMasks(p), sme.GaussianMasks(p), THREE])
def test_squared_error_gives_the_cotangents_of_the_paper(law):
    """W_1 = e, W_2 = 1, and S_kr, S_kk of `smesolve.problem.dropout_noise` as second derivatives of Phi."""
    expansion = LossExpansion(squared_error, law)
    F, y, P2 = sympy.symbols("F y P2")
    v, s = law.variance, law.skew
    for W, value in zip(expansion.averaged, ((F - y) ** 2 / 2 + v * P2 / 2, F - y, 1), strict=True):
        assert vanishes(W - value)
    terms = {(term.degrees, term.powers): term.coefficient for term in expansion.terms}
    expected = {
        ((1,), (1,)): sympy.sqrt(v),
        ((1,), (2,)): sympy.sqrt(v) * s / 2,
        ((1, 1), (1, 1)): v / 2,
        ((2,), (2,)): sympy.sqrt(law.chi_variance) / 2,
    }
    for key, value in expected.items():
        assert vanishes(terms.pop(key, 0) - sympy.sympify(value)), key
    assert not terms
    assert expansion.latex().count("&=") == 5 and str(expansion).count("W_") >= 6


def test_mean_loss_of_the_quartic_by_hand():
    """E (e + X)^4/4 with E X^2 = v P_2, E X^3 = v s P_3, E X^4 = 3 v^2 (P_2^2 - P_4) + E zeta^4 P_4."""
    law = sme.BernoulliMasks(p)
    expansion = LossExpansion(lambda f, y: (f - y) ** 4 / 4, law)
    F, y, P2, P3, P4 = sympy.symbols("F y P2 P3 P4")
    e, v, third, fourth = F - y, law.variance, law.central_moment(3), law.central_moment(4)
    by_hand = e**4 + 6 * e**2 * v * P2 + 4 * e * third * P3 + 3 * v**2 * (P2**2 - P4) + fourth * P4
    assert vanishes(expansion.averaged[0] - by_hand / 4)


@pytest.mark.parametrize(("law", "values"), [("Bernoulli", 2), ("Gaussian", 5), ("three values", 3)])
def test_number_of_normals(law, values):
    """Quartic loss at width 5: the polynomials of degree 1 to 4 that the law leaves independent."""
    expansion = LossExpansion(LOSSES["quartic"], LAWS[law])
    exponents = [e for e in product(range(values), repeat=5) if 0 < sum(e) <= 4]
    assert expansion.count(5) == len(exponents)


def test_what_is_refused_is_said_in_one_sentence():
    network, x, y = sme.TwoLayerNetwork(1, 40), np.ones((1, 1)), np.ones((1, 1))
    sentence = (
        "loss has degree 4, so its exact noise needs 102090 normals and tensors of 40^4 entries at width 40: take at "
        "most 32 neurons, a loss of lower degree, or ModuleProblem."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        PolynomialLossProblem(network, x, y, LOSSES["quartic"], keep_prob=0.8)
    with pytest.raises(
        ValueError, match=re.escape("loss must be a polynomial of degree 1 or more in the output, got exp(F*y)")
    ):
        PolynomialLossProblem(network, x, y, lambda f, y: sympy.exp(f * y), keep_prob=0.8)
    with pytest.raises(ValueError, match="loss must be a polynomial of degree 1 or more in the output, got F\\*c"):
        PolynomialLossProblem(network, x, y, lambda f, y: Symbol("c") * f, keep_prob=0.8)
    with pytest.raises(
        ValueError, match=re.escape("degree 1 or more in the output, got y**2 for output F and target y")
    ):
        PolynomialLossProblem(network, x, y, lambda f, y: y**2, keep_prob=0.8)
    with pytest.raises(ValueError, match="but P2 stands for the output, the target or a power sum here"):
        LossExpansion(squared_error, sme.GaussianMasks(Symbol("P2", positive=True)))
    with pytest.raises(TypeError, match="has no argument masks"):
        PolynomialLossProblem(network, x, y, squared_error, keep_prob=0.8, masks="per_sample")
    with pytest.raises(ValueError, match="has symbols for parameters: kernels need a law of numbers"):
        PolynomialLossProblem(network, x, y, squared_error, law=sme.GaussianMasks(Symbol("v", positive=True)))
