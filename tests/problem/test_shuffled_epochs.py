"""Shuffled epochs: the step agrees with torch's DataLoader, mean and equation with the enumeration of all orders."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import smesolve as sme
from smesolve.errors import SmesolveError
from smesolve.problem.step_expansion import taylor_terms


def data(samples, inputs=2, outputs=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randn(samples, outputs, generator=generator, dtype=torch.float64)


def small_network(drop=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(drop), nn.Linear(3, 1)).double()


def shuffled(samples=4, batch_size=1, drop=0.0, **more):
    return sme.ShuffledEpochs(small_network(drop), *data(samples), batch_size=batch_size, **more)


def all_orders(problem):
    """Every order of the samples, as draws with the orders in front."""
    orders = torch.tensor(list(itertools.permutations(range(problem.samples))))
    return {"indices": orders.unflatten(-1, (problem.batches, -1))}


def test_an_epoch_is_that_of_a_training_loop_of_torch():
    problem = shuffled(6, 2, weight_decay=0.1)
    theta, draw = problem.initial(0), problem.sample(1, seed=3)
    network = small_network()
    nn.utils.vector_to_parameters(theta.clone(), network.parameters())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, weight_decay=0.1)
    assert sorted(draw["indices"].flatten().tolist()) == list(range(6))
    for batch in draw["indices"][0]:
        optimiser.zero_grad()
        (0.5 * (network(problem.x[batch]) - problem.y[batch]).square().sum(-1).mean()).backward()
        optimiser.step()
    expected = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(problem.step(theta, draw, 0.05)[0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("batch_size", "decay"), [(1, 0.0), (2, 0.3)])
def test_mean_and_second_term_are_those_of_all_orders(batch_size, decay):
    problem = shuffled(4, batch_size, weight_decay=decay)
    theta = torch.stack([problem.initial(seed) for seed in range(2)])
    first, second = problem.step_terms(theta[:, None], all_orders(problem), 2)
    torch.testing.assert_close(first, -problem.mean_gradient(theta)[:, None].expand_as(first), rtol=0, atol=1e-13)
    torch.testing.assert_close(problem.mean_second_term(theta), second.mean(1), rtol=0, atol=1e-13)
    assert problem.noise_dim == 0 and problem.has_closed_form


def test_the_terms_of_the_step_are_its_derivatives_in_the_learning_rate():
    problem = shuffled(6, 2)
    theta, draw = problem.initial(0), problem.sample(2, seed=0)
    expected = taylor_terms(lambda lr: problem.step(theta, draw, lr), theta, 3)[1:]
    for found, term in zip(problem.step_terms(theta, draw, 3), expected, strict=True):
        torch.testing.assert_close(found, term.expand_as(found), rtol=0, atol=1e-12)


def test_the_second_term_of_cross_entropy_is_that_of_all_orders():
    x, _ = data(4)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    labels = torch.tensor([0, 2, 1, 2])
    problem = sme.ShuffledEpochs(network, x, labels, loss="cross_entropy", batch_size=1)
    theta = problem.initial(0)
    second = problem.step_terms(theta, all_orders(problem), 2)[1]
    torch.testing.assert_close(problem.mean_second_term(theta), second.mean(0), rtol=0, atol=1e-13)


def test_one_batch_an_epoch_is_gradient_descent():
    epochs, plain = shuffled(4, 4), sme.ModuleProblem(small_network(), *data(4))
    theta, draw = epochs.initial(0), epochs.sample(3, seed=0)
    step = epochs.step(theta, draw, 0.1)
    torch.testing.assert_close(step, (theta - 0.1 * plain.mean_gradient(theta)).expand(3, -1), rtol=0, atol=1e-14)
    assert not epochs.mean_second_term(theta).any()


def least_squares():
    """4 batches of one sample, 3 weights; the step is affine in theta for each order."""
    x, y = data(4, inputs=3, seed=5)
    return sme.ShuffledEpochs(nn.Linear(3, 1, bias=False).double(), x, y, batch_size=1)


def exact_moments(problem, theta0, lr, epochs):
    """E theta and E theta theta^T of the iteration, over all 24 orders, as E psi psi^T with psi = (1, theta)."""
    draws, dim = all_orders(problem), problem.dim
    origin = problem.step(torch.zeros(dim, dtype=torch.float64), draws, lr)
    columns = problem.step(torch.eye(dim, dtype=torch.float64)[:, None], draws, lr) - origin
    maps = torch.zeros(len(origin), dim + 1, dim + 1, dtype=torch.float64)
    maps[:, 0, 0], maps[:, 1:, 0], maps[:, 1:, 1:] = 1, origin, columns.permute(1, 2, 0)
    psi = torch.cat([torch.ones(1, dtype=torch.float64), theta0])
    moments = torch.outer(psi, psi)
    for _ in range(epochs):
        moments = (maps @ moments @ maps.mT).mean(0)
    return moments[0, 1:].numpy(), moments[1:, 1:].numpy()


def equation_at(problem, theta0, lr, order, horizon):
    """The equation has no noise: its state at the horizon, by an integrator of another library."""
    equation = sme.ModifiedEquation(problem, lr, order)

    def slope(t, theta):
        return equation.f(t, torch.from_numpy(theta)[None])[0].numpy()

    return solve_ivp(slope, (0, horizon), theta0.numpy(), method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1]


def test_weak_orders_and_the_variance_by_enumeration_of_all_orders():
    problem = least_squares()
    theta0 = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
    lrs, errors, variances = [0.02, 0.01, 0.005], {1: [], 2: []}, []
    for lr in lrs:
        mean, second = exact_moments(problem, theta0, lr, round(1 / lr))
        variances.append(np.trace(second) - mean @ mean)
        for order in (1, 2):
            found = equation_at(problem, theta0, lr, order, 1.0)
            errors[order].append(abs(found @ found - np.trace(second)))
    for order in (1, 2):
        assert math.log2(errors[order][-2] / errors[order][-1]) == pytest.approx(order, abs=0.15)
    assert math.log2(variances[-2] / variances[-1]) == pytest.approx(3, abs=0.15)


def test_the_iteration_has_the_moments_of_all_orders():
    problem, lr, paths = least_squares(), 0.04, 4096
    theta0 = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
    mean, second = exact_moments(problem, theta0, lr, 25)
    found = sme.iterate(problem, theta0, lr=lr, steps=25, paths=paths, seed=1, save=[25])[0].numpy()
    covariance = second - np.outer(mean, mean)
    z = (found.mean(0) - mean) / np.sqrt(np.diag(covariance) / paths)
    assert np.abs(z).max() < 4
    assert np.trace(np.cov(found.T)) == pytest.approx(np.trace(covariance), rel=0.1)


@pytest.mark.parametrize("estimator", ["difference", "defects"])
def test_weak_errors_are_those_of_all_orders(estimator):
    problem, lrs = least_squares(), [0.1]
    theta0 = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
    study = sme.weak_error(
        problem,
        theta0,
        lrs,
        horizon=0.5,
        observables=["squared_norm"],
        times=[0.5],
        paths=64,
        estimator=estimator,
        seed=2,
    )
    for row in study.table[study.table.time == 0.5].itertuples():
        _, second = exact_moments(problem, theta0, row.lr, round(0.5 / row.lr))
        found = equation_at(problem, theta0, row.lr, row.order, 0.5)
        half = 1.5 * (row.high - row.low)  # three times the half-width of a 95% interval
        assert row.low - half < found @ found - np.trace(second) < row.high + half
        assert row.resolved


def test_masks_are_fresh_in_every_batch_and_labels_are_those_of_the_samples():
    problem = shuffled(6, 2, drop=0.5, masks="shared")
    masks = problem.sample(64, seed=0)["mask 0"]
    assert masks.shape == (64, 3, 1, 3)
    assert not (masks[:, 0] == masks[:, 1]).all(-1).all()
    noisy = shuffled(6, 2, label_noise=0.4)
    theta, draw = noisy.initial(0), noisy.sample(5, seed=1)
    chi = noisy.noise_coordinates(draw)
    expected = noisy.mean_gradient(theta) + noisy.noise_product(theta, chi)
    torch.testing.assert_close(noisy.gradient(theta, draw), expected, rtol=0, atol=1e-13)


def test_epochs_with_dropout_run_through_a_study():
    problem = shuffled(6, 2, drop=0.2)
    study = sme.weak_error(problem, problem.initial(0), [0.1], horizon=0.1, paths=32, orders=[1], estimator="defects")
    assert np.isfinite(study.table.error).all()


def test_problems_are_pickled_and_say_what_they_are():
    problem = pickle.loads(pickle.dumps(shuffled(6, 2)))
    assert type(problem).__name__ == "ShuffledEpochs" and isinstance(problem, sme.ModuleProblem)
    theta, draw = problem.initial(0), problem.sample(2, seed=0)
    torch.testing.assert_close(problem.step(theta, draw, 0.1), shuffled(6, 2).step(theta, draw, 0.1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": None}, "batch_size"),
        ({"batch_size": 4}, "batch_size must divide the 6 samples"),
        ({"batch_size": 7}, "batch_size"),
    ],
)
def test_what_is_no_epoch_is_refused(given, words):
    with pytest.raises(SmesolveError, match=words):
        sme.ShuffledEpochs(small_network(), *data(6), **given)


def test_a_batch_size_may_be_an_integer_of_numpy():
    problem = shuffled(4, np.int64(2))
    theta = problem.initial(0)
    assert torch.equal(sme.iterate(problem, theta, 0.1, 2, 3), sme.iterate(shuffled(4, 2), theta, 0.1, 2, 3))


def test_control_variates_need_the_mean_step():
    problem = shuffled(4, 1)
    with pytest.raises(SmesolveError, match="control"):
        sme.weak_error(problem, problem.initial(0), [0.1], horizon=0.2, control="first", estimator="difference")
