"""Intervals of landscape/, exactly where a closed form is known, else by replicates of synthetic draws."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import Q, exactly
from problems import make_problem
from scipy import stats
from scipy.sparse.linalg import aslinearoperator

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments import exact_regularisation_orders, regularisation_orders
from smesolve.landscape import (
    alignment,
    factorial_effects,
    flow,
    haar_null,
    leading_eigenpairs,
    manifold_geometry,
    mean_over,
    overlap,
    penalty_comparison,
    sampled_alignment,
    sampled_covariance_error,
    sampled_traces,
    traces,
)
from smesolve.landscape.estimates import Estimate, over_root, over_runs
from smesolve.landscape.information_geometry import normal_curvatures
from smesolve.landscape.operators import fisher_operator
from smesolve.problem.masks import BernoulliMasks

# --- estimates ------------------------------------------------------------------------------------------------------


def test_an_estimate_has_students_interval():
    estimate, t = Estimate(2.0, 0.25, 5), stats.t.ppf(0.975, 5)
    assert (estimate.low, estimate.high) == exactly((2 - 0.25 * t, 2 + 0.25 * t))
    assert Estimate(2.0, 0.25).high == exactly(2 + 0.25 * Q)
    assert estimate.columns("a") == {"a": 2.0, "a_low": estimate.low, "a_high": estimate.high}
    assert str(Estimate(1.0, 0.1)) == "1 [0.804, 1.2]"


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.9])
@pytest.mark.parametrize("a", [1.5, -1.5, 0.2])
def test_a_quotient_by_a_root_has_the_ends_of_its_formula(a, correlation):
    numerator, square = Estimate(a, 0.3, 8), Estimate(4.0, 0.5, 8)
    skewed, mirrored = (over_root(Estimate(s * a, 0.3, 8, s * 0.4), square, s * correlation) for s in (1, -1))
    assert (skewed.low, skewed.high) == exactly((-mirrored.high, -mirrored.low))
    found = over_root(numerator, square, correlation * 0.15)
    t, q, sign, r = stats.t.ppf(0.975, 8), 2.0, np.sign(a), correlation * np.sign(a)
    d, size = 0.3 * t, abs(a)
    e, e_above = q - (4 - 0.5 * t) ** 0.5, (4 + 0.5 * t) ** 0.5 - q
    P = size * q - r * d * e
    high = (P + (P**2 - (size**2 - d**2) * (q**2 - e**2)) ** 0.5) / (q**2 - e**2)
    P = size * q - r * d * e_above
    low = (P - (P**2 - (size**2 - d**2) * (q**2 - e_above**2)) ** 0.5) / (q**2 - e_above**2)
    assert found.value == exactly(a / 2)
    assert (found.low, found.high) == exactly((low, high) if sign > 0 else (-high, -low))


def test_a_quotient_by_a_root_that_may_be_zero_is_open():
    far, near = (over_root(one, Estimate(1.0, 1.0), 0.0) for one in (Estimate(1.0, 0.01), Estimate(0.0, 1.0)))
    assert far.high == np.inf and 0 < far.low < 1
    above = (1 + Q) ** 0.5 - 1
    assert near.low == exactly(-Q / (1 - above**2) ** 0.5) and near.high == np.inf
    for square in (Estimate(0.0, 1.0), Estimate(-1.0, 1.0)):
        nothing = over_root(Estimate(1.0, 0.1), square, 0.0)
        assert np.isnan(nothing.value) and (nothing.low, nothing.high) == (-np.inf, np.inf)
    sure = over_root(Estimate(3.0), Estimate(4.0), 0.0)
    assert (sure.value, sure.low, sure.high) == (1.5, 1.5, 1.5)


def test_means_over_runs_are_those_of_each_group():
    table = pd.DataFrame({"name": list("aabba"), "loss": [1.0, 2.0, 5.0, 9.0, 6.0], "run": range(5)})
    rows = over_runs(table, ["name"], ["loss"]).set_index("name")
    for name, values in (("a", [1.0, 2.0, 6.0]), ("b", [5.0, 9.0])):
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        row = rows.loc[name]
        assert (row.loss, row.loss_low, row.loss_high) == exactly(
            (np.mean(values), np.mean(values) - half, np.mean(values) + half)
        )
    assert np.isnan(mean_over([1.0]).half)


# --- traces ---------------------------------------------------------------------------------------------------------


def test_traces_of_few_directions_are_exact_and_the_others_are_sampled():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2, 90, 4))
    A, B = (factor @ factor.T for factor in factors)
    words = ["A", "B", "AB", "ABA", "BB"]
    of = traces({"A": aslinearoperator(A), "B": aslinearoperator(B)}, words, probes=60, seed=1)
    assert of.dim == 90
    for word, exact in zip(words, (A, B, A @ B, A @ B @ A, B @ B), strict=True):
        assert of[word].value == pytest.approx(np.trace(exact), rel=1e-9) and of[word].stderr < 1e-6 * of["AB"].value
    (samples,) = traces({"A": aslinearoperator(A)}, ["A"], probes=31).samples
    assert len(samples.one) == 31 - 10  # a third of the probes goes into the basis
    assert traces({"A": aslinearoperator(A)}, ["A"], probes=90)["A"].stderr == 0


def test_standard_errors_of_traces_are_the_spread_of_replicates():
    D, runs = 80, 300
    values = 0.5 + np.random.default_rng(0).random(D)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    A, B = (basis * values) @ basis.T, (basis[::-1] * values[::-1]) @ basis[::-1].T
    words, rows = ["A", "AB", "AAB"], []
    for seed in range(runs):
        of = traces({"A": aslinearoperator(A), "B": aslinearoperator(B)}, words, probes=24, seed=seed)
        rows.append([(of[word].value, of[word].stderr) for word in words])
    values, stderrs = np.moveaxis(np.array(rows), -1, 0)
    assert np.abs((stderrs**2).mean(0) / values.var(0) - 1).max() < 5 * (2 / runs) ** 0.5


@pytest.mark.slow
def test_standard_errors_of_sampled_traces_are_the_spread_of_replicates():
    """Both sides: normal draws in three dimensions, where projections on single draws are nearly all of the error."""
    rng, runs, N = np.random.default_rng(2), 300, 100
    spread = np.array([1.0, 0.7, 0.4])
    H = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]])
    rows = []
    for _ in range(runs):
        noise = torch.from_numpy(rng.standard_normal((N, 3)) * spread)
        of = sampled_traces(aslinearoperator(H), noise, probes=3)
        rows.append([(of[word].value, of[word].stderr) for word in of.words[3:]])
        assert of["S"].value == exactly(float(noise.square().sum(1).mean()))
    values, stderrs = np.moveaxis(np.array(rows), -1, 0)
    # half of what pairs of samples do beyond single ones stays in the variance
    assert np.abs((stderrs**2).mean(0) / values.var(0) - 1).max() < 5 * (2 / runs) ** 0.5 + 0.2
    S = np.diag(spread**2)
    for column, exact in zip(values.T, (S, S @ S, S @ S @ S, H @ S), strict=True):
        assert abs(column.mean() - np.trace(exact)) < 4 * column.std() / runs**0.5


def test_sampled_traces_are_means_over_different_draws():
    """All pairs and triples of five draws, counted."""
    draws = np.random.default_rng(9).standard_normal((5, 4))
    of = sampled_traces(aslinearoperator(np.eye(4)), torch.from_numpy(draws), probes=4)
    gram = draws @ draws.T
    pairs = [gram[i, j] ** 2 for i, j in permutations(range(5), 2)]
    triples = [gram[i, j] * gram[j, k] * gram[k, i] for i, j, k in permutations(range(5), 3)]
    assert (of["SS"].value, of["SSS"].value) == exactly((np.mean(pairs), np.mean(triples)))


def test_the_norm_of_a_sampled_covariance_has_the_error_of_a_square_root():
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 3)))
    norm, relative = sampled_covariance_error(noise, torch.zeros(3, dtype=torch.float64))
    of = sampled_traces(aslinearoperator(np.eye(3)), noise, probes=3)
    root = of.positive(lambda t: t["SS"] ** 0.5)
    assert (norm.value, norm.low, norm.high) == exactly((root.value, root.low, root.high))
    squared, fourth = float(of.values[of.words.index("SS")]), float(noise.square().sum(1).square().mean())
    assert relative == exactly(((fourth - squared) / 40 / squared) ** 0.5)


# --- alignment ------------------------------------------------------------------------------------------------------


def test_all_columns_of_an_alignment_equal_their_definitions():
    rng, D = np.random.default_rng(4), 12
    H, S, T = (part @ part.T for part in rng.standard_normal((3, D, D)))
    table = alignment(aslinearoperator(H), {"S": aslinearoperator(S), "T": aslinearoperator(T)}, probes=D)
    for matrix, row in zip((S, T), table.itertuples(), strict=True):
        moments = [tuple(np.trace(np.linalg.matrix_power(one, j)) for j in (1, 2, 3)) for one in (H, matrix)]
        null, size = haar_null(*moments, D), np.linalg.norm(H) * np.linalg.norm(matrix)
        inner = np.trace(H @ matrix)
        assert row.trace == pytest.approx(np.trace(matrix), rel=1e-10)
        assert row.cosine == pytest.approx(inner / size, rel=1e-10)
        assert row.ratio == pytest.approx(D * inner / np.trace(H) / np.trace(matrix), rel=1e-10)
        assert row.score == pytest.approx((inner - null.mean) / null.standard_deviation, rel=1e-8)
        assert row.share == pytest.approx(np.trace(matrix) / np.trace(S), rel=1e-10)
        assert row.part == pytest.approx(inner / np.linalg.norm(H) / np.linalg.norm(S), rel=1e-10)
        ends = (null.quantile(0.025) / size, null.quantile(0.975) / size, null.mean / size)
        assert (row.null_low, row.null_high, row.null_mean) == pytest.approx(ends, rel=1e-8)
    falling = 1 / np.arange(1.0, 31)
    pair = [aslinearoperator(np.diag(values)) for values in (falling, falling[::-1])]
    assert alignment(pair[0], {"same": pair[0], "turned": pair[1]}, probes=30).verdict.tolist() == [
        "aligned",
        "opposed",
    ]


def test_quantiles_of_the_null_are_those_of_its_laws():
    null = haar_null((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 5)  # the square of a coordinate of a unit vector: Beta(1/2, 2)
    mean, variance, skewness = (float(value) for value in stats.beta(0.5, 2).stats("mvs"))
    assert (null.mean, null.standard_deviation, null.skewness) == pytest.approx(
        (mean, variance**0.5, skewness), rel=1e-12
    )
    upper = stats.pearson3.ppf(0.975, skewness)
    assert null.standardised_quantile(0.975) == exactly(upper) and upper > Q
    assert null.standardised_quantile(0.025) == exactly(-Q)
    assert null.quantile(0.975) == exactly(mean + variance**0.5 * upper)


def test_the_overlap_has_the_null_of_two_projections():
    rng, D, k = np.random.default_rng(5), 40, 3
    bases = [np.linalg.qr(rng.standard_normal((D, D)))[0] for _ in range(2)]
    values = np.linspace(5, 1, D)
    first, second = ((basis * (j + values)) @ basis.T for j, basis in enumerate(bases))
    found = overlap(aslinearoperator(first), aslinearoperator(second), k)
    inner = bases[0][:, :k].T @ bases[1][:, :k]
    null = haar_null((k, k, k), (k, k, k), D)
    assert found["overlap"] == pytest.approx((inner**2).sum() / k, rel=1e-9)
    assert (found["overlap_null_mean"], found["overlap_null_high"]) == exactly((k / D, null.quantile(0.975) / k))
    assert found["largest_cosine"] == pytest.approx(np.linalg.svd(inner)[1][0], rel=1e-9)
    assert (found["top_hessian"], found["top_covariance"]) == pytest.approx((5, 6), rel=1e-9)


def test_residuals_of_eigenpairs_are_their_distances():
    A = np.diag(np.arange(100.0))
    A[0, 99] = A[99, 0] = 3.0
    pairs = leading_eigenpairs(aslinearoperator(A), 3, tol=1e-2)
    expected = np.linalg.norm(A @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    assert pairs.residuals == exactly(expected)


def test_sampled_alignment_is_that_of_its_traces():
    noise = torch.from_numpy(np.random.default_rng(6).standard_normal((60, 20)) / np.arange(1, 21))
    operator = aslinearoperator(np.diag(1 / np.arange(1.0, 21)))
    row, of = sampled_alignment(operator, noise, probes=20), sampled_traces(operator, noise, probes=20)
    cosine = of.derived(lambda t: t["HS"] / (t["HH"] * t["SS"]) ** 0.5)
    assert (row["cosine"], row["cosine_low"], row["cosine_high"]) == exactly((cosine.value, cosine.low, cosine.high))
    ratio = of.positive(lambda t: 20 * t["HS"] / (t["H"] * t["S"]))
    assert (row["ratio_low"], row["ratio_high"]) == exactly((ratio.low, ratio.high))
    trace = of.positive(lambda t: t["S"])
    assert (row["trace_low"], row["trace_high"]) == exactly((trace.low, trace.high))


# --- flatness, penalties, flows -------------------------------------------------------------------------------------


def test_effects_of_both_halves_have_students_intervals_over_the_starts():
    rng, runs = np.random.default_rng(7), 5
    logs = dict(
        zip(("gradient descent", "drift only", "noise only", "dropout"), rng.standard_normal((4, runs)), strict=True)
    )
    rows = [{"training": name, "run": run, "width": np.exp(y)} for name, ys in logs.items() for run, y in enumerate(ys)]
    found = factorial_effects(pd.DataFrame(rows), ["width"]).set_index("effect")
    none, drift, noise, both = logs.values()
    contrasts = {
        "drift": (drift - none + both - noise) / 2, "noise": (noise - none + both - drift) / 2,
        "interaction": both - drift - noise + none,
    }  # fmt: skip
    for effect, values in contrasts.items():
        half = stats.t.ppf(0.975, runs - 1) * values.std(ddof=1) / runs**0.5
        row = found.loc[effect]
        assert (row.change, row.change_low, row.change_high) == exactly(
            (values.mean(), values.mean() - half, values.mean() + half)
        )


def test_a_penalty_and_its_relative_error_share_one_sampling_error(monkeypatch):
    """P = Q + e with e known to a standard error s: (Q - P)/P = -e/(Q + e) has the slope Q/P^2 in e."""
    given = Estimate(-0.02, 0.003, 9)
    monkeypatch.setattr("smesolve.landscape.information_geometry.dropout_penalty_error", lambda *more: given)
    features, weights = torch.eye(3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    row = penalty_comparison(features, weights, {0.8: BernoulliMasks(0.8)}, "gaussian").iloc[0]
    whole = 0.25 / (2 * 3) * 3 * 2  # v/(2n) sum_ik x_ik^2 |W_k|^2
    half, P = stats.t.ppf(0.975, 9) * 0.003, whole - 0.02
    assert (row.fisher, row.penalty, row.relative_error) == exactly((whole, P, 0.02 / P))
    assert (row.penalty_low, row.penalty_high) == exactly((P - half, P + half))
    slope = whole / P**2 * half
    assert (row.relative_error_low, row.relative_error_high) == exactly((0.02 / P - slope, 0.02 / P + slope))


def test_the_geometry_of_the_manifold_has_the_intervals_of_its_parts():
    problem = make_problem(width=6, samples=12)
    theta = problem.initial()
    found = manifold_geometry(problem, theta, probes=12, directions=3, seed=2)
    of = traces({"F": fisher_operator(problem, theta)}, ["F", "FF"], 12, 2)
    dimension = of.derived(lambda t: t["F"] ** 2 / t["FF"])
    curvature = mean_over(normal_curvatures(problem, theta, 3, 2))
    for part, expected in ((found.trace, of["F"]), (found.dimension, dimension), (found.curvature, curvature)):
        assert (part.value, part.low, part.high) == exactly((expected.value, expected.low, expected.high))
    assert of["F"].stderr > 0


def test_flows_have_the_interval_of_the_dropout_mean(monkeypatch):
    problem = make_problem(width=2)
    theta0, stderr = problem.initial(), {0.2: 0.1, 0.1: 1e-4}
    rows = [
        {"order": order, "lr": lr, "time": time, "observable": "loss", "discrete": 1.0, "sde": 1.1, "error": 0.1}
        | {"stderr": 0.02, "low": 0.05, "high": 0.15, "resolved": True, "solver_bias": 0.0, "solver_bias_stderr": 0.0}
        | {"discrete_stderr": stderr[lr], "freedom": 30, "discrete_half_width": 2.5 * stderr[lr], "rounding": 1e-5}
        | {"half_width": 0.05, "solver_bias_half_width": 0.0, "tolerance": 0.0, "reason": ""}
        for lr in stderr
        for order in (1, 2)
        for time in (0.2, 0.4)
    ]
    study = WeakErrorStudy(pd.DataFrame(rows), {}, 0.4, pd.DataFrame)
    monkeypatch.setattr(
        "smesolve.experiments.landscape_sections.implicit_regularisation.weak_error", lambda *given, **more: study
    )
    found = regularisation_orders(problem, theta0, list(stderr), 0.4)
    assert len(found.table) == 2 * (2 + 4)
    for row in found.table.itertuples():
        if row.model.startswith("SME"):
            assert (row.value, row.error, row.low, row.high, row.stderr) == exactly((1.1, 0.1, 0.05, 0.15, 0.02))
            continue
        value = float(problem.loss(flow(problem, theta0, row.model, row.lr, 0.4)))
        half = 2.5 * stderr[row.lr] + 1e-5
        assert (row.value, row.dropout, row.error, row.stderr) == exactly((value, 1.0, value - 1, stderr[row.lr]))
        assert (row.low, row.high) == exactly((value - 1 - half, value - 1 + half))
        assert row.resolved == (abs(value - 1) > half)
    nominal = found.fits.set_index("model").nominal
    assert (nominal["flow of R_S"], nominal["flow of R_S + R_1"], nominal["SME order 1"], nominal["SME order 2"]) == (
        0,
        1,
        1,
        2,
    )


def test_exact_errors_of_flows_are_those_of_their_ends():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, x[:, :1], keep_prob=0.8)
    theta0 = problem.initial()
    table = exact_regularisation_orders(problem, theta0, [0.1, 0.2], 0.4, ["loss"])
    moments, errors = LinearMoments(problem, theta0), {}
    for row in table.itertuples():
        if row.model.startswith("SME"):
            expected = moments.error(row.lr, int(row.model[-1]), 0.4)
        else:
            end = flow(problem, theta0, row.model, row.lr, 0.4)
            expected = float(problem.loss(end)) - moments.iteration(row.lr, round(0.4 / row.lr))
        assert row.error == pytest.approx(expected, rel=1e-9)
        errors[row.model, row.lr] = expected
    for row in table[table.lr == 0.1].itertuples():
        assert row.slope == pytest.approx(np.log2(abs(errors[row.model, 0.2] / errors[row.model, 0.1])), rel=1e-9)
    assert table.slope[table.lr == 0.2].isna().all()
