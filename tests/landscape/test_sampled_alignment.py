"""Alignment with a covariance that draws alone tell: intervals hold the truth, also where spectra decay slowly."""

import numpy as np
import pytest
import torch
from landscape_checks import covers_as_stated
from scipy.sparse.linalg import aslinearoperator
from scipy.stats import binom

from smesolve.landscape import alignment, principal_angles, sampled_alignment, sampled_covariance_error, sampled_traces
from smesolve.landscape.estimates import Estimate, Interval, over_root
from smesolve.landscape.jackknife import jackknife, without_samples

D = 120


def spectra(decay, opposed):
    hessian = 1 / np.arange(1, D + 1)
    return (hessian[::-1] if opposed else hessian).copy(), np.arange(1, D + 1) ** -decay


@pytest.mark.parametrize(
    ("decay", "draws", "opposed"),
    [(0.2, 60, False), (0.5, 100, False), (0.5, 60, True), (2.0, 60, False), (3.0, 30, False)],
)
def test_intervals_cover_the_truth(decay, draws, opposed):
    hessian, covariance = spectra(decay, opposed)
    operator, runs = aslinearoperator(np.diag(hessian)), 100
    exact = alignment(operator, {"S": aslinearoperator(np.diag(covariance))}, D).iloc[0]
    names, rng = ("trace", "cosine", "ratio", "score"), np.random.default_rng(7)
    hits = dict.fromkeys(names, 0)
    for _ in range(runs):
        noise = torch.from_numpy(rng.standard_normal((draws, D)) * covariance**0.5)
        row = sampled_alignment(operator, noise, probes=D)
        for name in names:
            hits[name] += row[f"{name}_low"] <= exact[name] <= row[f"{name}_high"]
        assert row["verdict"] in ("unresolved", "opposed" if opposed else "aligned")
    assert all(binom.cdf(count, runs, 0.95) > 0.001 for count in hits.values()), hits
    assert exact["score_low"] == pytest.approx(exact["score"]) == pytest.approx(exact["score_high"])


def test_a_jackknife_of_means_has_their_variance_and_of_a_square_its_bias():
    """x^2 of a mean x over N: the bias is var/N, and pairs add 2 var^2/N^2 to the variance 4 x^2 var/N."""
    rows = np.random.default_rng(0).standard_normal((40, 1)) + 1
    samples = [without_samples(rows)]
    mean, _ = jackknife(lambda t: t[..., 0], rows.mean(0), samples)
    assert mean.value == pytest.approx(rows.mean()) and mean.stderr == pytest.approx(rows.std(ddof=1) / 40**0.5)
    square, _ = jackknife(lambda t: t[..., 0] ** 2, rows.mean(0), samples)
    assert square.value == pytest.approx(rows.mean() ** 2 - rows.var(ddof=1) / 40)


def test_left_out_draws_are_those_of_the_other_draws():
    """Every statistic without one draw and without two is that of the remaining draws."""
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 4)))
    operator = aslinearoperator(np.diag([3.0, 1.0, -2.0, 0.5]))
    found = sampled_traces(operator, noise, probes=4).samples[0]
    for i in range(8):
        others = sampled_traces(operator, noise[[j for j in range(8) if j != i]], probes=4)
        assert found.one[i] == pytest.approx(others.values)
    for row, pair in zip(found.two, found.pairs.T, strict=True):
        others = sampled_traces(operator, noise[[j for j in range(8) if j not in pair]], probes=4)
        assert row == pytest.approx(others.values)


def test_noise_that_cannot_be_told_from_isotropic_has_no_finite_score():
    hessian, _ = spectra(0.2, False)
    rng, unresolved = np.random.default_rng(3), 0
    for _ in range(20):
        row = sampled_alignment(aslinearoperator(np.diag(hessian)), torch.from_numpy(rng.standard_normal((40, D))), D)
        assert row["score_high"] == np.inf or row["score_low"] == -np.inf or row["score_low"] < row["score_high"]
        unresolved += row["verdict"] == "unresolved"
    assert unresolved >= 18


def test_a_norm_is_covered_where_pairs_of_draws_vary_more_than_single_ones():
    """Isotropic noise in more dimensions than there are draws: |Sigma|_F^2 = D."""
    rng, runs, hits = np.random.default_rng(5), 400, 0
    for _ in range(runs):
        norm, _ = sampled_covariance_error(
            torch.from_numpy(rng.standard_normal((30, D))), torch.zeros(D, dtype=torch.float64)
        )
        hits += norm.low <= D**0.5 <= norm.high
    assert covers_as_stated(hits, runs), hits / runs


def test_no_noise_has_norm_zero():
    none = torch.zeros(5, D, dtype=torch.float64)
    assert sampled_covariance_error(none, none[0]) == (Interval(0.0, 0.0, 0.0), 0.0)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
@pytest.mark.parametrize("spread", [0.05, 0.4])
@pytest.mark.parametrize("numerator", [1.0, -0.1, 0.0])
def test_a_quotient_by_a_root_is_covered(numerator, spread, correlation):
    """Normal a and b of known variances: the share of intervals that hold a / sqrt(b)."""
    rng, runs = np.random.default_rng(11), 1000
    covariance = np.array([[0.04, correlation * 0.2 * spread], [correlation * 0.2 * spread, spread**2]])
    hits = 0
    for a, b in rng.multivariate_normal([numerator, 1.0], covariance, runs):
        found = over_root(Estimate(a, 0.2), Estimate(b, spread), covariance[0, 1])
        assert not found.value < found.low and not found.value > found.high
        hits += found.low <= numerator <= found.high
    assert 0.93 * runs <= hits <= 0.98 * runs, hits


def test_angles_near_zero_are_not_lost_to_rounding():
    angles = np.array([1e-12, 1e-8, 1e-3, 1.0])
    first, second = np.eye(10)[:, :4], np.zeros((10, 4))
    second[range(4), range(4)], second[range(4, 8), range(4)] = np.cos(angles), np.sin(angles)
    assert principal_angles(first, second) == pytest.approx(angles, rel=1e-6)
    assert principal_angles(second[:, 1:3], first[:, :3]) == pytest.approx(angles[1:3], rel=1e-6)


@pytest.mark.parametrize("empty", ["hessian", "noise"])
def test_without_curvature_or_noise_nothing_is_claimed(empty):
    hessian, covariance = spectra(0.5, False)
    first, second = (0 * hessian, covariance) if empty == "hessian" else (hessian, 0 * covariance)
    row = alignment(aslinearoperator(np.diag(first)), {"S": aslinearoperator(np.diag(second))}, D).iloc[0]
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal((20, D)) * second**0.5)
    for found in (row, sampled_alignment(aslinearoperator(np.diag(first)), draws, D)):
        assert found["verdict"] == "unresolved" and np.isnan(found["cosine"]) and np.isnan(found["null_mean"])


def test_fewer_than_three_dimensions_have_no_null():
    with pytest.raises(ValueError, match="hessian must have at least 3 dimensions, got D = 2"):
        alignment(aslinearoperator(np.eye(2)), {"S": aslinearoperator(np.eye(2))})
