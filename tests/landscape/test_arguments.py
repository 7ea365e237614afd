"""Arguments that come close to valid ones: numbers of numpy, arrays of other types and sizes, states of optimisers."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem
from scipy.sparse.linalg import aslinearoperator

import smesolve as sme
from smesolve import landscape as ls

PROBLEM = make_problem(width=3)
THETA = PROBLEM.initial()
STARTS = torch.stack([THETA, 2 * THETA])
HESSIAN = ls.hessian_operator(PROBLEM, THETA)
NOISE = ls.random_noise(PROBLEM, THETA, 8)
TRAINING = sme.Training(PROBLEM, torch.optim.Adam, 0.1)
VECTORS = np.random.default_rng(0).standard_normal((6, 3))
FEATURES = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
DIAGONAL = aslinearoperator(np.diag(np.arange(1.0, 10.0)))
TABLE = pd.DataFrame(
    [{"training": name, "run": run, "trace": 1.0 + run} for name in ls.ABLATIONS for run in range(3)],
)


def iterated(kind, lr, seed, runs):
    return ls.train(kind(PROBLEM, lr, seed, runs=runs), STARTS, [0, 2])


@pytest.mark.parametrize(
    ("function", "numbers", "types"),
    [
        (partial(ls.initial_points, PROBLEM), (2, 255), (np.uint8, np.uint8)),  # seeds 255 and 256
        (partial(ls.random_gradients, PROBLEM, THETA), (100, 3), (np.int8, np.uint8)),
        (partial(ls.random_trajectories, PROBLEM, STARTS), (0.1, 127, 3), (np.float32, np.int8, np.int64)),
        (partial(ls.train_by_adam, PROBLEM, STARTS, saved=[2]), (0.1,), (np.float32,)),
        (lambda seed: ls.train_by_adam(PROBLEM, STARTS, 0.1, [2], seed=seed), (3,), (np.int64,)),
        (partial(iterated, ls.AblatedIteration), (0.1, 3, 2), (np.float32, np.int64, np.uint8)),
        (partial(iterated, ls.PenalisedIteration), (0.1, 3, 2), (np.float32, np.int64, np.uint8)),
        (lambda count: ls.leading_eigenpairs(DIAGONAL, count).values, (2,), (np.uint8,)),
        (lambda count: ls.overlap(DIAGONAL, DIAGONAL, count).values(), (2,), (np.uint8,)),
        (lambda variance: [ls.fisher_penalty(FEATURES, FEATURES.mT, variance)], (0.1,), (np.float32,)),
        (lambda key: ls.penalty_comparison(FEATURES, FEATURES.mT, {key: sme.BernoulliMasks(0.8)}, draws=2).keep_prob,
         (0.8,), (np.float32,)),
        (lambda dim: vars(ls.haar_null([1, 2, 3], [1, 2, 3], dim)).values(), (100,), (np.int8,)),
        (lambda *first: vars(ls.haar_null(first, [1, 2, 3], 5)).values(), (90, 100, 120), (np.int8,) * 3),
        (lambda batch, label: vars(ls.NoiseScales(batch, label)).values(), (2, 0.1), (np.uint8, np.float32)),
    ],
)  # fmt: skip
def test_numbers_of_numpy_give_what_numbers_of_python_give(function, numbers, types):
    given = [kind(number) for kind, number in zip(types, numbers, strict=True)]
    assert np.array_equal(np.array([*function(*given)]), np.array([*function(*numbers)]))


@pytest.mark.parametrize("factor", [1e-300, 1e-200, 1e200])
def test_directions_do_not_depend_on_lengths(factor):
    wanted, found = ls.covering(VECTORS), ls.covering(factor * VECTORS)
    assert np.array_equal(found.groups, wanted.groups) and found.lower == wanted.lower
    assert np.allclose(ls.cosine_map(factor * VECTORS), ls.cosine_map(VECTORS), rtol=0, atol=1e-15)
    amplitudes = np.arange(1.0, 7.0)
    assert np.isclose(ls.participation(VECTORS, factor * amplitudes), ls.participation(VECTORS, amplitudes), rtol=1e-14)


def test_a_neuron_without_weights_has_no_orientation():
    weights, amplitudes = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([1.0, 1.0, 5.0])
    assert ls.participation(weights, amplitudes) == 2
    assert np.isnan(ls.participation(0 * weights, amplitudes))
    assert ls.covering(weights).groups[2] == 0 and not ls.cosine_map(weights)[2].any()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.float16, np.longdouble])
def test_arrays_of_other_types_are_computed_in_double_precision(kind):
    weights = np.array([[100, 100], [100, 0], [3, 4]])
    given, amplitudes = weights.astype(kind), np.array([100, 90, 80])
    assert np.array_equal(ls.cosine_map(given), ls.cosine_map(weights.astype(float)))
    assert ls.participation(given, amplitudes.astype(kind)) == ls.participation(weights.astype(float), amplitudes)
    assert ls.covering(given).upper == ls.covering(weights.astype(float)).upper
    angles = ls.principal_angles(given.T[:, :1], given.T[:, 1:2])
    assert angles.dtype == np.float64 and np.allclose(angles, np.pi / 4, rtol=0, atol=1e-15)


def test_moments_of_small_noise_have_the_intervals_of_large_noise():
    wanted, found = (ls.sampled_alignment(HESSIAN, size * NOISE, 9) for size in (1.0, 2.0**-120))
    assert found["trace"] == pytest.approx(wanted["trace"] * 2.0**-240)
    for name in ("cosine_low", "cosine_high", "ratio_low", "score_high", "null_high"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-9)


def test_a_large_operator_of_zero_has_eigenvalues_of_zero():
    pairs = ls.leading_eigenpairs(aslinearoperator(np.zeros((100, 100))), 3)
    assert not pairs.values.any() and not pairs.residuals.any()
    assert np.array_equal(pairs.vectors.T @ pairs.vectors, np.eye(3))


def ratio(theta):
    return theta.square().sum(-1) + 1.0


def flatness_of(loss, directions=None):
    return ls.interval_flatness(loss, THETA, THETA[None] / THETA.norm() if directions is None else directions)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ls.covering(np.ma.masked_array(VECTORS, VECTORS > 1)), "weights .* without a mask"),
        (lambda: ls.mean_over([1.0, 1j]), r"values\[1\] must be a real number"),
        (lambda: ls.mean_over([1.0, np.complex128(1j)]), r"values\[1\] must be a real number"),
        (lambda: ls.mean_over([1.0, 10**400]), r"values\[1\] must be a real number"),
        (lambda: ls.mean_over([1.0, True]), r"values\[1\] must be a real number"),
        (lambda: ls.mean_over([1.0, np.timedelta64(1, "s")]), r"values\[1\] must be a real number"),
        (lambda: ls.haar_null([1, 2, 3], [1, 2, 3], 5).quantile(2), r"probability must lie in \(0, 1\), got 2"),
        (lambda: ls.factorial_effects(TABLE.assign(trace="a"), ["trace"]), "numbers in the column 'trace'"),
        (lambda: ls.factorial_effects(TABLE.assign(trace=1j), ["trace"]), "numbers in the column 'trace'"),
        (lambda: ls.factorial_effects(TABLE, ["trace", "trace"]), "measures holds a value twice"),
        (lambda: ls.factorial_effects(TABLE, ["run"]), r"measures\[0\] must be a measure, got 'run'"),
        (
            lambda: ls.factorial_effects(pd.concat([TABLE, TABLE[["trace"]]], axis=1), ["trace"]),
            "one column 'trace', for",
        ),
        (lambda: ls.trace(aslinearoperator(1j * np.eye(9))), "operator must be a LinearOperator of real numbers"),
        (lambda: HESSIAN @ (1j * np.ones(len(THETA))), "must be real numbers"),
        (lambda: HESSIAN @ np.full(len(THETA), "a"), "must be real numbers"),
        (lambda: ls.leading_eigenpairs(aslinearoperator(np.eye(9) * np.nan), 2), "operator has products that are NaN"),
        (lambda: ls.leading_eigenpairs(aslinearoperator(np.eye(99) * np.nan), 2), "operator has products that are NaN"),
        (lambda: ls.overlap(*[aslinearoperator(np.eye(2))] * 2, 1), "hessian must have at least 3 dimensions"),
        (lambda: ls.sampled_alignment(HESSIAN, NOISE * 1e80), "noise must have a largest entry from 1e-40"),
        (lambda: ls.sampled_alignment(HESSIAN, NOISE * 1e-80), "noise must have a largest entry from 1e-40"),
        (lambda: ls.penalty_comparison(FEATURES, FEATURES.mT, {0.8: "x"}), r"laws\[0\.8\] must be a MaskLaw"),
        (lambda: ls.covariance_trace(TRAINING, TRAINING.initial()), "problem must have the gradient of a loss"),
        (lambda: ls.second_penalty(TRAINING, TRAINING.initial(), 0.1), "problem must have the gradient of a loss"),
        (lambda: ls.flow(TRAINING, TRAINING.initial(), "flow of R_S", 0.1, 1.0), "must have the gradient of a loss"),
        (lambda: ls.filter_normalised_directions(TRAINING, TRAINING.initial(), 2), "must have the gradient of a loss"),
        (lambda: flatness_of(ratio, STARTS), r"directions must have length 1, got"),
        (lambda: flatness_of(ratio, 0 * STARTS), r"directions must have length 1, got 0\.0"),
        (lambda: flatness_of(lambda theta: 1 / 0), r"loss must work on what it is given here.*ZeroDivisionError"),
        (lambda: flatness_of(lambda theta: 1.0), r"loss must return a tensor \(2,\) for parameters \(2, D\), got 1\.0"),
        (lambda: flatness_of(lambda theta: ratio(theta).sum()), r"loss must return a tensor \(2,\)"),
        (lambda: flatness_of(lambda theta: ratio(theta) / 0), "loss must be positive and finite at theta, got inf"),
        (lambda: ls.train("process", STARTS, [1]), "process must be a process, such as an AblatedIteration"),
        (lambda: ls.train(ls.AblatedIteration, STARTS, [1]), "process must be a process, such as an AblatedIteration"),
        (lambda: ls.AblatedIteration("problem", 0.1), "problem must be a Problem"),
        (lambda: ls.initial_points(PROBLEM, 2**50), "count=.* would take .* bytes"),
        (lambda: ls.random_noise(PROBLEM, THETA, 2**50), "draws=.* would take .* bytes"),
        (lambda: ls.random_gradients(PROBLEM, THETA, 2**50), "draws=.* would take .* bytes"),
        (lambda: ls.random_trajectories(PROBLEM, STARTS, 0.1, 2**50), "steps must be at most"),
        (lambda: ls.filter_normalised_directions(PROBLEM, THETA, 2**50), "count=.* would take .* bytes"),
        (lambda: ls.checkpoints(10, 2**40), "count must be at most 1000"),
    ],
)
def test_what_cannot_be_used_is_refused_by_one_sentence(call, words):
    with pytest.raises(sme.SmesolveError, match=words):
        call()
