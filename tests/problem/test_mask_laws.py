"""Mask laws: samples have the stated moments, and the noise of a problem is exact under each law."""

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from problems import make_problem, plain_gradient
from symbolic_problems import rule

import smesolve as sme

LAWS = [
    sme.BernoulliMasks(0.8),
    sme.GaussianMasks(0.3),
    sme.UniformMasks(0.9),
    sme.FiniteMasks([0.0, 1.0, 2.5], [0.3, 0.5, 0.2]),
    sme.FiniteMasks([0.5, 1.5], [0.5, 0.5]),
    sme.FiniteMasks([0.0, 0.5, 1.25, 3.0], [0.2, 0.35, 0.3, 0.15]),
]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_laws_sample_what_their_moments_say(law):
    """The quantile function integrated over the unit interval by midpoints."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    zeta = law.quantile(u) - 1
    assert law.central_moment(0) == pytest.approx(1) and law.central_moment(1) == pytest.approx(0, abs=1e-15)
    for j in range(1, 5):
        assert float((zeta**j).mean()) == pytest.approx(law.central_moment(j), abs=3e-4)
    assert law.quantile(torch.zeros(3, 2, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("outputs", [1, 2])
def test_mean_and_covariance_equal_enumeration_or_quadrature(law, outputs):
    """The gradient has degree 2 in each mask: its second moments need a rule of degree 4."""
    problem = make_problem(width=3, out_features=outputs, law=law)
    theta = torch.randn(problem.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nodes, weights = rule(law, 4)
    masks = torch.tensor(np.array(list(product(nodes, repeat=3))))
    probabilities = torch.tensor(np.array(list(product(weights, repeat=3)))).prod(-1)
    gradients = torch.stack([plain_gradient(problem, theta, mask) for mask in masks])
    mean = probabilities @ gradients
    covariance = (gradients - mean).mT @ (probabilities[:, None] * (gradients - mean))
    scale = covariance.abs().max()
    assert (problem.mean_gradient(theta) - mean).abs().max() < 1e-12
    assert (problem.covariance(theta) - covariance).abs().max() < 1e-12 * max(1, scale)
    two_valued = law.support is not None and len(law.support[0]) == 2
    assert problem.noise_dim == (6 if two_valued else 9)


@pytest.mark.parametrize("keep_prob", [0.3, 0.7, 0.9])
def test_a_law_on_two_values_that_does_not_say_so_has_no_third_term(keep_prob):
    """Rounding may leave E chi^2 below zero."""
    dropout = sme.BernoulliMasks(keep_prob)

    class Silent(sme.MaskLaw):
        def central_moment(self, j):
            return dropout.central_moment(j)

        def quantile(self, uniforms):
            return dropout.quantile(uniforms)

    assert Silent().chi_variance == 0


class Stated(sme.MaskLaw):
    """Normal masks of mean and spread `mean`, `spread`, whose moments are said to be 0, `variance`, `third`."""

    def __init__(self, mean, spread, variance, third=0.0):
        self.mean_of_quantile, self.spread, self.moments = mean, spread, [1, 0, variance, third, 3 * variance**2]

    def central_moment(self, j):
        return self.moments[j]

    def quantile(self, uniforms):
        return self.mean_of_quantile + self.spread * torch.special.ndtri(uniforms.clamp(min=2.0**-54))


class LogNormalMasks(sme.MaskLaw):
    """exp(sigma N - sigma^2 / 2): heavy tails."""

    def __init__(self, sigma):
        self.sigma = sigma

    def central_moment(self, j):
        raw = [math.exp(k * (k - 1) / 2 * self.sigma**2) for k in range(j + 1)]
        return sum(math.comb(j, k) * (-1) ** (j - k) * raw[k] for k in range(j + 1))

    def quantile(self, uniforms):
        return torch.exp(self.sigma * torch.special.ndtri(uniforms.clamp(min=2.0**-54)) - self.sigma**2 / 2)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (Stated(2.0, 1.0, 1.0), "law must have mean 1, but Stated.quantile gives 2; divide it by that."),
        (Stated(1.0, 0.3, 1.0), "of order 2 and Stated.central_moment(2) gives 1; correct one of them."),
        (
            Stated(1.0, 0.5, 0.25, third=0.25),
            "of order 3 and Stated.central_moment(3) gives 0.25; correct one of them.",
        ),
        (Stated(float("nan"), 1.0, 1.0), "law must have mean 1, but Stated.quantile gives nan"),
    ],
)
def test_a_law_that_is_not_one_is_refused(law, words):
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape(words)):
        sme.DropoutProblem(sme.TwoLayerNetwork(2, 3, 1), x, x[:, :1], law=law)


@pytest.mark.parametrize("law", [Stated(1.0, 0.5, 0.25), LogNormalMasks(0.3), LogNormalMasks(1.0)])
def test_laws_that_are_one_are_taken(law):
    law.check_moments()


class Moved(sme.MaskLaw):
    """A law on three values whose quantile takes values that differ from these by a relative amount."""

    support = ([2.5, 0.25, 1.0], [0.25, 0.5, 0.25])

    def __init__(self, share):
        self.share = share

    def central_moment(self, j):
        return sum(weight * (value - 1) ** j for value, weight in zip(*self.support, strict=True))

    def quantile(self, uniforms):
        values, ends = torch.tensor([[0.25, 1.0, 2.5], [0.5, 0.75, 1.0]], dtype=uniforms.dtype)
        return values[torch.searchsorted(ends, uniforms, right=True)] * (1 + self.share)


@pytest.mark.parametrize("share", [-4e-13, -2e-16, 0.0, 2.3e-16, 4e-13])
def test_a_value_up_to_rounding_is_the_nearest_one_of_the_support(share):
    Moved(share).check_moments()


@pytest.mark.parametrize("share", [-1e-11, 1e-11])
def test_a_value_that_is_off_by_more_than_rounding_is_refused(share):
    with pytest.raises(
        ValueError, match=r"consistent, but Moved\.quantile takes the value 0\.25, which Moved\.support"
    ):
        Moved(share).check_moments()
