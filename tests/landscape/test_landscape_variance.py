"""Training in halves, and the variance principle on data whose relations are known."""

import numpy as np
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.experiments import variance_principle
from smesolve.landscape import (
    AblatedIteration,
    initial_points,
    interval_flatness,
    principal_directions,
    random_gradients,
    random_trajectories,
    train,
)


class AllMasks(AblatedIteration):
    """A block holds every mask once."""

    @property
    def block_size(self):
        return int(self.problem.draw_count)

    def _draw(self, problem, block, step):
        return problem.all_draws()[0]


@pytest.mark.parametrize("ablation", ["gradient descent", "drift only", "noise only", "dropout"])
def test_halves_have_the_drift_and_the_noise_of_their_name(ablation):
    problem = make_problem(width=4, out_features=2)
    theta, lr = problem.initial(), 0.1
    weights = problem.all_draws()[1]
    process = AllMasks(problem, lr, ablation=ablation)
    step = (process.advance(theta.expand(len(weights), -1), 0, 0) - theta) / -lr
    drift, noise = ablation in ("drift only", "dropout"), ablation in ("noise only", "dropout")
    mean = weights @ step
    expected = problem.mean_gradient(theta) if drift else torch.func.grad(problem.loss)(theta)
    assert (mean - expected).abs().max() < 1e-12
    covariance = (step - mean).mT @ (weights[:, None] * (step - mean))
    assert (covariance - noise * problem.covariance(theta)).abs().max() < 1e-12


def test_train_is_iterate_from_many_starts():
    problem = make_problem()
    theta = problem.initial(3)
    paths = sme.iterate(problem, theta, 0.1, steps=5, paths=3, seed=2, save=[0, 2, 5])
    assert torch.equal(train(AblatedIteration(problem, 0.1, 2), theta.expand(3, -1), [0, 2, 5]), paths)
    starts = initial_points(problem, 2, seed=3, scale=0.5)
    assert torch.equal(starts[0], 0.5 * theta) and torch.equal(starts[1], 0.5 * problem.initial(4))
    with pytest.raises(ValueError, match="lr is too large: 3 of 3 runs diverged in 400 steps; lower it"):
        train(AblatedIteration(problem, 100.0), theta.expand(3, -1), [400])


def test_interval_flatness_of_a_parabola_and_of_a_lopsided_well():
    curvatures = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    directions = torch.eye(3, dtype=torch.float64)

    def bowl(theta):
        return 0.5 + 0.5 * (curvatures * theta**2).sum(-1)

    for factor in (1.5, 2.0, 4.0):
        widths = interval_flatness(bowl, torch.zeros(3, dtype=torch.float64), directions, factor)
        assert np.allclose(widths, 2 * np.sqrt(2 * 0.5 * (factor - 1) / curvatures.numpy()), rtol=1e-9)

    def lopsided(theta):
        return torch.where(theta[..., 0] > 0, 1 + theta[..., 0], 1 - theta[..., 0] / 3)

    line = torch.zeros(1, dtype=torch.float64)
    assert np.allclose(interval_flatness(lopsided, line, torch.ones(1, 1, dtype=torch.float64)), 4)
    assert np.isnan(interval_flatness(lambda t: torch.ones_like(t[..., 0]), line, directions[:1, :1])).all()
    with pytest.raises(ValueError, match="factor must be a number above 1, got 1"):
        interval_flatness(bowl, line, directions[:, :1], 1.0)
    for least in (0.0, -1.0):
        with pytest.raises(ValueError, match="loss must be positive and finite at theta, got"):
            interval_flatness(lambda t, least=least: least + t.square().sum(-1), line, torch.ones(1, 1).double())


def test_principal_directions_diagonalise_the_sample_covariance():
    data = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances, directions = principal_directions(data, 4)
    values, vectors = np.linalg.eigh(np.cov(data.numpy().T))
    assert np.allclose(variances, values[::-1][:4])
    assert np.allclose(np.abs(directions.numpy() @ vectors[:, ::-1][:, :4]), np.eye(4), atol=1e-9)


def test_principal_directions_of_data_of_low_rank():
    """Three directions are all that there is, far from the origin as well."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    data = 100 + flat @ torch.randn(3, 10, generator=generator, dtype=torch.float64)
    variances, directions = principal_directions(data, 6)
    assert np.allclose(variances, np.linalg.eigvalsh(np.cov(data.numpy().T))[::-1][:3])
    assert torch.allclose(directions @ directions.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    with pytest.raises(ValueError, match="data must vary, got 4 points that are equal up to rounding"):
        principal_directions(data[:1].expand(4, -1), 2)


def test_zero_eigenvalues_are_not_points_of_a_power_law():
    """Linear regression on four samples: Hess R_S has rank 4, its other eigenvalues are rounding of either sign."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, columns, generator=generator, dtype=torch.float64) for columns in (9, 1))
    problem = sme.DropoutProblem(sme.LinearNetwork(9), x, y, keep_prob=0.8)
    study = variance_principle(problem, problem.initial()[None], lr=0.01, draws=40, directions=8, factors=[2.0])
    projections = study.points.query("relation == 'projection' and data == 'random gradients'")
    assert np.allclose(projections.x[:4], np.linalg.eigvalsh(x.mT @ x / 4)[::-1][:4])
    assert projections.x[4:].isna().all()
    assert (study.table.query("relation == 'projection'").points == 4).all()


def test_random_gradients_have_the_problem_s_mean_and_covariance():
    problem = make_problem(width=3)
    theta = problem.initial()
    gradients = random_gradients(problem, theta, 4000, seed=1)
    centred = gradients - problem.mean_gradient(theta)
    assert (centred.mean(0).abs() < 5 * centred.std(0) / 4000**0.5).all()
    products = centred[:, :, None] * centred[:, None, :]
    error = products.mean(0) - problem.covariance(theta)
    assert (error.abs() <= 5 * products.std(0) / 4000**0.5).all()


def test_variance_principle_is_tidy_and_consistent():
    problem = make_problem(width=4, out_features=2, samples=6)
    starts = train(AblatedIteration(problem, 0.1), initial_points(problem, 2), [50])[-1]
    study = variance_principle(problem, starts, lr=0.1, draws=60, directions=5, factors=[2.0, 4.0], seed=7)
    assert len(study.points) == 2 * 2 * 3 * 5 and len(study.table) == 2 * 2 * 3
    projected = study.points.query("run == 1 and data == 'random gradients' and relation == 'projection'")
    H = torch.func.hessian(problem.loss)(starts[1])
    values, vectors = torch.linalg.eigh(H)
    assert np.allclose(projected.x, values.flip(0)[:5], rtol=1e-6, atol=1e-9)
    data = random_gradients(problem, starts[1], 60, seed=8)
    assert np.isclose(projected.y.iloc[0], (data @ vectors[:, -1]).var(), rtol=1e-6)
    last = random_trajectories(problem, starts, 0.1, 60, seed=7)[-1, 1]
    flat = study.points.query("run == 1 and data == 'random trajectory' and factor == 2")
    _, directions = principal_directions(random_trajectories(problem, starts, 0.1, 60, seed=7)[:, 1], 5)
    assert np.allclose(flat.y, interval_flatness(problem.loss, last, directions, 2.0), equal_nan=True)
    with pytest.raises(ValueError, match="draws must exceed directions = 5, got 5"):
        variance_principle(problem, starts, lr=0.1, draws=5, directions=5)
    with pytest.raises(ValueError, match="loss must be one of 'loss', 'modified_loss', got 'R_S'"):
        variance_principle(problem, starts, lr=0.1, loss="R_S")
