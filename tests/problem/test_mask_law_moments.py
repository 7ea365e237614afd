"""A mask law is accepted if quantile, central moments and support belong to one law, and refused otherwise."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

import smesolve as sme
from smesolve.problem.quantile_moments import quantile_moments

ORDERS = (2, 3, 4)


class Law(sme.MaskLaw):
    """A law from its quantile on arrays, its central moments, and its support."""

    def __init__(self, quantile, moments, support=None):
        self._quantile, self.moments, self._support = quantile, [1.0, 0.0, *moments], support

    def central_moment(self, j):
        return self.moments[j]

    @property
    def support(self):
        return self._support

    def quantile(self, uniforms):
        return torch.from_numpy(np.asarray(self._quantile(uniforms.numpy())))

    def with_factor(self, order, factor):
        moments = [moment * (factor if j == order else 1) for j, moment in enumerate(self.moments)]
        return Law(self._quantile, moments[2:], self._support)


def central(raw):
    """E (X - 1)^j from E X^k, k = 0, ..., 4."""
    return [sum(math.comb(j, k) * (-1) ** (j - k) * raw[k] for k in range(j + 1)) for j in ORDERS]


def scaled(distribution):
    """A law of scipy divided by its mean; the moments are scipy's closed forms."""
    mean = distribution.mean()
    return Law(
        lambda u: distribution.ppf(np.maximum(u, 2.0**-54)) / mean,
        central([1.0] + [distribution.moment(k) / mean**k for k in range(1, 5)]),
    )


def normal(u):
    return 1 + 0.5 * stats.norm.ppf(np.maximum(u, 2.0**-54))


def log_normal(sigma):
    return Law(
        lambda u: np.exp(sigma * stats.norm.ppf(np.maximum(u, 2.0**-54)) - sigma**2 / 2),
        central([math.exp(k * (k - 1) / 2 * sigma**2) for k in range(5)]),
    )


def pareto(exponent):
    least = (exponent - 1) / exponent
    return Law(
        lambda u: least * (1 - u) ** (-1 / exponent),
        central([1.0] + [exponent * least**k / (exponent - k) for k in range(1, 5)]),
    )


def two_pieces():
    """Uniform on [0, 0.5] with probability 0.6, else on [1.5, 2]: a quantile with a jump."""
    quantile = lambda u: np.where(u < 0.6, u / 1.2, 1.5 + (u - 0.6) / 0.8)  # noqa: E731
    mean = 0.6 * 0.25 + 0.4 * 1.75
    raw = [
        (0.6 * (0.5 ** (k + 1)) / (k + 1) / 0.5 + 0.4 * (2 ** (k + 1) - 1.5 ** (k + 1)) / (k + 1) / 0.5) / mean**k
        for k in range(5)
    ]
    return Law(lambda u: quantile(u) / mean, central(raw))


def lattice(probability, state_support=True):
    """0 and 1 / probability, as dropout has them, written by hand."""
    values, chances = np.array([0.0, 1 / probability]), np.array([1 - probability, probability])
    support = (values.tolist(), chances.tolist()) if state_support else None
    return Law(lambda u: (u >= 1 - probability) / probability, [chances @ (values - 1) ** j for j in ORDERS], support)


def many_values(count=300):
    """A finite law on many values, unsorted."""
    values = np.random.default_rng(0).gamma(2.0, 0.5, count)
    values /= values.mean()
    return Law(
        lambda u: values[np.minimum((u * count).astype(int), count - 1)],
        [((values - 1) ** j).mean() for j in ORDERS],
        (values.tolist(), [1 / count] * count),
    )


