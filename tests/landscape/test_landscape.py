"""Operators, traces and spectra against dense matrices; the null model against sampled rotations."""

import numpy as np
import pytest
import torch
from landscape_checks import covers_as_stated, dense, jacobians, near, plain_outputs
from problems import ThreeValuedMasks, make_problem
from scipy.linalg import subspace_angles
from scipy.sparse.linalg import aslinearoperator
from scipy.stats import binom, ortho_group

import smesolve as sme
from smesolve.experiments import alignment_along
from smesolve.landscape import (
    alignment,
    batch_of_one_operator,
    covariance_operator,
    fisher_operator,
    frobenius_norm,
    gauss_newton_operator,
    gradient_term_operator,
    haar_null,
    hessian_operator,
    leading_eigenpairs,
    loss_hessian_operator,
    pair_term_operator,
    principal_angles,
    sampled_covariance_error,
    sampled_covariance_operator,
    trace,
    traces,
)


@pytest.fixture(params=[{}, {"bias": True}, {"depth": 2}], ids=["plain", "bias", "deep"])
def problem(request):
    return make_problem(width=3, out_features=2, **request.param)


def test_hessian_and_covariance_equal_their_dense_matrices(problem):
    theta = problem.initial()
    assert near(hessian_operator(problem, theta), torch.func.hessian(problem.modified_loss)(theta))
    assert near(loss_hessian_operator(problem, theta), torch.func.hessian(problem.loss)(theta))
    assert near(covariance_operator(problem, theta), problem.covariance(theta))


@pytest.mark.parametrize(
    ("make", "arrays"),
    [
        (hessian_operator, 1),
        (loss_hessian_operator, 2),
        (gauss_newton_operator, 3),
        (fisher_operator, 3),
        (batch_of_one_operator, 3),
    ],
)
def test_rows_are_multiplied_in_blocks_of_what_a_product_holds(problem, make, arrays, monkeypatch):
    """One array of what a path takes in a Hessian product, two in one by torch alone, three of a linearised network."""
    theta = problem.initial()
    whole = dense(make(problem, theta))
    held = rows_of_two(monkeypatch)
    assert near(make(problem, theta), whole)
    assert held == [arrays * problem.floats_per_path]


def rows_of_two(monkeypatch):
    """The sizes that operators state from now on; whatever they are, blocks have two rows."""
    held = []
    monkeypatch.setattr("smesolve.landscape.operators.fitting_block_size", lambda numbers: held.append(numbers) or 2)
    return held


@pytest.mark.parametrize("make", [covariance_operator, gradient_term_operator, pair_term_operator])
def test_products_with_a_factor_hold_its_normals_as_well(problem, make, monkeypatch):
    held, theta = rows_of_two(monkeypatch), problem.initial()
    make(problem, theta)
    assert held == [3 * (problem.floats_per_path + problem.noise_dim)]


def test_products_with_sampled_gradients_hold_one_number_a_gradient(monkeypatch):
    held = rows_of_two(monkeypatch)
    gradients = torch.arange(15, dtype=torch.float64).reshape(5, 3).square()
    mean = gradients.mean(0)
    assert near(sampled_covariance_operator(gradients, mean), (gradients - mean).mT @ (gradients - mean) / 5)
    assert held == [5]


def test_operators_of_the_linearised_network_equal_their_definitions(problem):
    theta = problem.initial()
    (J, Z), outputs = jacobians(problem, theta), plain_outputs(problem)(theta)
    n, v = problem.samples, problem.law.variance
    plain = torch.einsum("iop,ioq->pq", J, J) / n
    assert near(gauss_newton_operator(problem, theta, modified=False), plain)
    assert near(fisher_operator(problem, theta), plain)
    assert near(gauss_newton_operator(problem, theta), plain + v * torch.einsum("irop,iroq->pq", Z, Z) / n)
    p = outputs.softmax(-1)
    information = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    assert near(fisher_operator(problem, theta, "categorical"), torch.einsum("iop,iou,iuq->pq", J, information, J) / n)
    error, z = outputs - problem.y, problem.contributions(theta)
    spread = torch.einsum("io,iu->iou", error, error) + v * torch.einsum("iro,iru->iou", z, z)
    along = torch.einsum("io,irop->irp", error, Z)
    expected = torch.einsum("iop,iou,iuq->pq", J, spread, J) + v * torch.einsum("irp,irq->pq", along, along)
    assert near(batch_of_one_operator(problem, theta), expected / n)
    with pytest.raises(ValueError, match="likelihood must be one of 'gaussian', 'categorical'"):
        fisher_operator(problem, theta, "poisson")


def test_gauss_newton_is_the_hessian_at_zero_residual():
    problem = make_problem(width=3, activation="identity", keep_prob=1.0)
    theta = problem.initial()
    outputs = problem.contributions(theta).sum(-2)
    exact = sme.DropoutProblem(problem.network, problem.x, outputs, keep_prob=1.0)
    assert near(gauss_newton_operator(exact, theta), torch.func.hessian(exact.loss)(theta))


