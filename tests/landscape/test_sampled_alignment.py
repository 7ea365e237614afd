"""Alignment with a covariance that draws alone tell: intervals hold the truth, also where spectra decay slowly."""

import numpy as np
import pytest
import torch
from landscape_checks import covers_as_stated
from scipy import stats
from scipy.sparse.linalg import aslinearoperator
from scipy.stats import binom

from smesolve.landscape import (
    alignment,
    frobenius_norm,
    principal_angles,
    sampled_alignment,
    sampled_covariance_error,
    sampled_traces,
    trace,
)
from smesolve.landscape.estimates import Estimate, Interval, over_root
from smesolve.landscape.jackknife import LeftOut, jackknife, without_samples

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


def test_a_jackknife_knows_the_skewness_and_the_freedom_of_a_mean():
    rows = np.random.default_rng(1).exponential(size=(25, 1))
    skewness, kurtosis = stats.skew(rows[:, 0], bias=False), stats.kurtosis(rows[:, 0], bias=False)
    assert skewness > 0 and kurtosis > 0
    mean, _ = jackknife(lambda t: t[..., 0], rows.mean(0), [without_samples(rows)])
    assert mean.skewness == pytest.approx(skewness / 5)
    assert mean.freedom == pytest.approx(2 / (2 / 24 + kurtosis / 25))
    equal, _ = jackknife(lambda t: t[..., 0], np.array([0.1]), [without_samples(np.full((25, 1), 0.1))])
    assert equal.half < 1e-12


def test_independent_sets_of_samples_add_their_cumulants():
    """x - 2 y, both means of samples of their own."""
    rng = np.random.default_rng(2)
    first, second = rng.exponential(size=(20, 1)), rng.exponential(size=(30, 1)) ** 2
    one, two = without_samples(first), without_samples(second)
    samples = [
        LeftOut(*(np.hstack([rows, np.full_like(rows, second.mean())]) for rows in (one.one, one.two)), one.pairs),
        LeftOut(*(np.hstack([np.full_like(rows, first.mean()), rows]) for rows in (two.one, two.two)), two.pairs),
    ]
    found, _ = jackknife(lambda t: t[..., 0] - 2 * t[..., 1], np.array([first.mean(), second.mean()]), samples)
    variances = np.array([first.var(ddof=1) / 20, 4 * second.var(ddof=1) / 30])
    thirds = [
        stats.skew(sign * rows[:, 0], bias=False) / len(rows) ** 0.5 * variance**1.5
        for sign, rows, variance in ((1, first, variances[0]), (-1, second, variances[1]))
    ]
    assert found.stderr**2 == pytest.approx(variances.sum())
    assert found.skewness == pytest.approx(sum(thirds) / variances.sum() ** 1.5)


def test_samples_at_an_extremum_leave_the_variance_that_pairs_have():
    """x^2 at a sample mean of exactly 0: the variance of the pseudo-values tells nothing."""
    rows = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])[:, None]
    left_out = without_samples(rows)
    square, (pseudo,) = jackknife(lambda t: t[..., 0] ** 2, rows.mean(0), [left_out])
    first, second = left_out.one[left_out.pairs, 0] ** 2
    differences = 4 * left_out.two[:, 0] ** 2 - 5 * (first + second)
    interaction = differences.var() / 2
    assert pseudo.var(ddof=1) / 6 < interaction / 2
    assert square.stderr**2 == pytest.approx(interaction / 3)


@pytest.mark.parametrize("freedom", [3.0, 12.0, np.inf])
@pytest.mark.parametrize("skewness", [-0.9, -0.1, 0.0, 1e-5, 0.4])
def test_a_skewed_estimate_reaches_to_the_longer_end_of_halls_interval(skewness, freedom):
    t, g = stats.t.ppf(0.975, freedom), abs(skewness)
    reach = Estimate(2.0, 0.25, freedom, skewness).half / 0.25

    def transformed(T):
        return T + g * (T**2 / 3 + 1 / 6) + g**2 * T**3 / 27

    assert transformed(-reach) == pytest.approx(-t, rel=1e-8)
    assert reach == pytest.approx(t, abs=1e-12) if skewness == 0 else transformed(reach) > t


@pytest.mark.parametrize(("decay", "probes"), [(0.5, 12), (2.0, 12)])
def test_intervals_of_few_probes_cover_the_truth(decay, probes):
    """Few vectors see few of the directions that the basis leaves: values are skewed."""
    eigenvalues, runs = np.arange(1.0, 101) ** -decay, 400
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))
    operator = aslinearoperator(rotation * eigenvalues @ rotation.T)
    exact, hits = (eigenvalues.sum(), np.linalg.norm(eigenvalues)), np.zeros(2)
    for seed in range(runs):
        found = trace(operator, probes, seed), frobenius_norm(operator, probes, seed)
        hits += [one.low <= value <= one.high for one, value in zip(found, exact, strict=True)]
    assert (0.93 * runs <= hits).all() and (hits <= 0.985 * runs).all(), hits / runs


@pytest.mark.parametrize("draws", [60, 150])
def test_a_cosine_at_its_maximum_is_covered(draws):
    """H = Sigma up to a factor: single draws do nothing there."""
    values, runs, hits = np.arange(1.0, 21) ** -2, 200, 0
    rng, operator = np.random.default_rng(8), aslinearoperator(np.diag(values))
    for _ in range(runs):
        of = sampled_traces(operator, torch.from_numpy(rng.standard_normal((draws, 20)) * values**0.5), probes=20)
        cosine = of.derived(lambda t: t["HS"] / np.sqrt(t["HH"] * t["SS"]))
        hits += cosine.low <= 1 <= cosine.high
    assert hits >= 0.95 * runs, hits / runs


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