GOOD = {
    "exponential": lambda: Law(lambda u: -np.log1p(-u), [1.0, 2.0, 9.0]),
    "gamma 0.3": lambda: scaled(stats.gamma(0.3)),
    "beta": lambda: scaled(stats.beta(2, 5)),
    "beta, nearly symmetric": lambda: scaled(stats.beta(5, 4.9)),
    "Poisson": lambda: scaled(stats.poisson(3.0)),
    "log-normal 0.3": lambda: log_normal(0.3),
    "log-normal 1": lambda: log_normal(1.0),
    "log-normal 1.2": lambda: log_normal(1.2),
    "Pareto 6": lambda: pareto(6.0),
    "two pieces": two_pieces,
    "dropout 0.8": lambda: lattice(0.8),
    "dropout 0.01": lambda: lattice(0.01),
    "dropout 1e-9": lambda: lattice(1e-9),
    "dropout 0.999999": lambda: lattice(0.999999),
    "dropout 0.8 without support": lambda: lattice(0.8, False),
    "300 values": many_values,
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_right_law_passes_and_one_per_cent_in_any_moment_does_not(make):
    law = make()
    law.check_moments()
    for order, factor in zip(ORDERS, (0.99, 1.01, 0.99), strict=True):
        with pytest.raises(ValueError, match=f"of order {order} .*correct one of them"):
            law.with_factor(order, factor).check_moments()


@pytest.mark.parametrize(
    "law",
    [
        sme.BernoulliMasks(0.8),
        sme.BernoulliMasks(1.0),
        sme.BernoulliMasks(1 - 1e-12),
        sme.BernoulliMasks(1e-12),
        sme.GaussianMasks(0.3),
        sme.GaussianMasks(1e-18),
        sme.GaussianMasks(1e60),
        sme.UniformMasks(1e-9),
        sme.UniformMasks(1e60),
        sme.FiniteMasks([3.0, 0.0, 0.5, 1.25], [0.15, 0.2, 0.35, 0.3]),
        sme.FiniteMasks([1.0], [1.0]),
        sme.FiniteMasks([0.9, 1.0, 1.1], [0.0005, 0.999, 0.0005]),
    ],
    ids=repr,
)
def test_the_laws_of_the_package_pass(law):
    law.check_moments()


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_moments_of_a_quantile_lie_within_their_bounds(make):
    law = make()
    found = quantile_moments(lambda u: law.quantile(torch.from_numpy(u)).numpy(), 4)
    exact = np.array(law.moments[1:])
    assert (np.abs(found.values - exact) <= found.bounds + 1e-14 * found.absolute).all()
    assert (found.bounds <= 2e-3 * found.absolute).all()


def test_the_fourth_moment_of_normal_masks_is_not_that_of_another_law():
    """A fourth moment of 24 in place of 9 made tr Sigma wrong by three quarters."""
    with pytest.raises(
        ValueError, match=re.escape("has the central moment 9 of order 4 and Law.central_moment(4) gives")
    ):
        Law(lambda u: -np.log1p(-u), [1.0, 2.0, 24.0]).check_moments()


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (log_normal(2.0), "of order 3 of Law is that of its quantile cannot be decided"),
        (pareto(4.2), "of order 4 of Law is that of its quantile cannot be decided"),
        (sme.UniformMasks(1e-15), "cannot be decided"),
        (sme.UniformMasks(1e99), "law must have finite central moments up to order 4, but that of order 4"),
        (Law(lambda u: u, [1 / 12, 0.0, 1 / 80]), "law must have mean 1, but Law.quantile gives 0.5"),
        (Law(lambda u: 0.995 + 0 * u, [0.0, 0.0, 0.0]), "law must have mean 1, but Law.quantile gives 0.995"),
        (Law(lambda u: np.nan * u, [1.0, 0.0, 3.0]), "law must have mean 1, but Law.quantile gives nan"),
        (Law(normal, [0.25, 0.25, 3 / 16]), "of order 3 and Law.central_moment(3) gives 0.25; correct one of them."),
        (Law(lambda u: u[..., :1], [1.0, 0.0, 1.0]), "Law.quantile must map uniforms to masks"),
        (Law(lambda u: (2 * u).astype(np.float32), [1 / 3, 0.0, 0.2]), "Law.quantile must map uniforms to masks"),
        (Law(lambda u: u / "0", [1.0, 0.0, 1.0]), "Law.quantile must work on what it is given here"),
        (Law(lambda u: -np.log1p(-u), [1.0, 2.0]), "Law.central_moment must work on what it is given here"),
        (
            Law(lambda u: 2 * u, [1 / 3, 0.0, 0.2], ([0, 2], [0.5, 0.5])),
            "Law.support has the central moment 1 of order 2",
        ),
    ],
)
def test_what_is_not_one_law_or_cannot_be_told_is_said(law, words):
    x = torch.ones(2, 2, dtype=torch.float64)
    for refused in (law.check_moments, lambda: sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, x[:, :1], law=law)):
        with pytest.raises(ValueError, match=re.escape(words)):
            refused()


@pytest.mark.parametrize("keep_prob", [0.3, 0.7, 0.9])
def test_a_law_on_two_values_that_does_not_say_so_has_no_third_term(keep_prob):
    """Rounding may leave E chi^2 below zero."""
    assert lattice(keep_prob, state_support=False).chi_variance == 0


def test_a_support_is_compared_with_the_quantile_too():
    """The same first four moments, other values: enumeration and sampling would differ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    values, chances = 1 + 0.2 * nodes, weights / weights.sum()
    moments = [chances @ (values - 1) ** j for j in ORDERS]
    law = Law(lambda u: 1 + 0.2 * stats.norm.ppf(np.maximum(u, 2.0**-54)), moments, (values.tolist(), chances.tolist()))
    with pytest.raises(ValueError, match=re.escape("Law.support does not hold; correct one of them.")):
        law.check_moments()
    quantile = lambda u: values[np.searchsorted(np.cumsum(chances)[:-1], u, side="right")]  # noqa: E731
    Law(quantile, moments, (values.tolist(), chances.tolist())).check_moments()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sme.BernoulliMasks(1e-15), "keep_prob must be at least 1.1e-13, got 1e-15"),
        (lambda: sme.FiniteMasks([1.0, 2.0], [1 - 1e-30, 1e-30]), "probabilities must be at least 1.1e-13"),
        (lambda: sme.BernoulliMasks(1e-300), "keep_prob must have a size from 1e-100 to 1e+100, got 1e-300"),
        (lambda: sme.GaussianMasks(1e300), "variance must have a size from 1e-100 to 1e+100, got 1e+300"),
    ],
)
def test_probabilities_that_uniforms_cannot_meet_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