def test_terms_of_the_covariance():
    problem = make_problem(width=4, out_features=2, samples=6)
    theta = problem.initial()
    v, m = problem.law.variance, problem.width
    mean = problem.mean_gradient(theta)
    # Neuron of each parameter: hidden.weight (m, d) row by row, readout.weight (o, m) column by column.
    neuron = torch.cat([torch.arange(m).repeat_interleave(2), torch.arange(m).repeat(2)])
    blocks = torch.stack([mean * (neuron == k) for k in range(m)])
    assert near(gradient_term_operator(problem, theta), v * blocks.mT @ blocks)
    columns = problem.noise_product(theta, torch.eye(problem.noise_dim, dtype=torch.float64)[:m])
    cross = columns / v**0.5 - blocks
    mixed = v * (blocks.mT @ cross + cross.mT @ blocks)
    assert abs(mixed.trace()) < 1e-12
    rest = problem.covariance(theta) - v * blocks.mT @ blocks - mixed
    assert near(pair_term_operator(problem, theta), rest)
    other = make_problem(width=4, law=ThreeValuedMasks())
    with pytest.raises(ValueError, match="problem must have the masks of dropout"):
        gradient_term_operator(other, other.initial())
    for nonlinear in (problem.with_weak_noise(), make_problem(width=4, masks="per_sample")):
        for make in (gradient_term_operator, pair_term_operator, covariance_operator):
            with pytest.raises(ValueError, match="problem must have a noise product that is linear"):
                make(nonlinear, nonlinear.initial())


def test_sampled_covariance_and_its_error():
    problem = make_problem(width=3)
    theta = problem.initial()
    Sigma, mean = problem.covariance(theta).numpy(), problem.mean_gradient(theta)
    runs, N, hits, errors, stated = 200, 400, 0, [], []
    for seed in range(runs):
        masks = problem.law.sample((N, 3), np.random.default_rng(seed))
        gradients = problem.gradient(theta, masks)
        norm, relative = sampled_covariance_error(gradients, mean)
        hits += norm.low <= np.linalg.norm(Sigma) <= norm.high
        stated.append(relative)
        operator = sampled_covariance_operator(gradients, mean)
        errors.append(np.linalg.norm(dense(operator) - Sigma) ** 2 / np.linalg.norm(Sigma) ** 2)
    assert covers_as_stated(hits, runs)
    assert abs(np.mean(errors) ** 0.5 / np.mean(stated) - 1) < 0.15
    centred = gradients - mean
    assert near(operator, centred.mT @ centred / N)


def test_traces_cover_the_dense_values():
    """Spectra with fast and slow decay, as Hessians have them: one interval in twenty may miss."""
    rng = np.random.default_rng(0)
    D, runs = 150, 200
    bases = [np.linalg.qr(rng.standard_normal((D, D)))[0] for _ in range(2)]
    spectra = (1 / np.arange(1, D + 1), np.concatenate([np.linspace(5, 1, 20), 0.05 * rng.standard_normal(D - 20)]))
    H, S = ((basis * values) @ basis.T for basis, values in zip(bases, spectra, strict=True))
    words = {"H": H, "S": S, "HS": H @ S, "HH": H @ H, "SSS": S @ S @ S}
    exact = {word: np.trace(matrix) for word, matrix in words.items()}
    ratio = exact["HS"] / (exact["H"] * exact["S"])
    hits = dict.fromkeys([*words, "ratio"], 0)
    for seed in range(runs):
        of = traces({"H": aslinearoperator(H), "S": aslinearoperator(S)}, list(words), probes=60, seed=seed)
        for word in words:
            hits[word] += of[word].low <= exact[word] <= of[word].high
        estimate = of.derived(lambda t: t["HS"] / (t["H"] * t["S"]))
        hits["ratio"] += estimate.low <= ratio <= estimate.high
    assert all(covers_as_stated(count, runs) for count in hits.values()), hits


def test_traces_are_exact_once_the_probes_span_the_space():
    rng = np.random.default_rng(1)
    A = rng.standard_normal((20, 20))
    A = A + A.T
    operator = aslinearoperator(A)
    assert abs(trace(operator, probes=20).value - np.trace(A)) < 1e-12 and trace(operator, probes=20).half == 0
    assert abs(frobenius_norm(operator, probes=20).value - np.linalg.norm(A)) < 1e-12
    of = traces({"A": operator}, ["AAA"], probes=20)
    assert abs(of["AAA"].value - np.trace(A @ A @ A)) < 1e-9
    with pytest.raises(ValueError, match="probes must be an integer of at least 12, got 5"):
        trace(operator, probes=5)


