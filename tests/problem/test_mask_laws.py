"""Mask laws: samples have the stated moments, and the noise of a problem is exact under each law."""

from itertools import product

import numpy as np
import pytest
import torch
from problems import make_problem, plain_gradient
from symbolic_problems import rule

import smesolve as sme
from smesolve.symbolic import Centred, SampleIndex

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
    chi = zeta**2 - law.variance - law.skew * zeta
    found = [float(values.mean()) for values in (chi, chi * zeta, chi**2)]
    assert found == pytest.approx([0, 0, law.chi_variance], abs=3e-4)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((4, 3)))
    assert torch.equal(law.sample((4, 3), np.random.default_rng(0)), law.quantile(uniforms))
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


@pytest.mark.parametrize("law", [*LAWS, SampleIndex(4), Centred(LAWS[0])])
def test_the_degree_of_a_moment_is_an_integer(law):
    assert [float(law.central_moment(j)) for j in (0, 1)] == pytest.approx([1.0, 0.0], abs=1e-15)
    for degree in (-1, 1.0, 1.5, "a", None, True, float("nan"), [2]):
        with pytest.raises(sme.SmesolveError, match="j must be an integer of at least 0"):
            law.central_moment(degree)
