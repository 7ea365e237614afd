"""Other noises on the same loss: their covariances against definitions, and what is known by draws alone."""

import numpy as np
import pytest
import torch
from landscape_checks import dense
from problems import make_problem
from scipy.stats import binom

import smesolve as sme
from smesolve.experiments import noise_alignment
from smesolve.landscape import (
    NOISES,
    NoiseScales,
    covariance_operator,
    gauss_newton_operator,
    hessian_operator,
    initial_points,
    noisy_problem,
    random_noise,
    sampled_alignment,
    sampled_traces,
)

SCALES = NoiseScales(batch_size=2, label_noise=0.3, parameter_noise=0.01)


@pytest.mark.parametrize("name", NOISES)
def test_all_noises_have_one_loss(name):
    problem = make_problem(width=3, out_features=2, bias=True)
    noisy = noisy_problem(problem, name, SCALES)
    theta = initial_points(problem, 2)
    assert torch.allclose(noisy.loss(theta), problem.loss(theta), rtol=1e-12)


def test_covariances_of_label_noise_and_mini_batches():
    problem = make_problem(width=3, out_features=2, samples=6)
    theta, n = problem.initial(), problem.samples
    label = dense(covariance_operator(noisy_problem(problem, "label noise", SCALES), theta))
    gauss_newton = dense(gauss_newton_operator(problem, theta, modified=False))
    assert np.abs(label - 0.3**2 / n * gauss_newton).max() < 1e-14
    batches = dense(covariance_operator(noisy_problem(problem, "mini-batch", SCALES), theta))
    parts = [sme.DropoutProblem(problem.network, problem.x[[i]], problem.y[[i]], keep_prob=1.0) for i in range(n)]
    single = torch.stack([part.mean_gradient(theta) for part in parts])
    # Without replacement: Cov / b times (n - b)/(n - 1).
    expected = np.cov(single.numpy().T, bias=True) / 2 * (n - 2) / (n - 1)
    assert np.abs(batches - expected).max() < 1e-14
    sampled = noisy_problem(problem, "parameter noise", SCALES)
    with pytest.raises(ValueError, match="noise product that is linear in its normals"):
        covariance_operator(sampled, theta)
    # Noise on the parameters has covariance s^2 H^2 to leading order.
    noise = random_noise(sampled, theta, 4000)
    H = torch.func.hessian(problem.loss)(theta)
    expected, products = 0.01**2 * H @ H, noise[:, :, None] * noise[:, None, :]
    error = (products.mean(0) - expected).abs()
    assert (error < 5 * products.std(0) / 4000**0.5 + 1e-3 * expected.abs().max()).all()
    with pytest.raises(ValueError, match="name must be one of 'dropout', 'mini-batch'"):
        noisy_problem(problem, "salt")
    linear = sme.DropoutProblem(sme.LinearNetwork(2), problem.x, problem.y[:, :1], keep_prob=0.8)
    with pytest.raises(ValueError, match="problem must have a TwoLayerNetwork"):
        noisy_problem(linear, "mini-batch")
    gaussian = sme.DropoutProblem(problem.network, problem.x, problem.y, law=sme.GaussianMasks(0.2))
    with pytest.raises(ValueError, match=r"problem must have the masks of torch.nn.Dropout"):
        noisy_problem(gaussian, "dropout and mini-batch", SCALES)


def test_sampled_traces_are_unbiased_and_cover():
    problem = make_problem(width=3, samples=6)
    theta = problem.initial()
    hessian = hessian_operator(problem, theta)
    H, S = dense(hessian), problem.covariance(theta).numpy()
    exact = {"S": S, "SS": S @ S, "SSS": S @ S @ S, "HS": H @ S, "HHH": H @ H @ H}
    exact = {word: np.trace(matrix) for word, matrix in exact.items()}
    runs, hits, values = 300, dict.fromkeys(exact, 0), {word: [] for word in exact}
    for seed in range(runs):
        noise = random_noise(problem, theta, 300, seed)
        of = sampled_traces(hessian, noise, probes=problem.dim)
        for word, value in exact.items():
            hits[word] += of[word].low - 1e-12 <= value <= of[word].high + 1e-12
            values[word].append(of[word].value)
    for word, value in exact.items():
        mean, spread = np.mean(values[word]), np.std(values[word]) / runs**0.5
        assert abs(mean - value) < 4 * spread + 1e-12, word
        assert binom.cdf(hits[word], runs, 0.95) > 0.0005, (word, hits[word])
    row = sampled_alignment(hessian, noise, probes=problem.dim)
    cosine = exact["HS"] / np.linalg.norm(H) / np.linalg.norm(S)
    assert row["cosine_low"] < cosine < row["cosine_high"]
    with pytest.raises(ValueError, match="noise must hold at least 5 draws, got 3"):
        sampled_traces(hessian, noise[:3])


def test_noise_alignment_is_tidy():
    problem = make_problem(width=3, samples=6)
    problems = {name: noisy_problem(problem, name, SCALES) for name in ("dropout", "label noise", "parameter noise")}
    table = noise_alignment(problems, initial_points(problem, 2), 0.05, [0, 4], draws=16, probes=problem.dim)
    assert len(table) == 3 * 2 * 2 * 2
    at_start = table[table.step == 0].pivot(index=["noise", "run"], columns="points", values="loss")
    assert np.allclose(at_start.own, at_start.common)
    common = table[table.points == "common"].pivot(index=["run", "step"], columns="noise", values="loss")
    assert np.allclose(common["label noise"], common["dropout"])