def test_leading_eigenpairs_and_principal_angles():
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    values = np.concatenate([[9.0, 7.0, 4.0], rng.uniform(-2, 1, 197)])
    A = (basis * values) @ basis.T
    pairs = leading_eigenpairs(aslinearoperator(A), 3)
    assert np.allclose(pairs.values, [9, 7, 4], rtol=1e-6) and (pairs.residuals < 1e-4).all()
    assert np.allclose(np.cos(principal_angles(pairs.vectors, basis[:, :3])), 1, atol=1e-9)
    other = np.linalg.qr(rng.standard_normal((200, 5)))[0]
    angles = principal_angles(basis[:, :3], other)
    assert np.allclose(angles, np.sort(subspace_angles(basis[:, :3], other)))
    with pytest.raises(ValueError, match="count must be at most 199, got 200"):
        leading_eigenpairs(aslinearoperator(A), 200)


SPECTRA = {
    "one dominates": (np.r_[1.0, np.zeros(29)], np.r_[1.0, 0.05 * np.ones(29)]),
    "power laws": (1 / np.arange(1, 31) ** 1.5, 1 / np.arange(1, 31)),
    "flat": (np.linspace(-1, 2, 30), np.linspace(0, 1, 30)),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_haar_null_against_sampled_rotations(name):
    """Mean, variance and third moment within five standard errors; quantiles with the stated tail probabilities."""
    first, second = SPECTRA[name]
    draws = 20_000
    rotations = ortho_group(30, seed=3).rvs(draws)
    values = np.einsum("i,kij,j->k", first, rotations**2, second)
    null = haar_null(*(tuple((part**j).sum() for j in (1, 2, 3)) for part in (first, second)), 30)
    for sample, expected in (
        (values, null.mean),
        ((values - null.mean) ** 2, null.standard_deviation**2),
        ((values - null.mean) ** 3, null.skewness * null.standard_deviation**3),
    ):
        assert abs(sample.mean() - expected) < 5 * sample.std() / draws**0.5
    # Close to the stated 2.5% in the heavy tail, at most that in the light one.
    assert 0.018 < (values > null.quantile(0.975)).mean() < 0.032
    assert (values < null.quantile(0.025)).mean() < 0.03


def test_haar_null_by_zonal_polynomials():
    """E X^2 by James' formula, sum over partitions of C(A) C(B) / C(I), an independent derivation."""
    a, b, D = np.array([1.0, 0.5, -0.2, 0.1]), np.array([2.0, 0.3, 0.3, 0.0]), 4

    def zonal(values):
        t1, t2 = values.sum(), (values**2).sum()
        return np.array([(t1**2 + 2 * t2) / 3, 2 * (t1**2 - t2) / 3])

    second = (zonal(a) * zonal(b) / zonal(np.ones(D))).sum()
    null = haar_null(*(tuple((part**j).sum() for j in (1, 2, 3)) for part in (a, b)), D)
    assert abs(null.standard_deviation**2 + null.mean**2 - second) < 1e-12
    with pytest.raises(ValueError, match="dim must be an integer of at least 3"):
        haar_null((1, 1, 1), (1, 1, 1), 2)


def test_alignment_with_any_number_of_covariances():
    operator = aslinearoperator(np.diag(1 / np.arange(1.0, 61)))
    many = {f"covariance {k}": operator for k in range(13)}
    table = alignment(operator, many, probes=60)
    assert list(table.covariance) == list(many) and np.allclose(table.cosine, 1)
    with pytest.raises(ValueError, match="probes must be an integer of at least 18, got 13"):
        alignment(operator, many, probes=13)


def test_verdict_of_random_eigenvectors_is_rarely_an_alignment():
    """The false-alarm rate of the verdict under the null: at most the two tails of 2.5%."""
    rng = np.random.default_rng(5)
    D, runs = 40, 300
    values = 1 / np.arange(1, D + 1)
    rotations = ortho_group(D, seed=6).rvs(runs)
    alarms = 0
    for rotation in rotations:
        turned = (rotation * values) @ rotation.T
        table = alignment(
            aslinearoperator(np.diag(values)), {"S": aslinearoperator(turned)}, probes=30, seed=int(rng.integers(1e9))
        )
        alarms += table.verdict[0] != "unresolved"
    assert binom.sf(alarms - 1, runs, 0.05) > 0.001, alarms


def test_alignment_along_training():
    problem = make_problem(width=4, out_features=2, samples=6)
    states = sme.iterate(problem, problem.initial(), lr=0.1, steps=20, paths=2, save=[0, 20])
    table = alignment_along(problem, states, [0, 20], eigenpairs=2).table
    assert len(table) == 2 * 2 * 4
    whole = table[table.covariance == "full batch"].iloc[-1]
    H = torch.func.hessian(problem.modified_loss)(states[1, 1]).numpy()
    S = problem.covariance(states[1, 1]).numpy()
    assert abs(whole.cosine - (H * S).sum() / np.linalg.norm(H) / np.linalg.norm(S)) < 1e-10
    terms = table[(table.step == 20) & (table.run == 1)].set_index("covariance")
    assert abs(terms.share["gradient term"] + terms.share["pair term"] - 1) < 1e-10
    leading = [np.linalg.eigh(matrix)[1][:, -2:] for matrix in (H, S)]
    assert abs(whole.overlap - ((leading[0].T @ leading[1]) ** 2).sum() / 2) < 1e-10
