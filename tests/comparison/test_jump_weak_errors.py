"""Weak errors of the equation of order 3 by difference, with control variates for its jumps."""

import dataclasses

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.control_variate import JumpControlVariate
from smesolve.comparison.draw_control_variate import JumpDrawControlVariate
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.leading_constants import poisson_constants
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.value_hessians import value_hessians
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.dry_run import estimate
from smesolve.sampling.ensemble import block_of
from smesolve.solver.jump_integration import JumpIntegration
from smesolve.solver.jumps import Poissonised, ThirdOrder
from smesolve.solver.orders import orders_in_words, sorted_orders


def totals_and_losses(process, control, theta0, saved, blocks):
    """Return the control variates at the last time (C, P), and the losses there."""
    found, losses = [], []
    for block in range(blocks):
        theta = block_of(process, theta0)
        totals = theta.new_zeros(control.count, process.block_size, len(saved), 1)
        for step in range(saved[-1]):
            moved = process.advance_split(theta, block, step)
            control.add(totals, step, moved)
            theta = moved.state
        found.append(totals[:, :, -1, 0])
        losses.append(process.problem.loss(theta))
    return torch.cat(found, dim=1), torch.cat(losses)


@pytest.mark.parametrize("dynamics", [ThirdOrder, Poissonised])
def test_control_variates_have_mean_zero_whatever_their_coefficients_and_shorten_the_error(dynamics):
    problem, lr, saved = make_problem(samples=3), 0.1, [2, 4]
    theta0, observables = problem.initial(), {"loss": problem.loss}
    process = JumpIntegration(problem, dynamics(problem, lr), lr, dt=0.2, seed=1)
    path = NoiseFreePath.of(process, theta0, saved, observables)
    hessians = value_hessians(problem, theta0, [0.4, 0.8], observables, lr)
    wrong = NoiseFreePath(path.states + 0.3, path.predictions, [adjoints + 0.5 for adjoints in path.adjoints])
    for taken, right in ((path, True), (wrong, False)):
        control = JumpControlVariate(taken, 0.2, lr, hessians)
        assert control.count == 3
        totals, loss = totals_and_losses(process, control, theta0, saved, 8)
        deviation = totals.mean(1) / (totals.std(1) / totals.shape[1] ** 0.5)
        assert float(deviation.abs().max()) < 4
        if right:
            assert float(loss.std() / (loss - totals.sum(0)).std()) > (8 if dynamics is ThirdOrder else 3)


def test_errors_of_a_readout_are_the_exact_ones():
    problem, theta0 = linear_problem(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    study = sme.weak_error(problem, theta0, lrs=[0.4, 0.2], horizon=0.8, orders=[2, 3], paths=2048, times=[0.8])
    moments = LinearMoments(problem, theta0)
    for row in study.table.itertuples():
        assert row.low < moments.error(row.lr, row.order, 0.8) < row.high
    third = study.table[study.table.order == 3]
    assert (third.scheme == "jumps").all() and (third.stderr_reduction > 5).all()


def test_errors_of_steps_at_random_times_are_the_exact_ones():
    """They have no solver bias, weak order 1, and the constant T/2 (d/dT)^2 g along the gradient flow."""
    problem, theta0 = linear_problem(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    study = sme.weak_error(problem, theta0, [0.2, 0.1, 0.05], 0.8, orders=["poisson", 1], paths=1024, times=[0.8])
    moments = LinearMoments(problem, theta0)
    steps = study.table[study.table.order == "poisson"]
    for row in steps.itertuples():
        assert row.low < moments.error(row.lr, "poisson", 0.8) < row.high
    assert (steps.scheme == "jumps").all() and (steps.stderr_reduction > 5).all()
    assert (steps.solver_bias.abs() < 1e-12).all()
    fit = study.fit().set_index("order").loc["poisson"]
    assert fit.verdict == "certified" and fit.slope_low < 1 < fit.slope_high
    limit = 2 * moments.error(1e-4, "poisson", 0.8) / 1e-4 - moments.error(2e-4, "poisson", 0.8) / 2e-4
    assert fit.predicted_constant == pytest.approx(limit, rel=1e-6)
    assert "poisson" in repr(study) and len(study.plot().axes) == 1
    assert sorted_orders(study.table.order) == [1, "poisson"]


def test_the_constant_of_steps_at_random_times_is_the_second_derivative_of_the_flow():
    """Of a network, beside differences of the flow at three times, solved apart."""
    problem, step = make_problem(), 1e-3
    theta0, g = problem.initial(), {"norm": lambda theta: theta.square().sum(-1)}

    def norm_at(time):
        theta, h = theta0, time / 400
        for _ in range(400):
            k1 = -problem.mean_gradient(theta)
            k2 = -problem.mean_gradient(theta + h / 2 * k1)
            k3 = -problem.mean_gradient(theta + h / 2 * k2)
            theta = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 - problem.mean_gradient(theta + h * k3))
        return float(theta.square().sum())

    second = (norm_at(0.5 + step) - 2 * norm_at(0.5) + norm_at(0.5 - step)) / step**2
    constant, error = poisson_constants(problem, theta0, 0.5, g)["norm"]
    assert constant == pytest.approx(0.5 / 2 * second, rel=1e-5) and 0 < error < 1e-5 * abs(constant)


def module_problem():
    layers = torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Tanh(), torch.nn.Linear(3, 1)
    module = torch.nn.Sequential(*layers).double()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    return sme.ModuleProblem(module, x, x[:, :1])


def test_control_variates_from_draws_have_mean_zero_and_shorten_the_error():
    problem, lr, saved = module_problem(), 0.1, [2, 4]
    theta0, observables = problem.initial(), {"loss": problem.loss}
    process = JumpIntegration(problem, Poissonised(problem, lr), lr, dt=0.2, seed=1)
    path = NoiseFreePath.of(process, theta0, saved, observables)
    right = JumpDrawControlVariate.of(problem, path, 0.2, lr)
    wrong = dataclasses.replace(right, drifts=right.drifts + 0.1, coefficients=right.coefficients[::-1])
    for control, gain in ((right, 1.5), (wrong, 0.0)):
        (total,), loss = totals_and_losses(process, control, theta0, saved, -(-2048 // process.block_size))
        assert float(total.mean().abs() / (total.std() / len(total) ** 0.5)) < 4
        assert float(loss.std() / (loss - total).std()) > gain


def test_modules_are_compared_with_steps_at_random_times_by_difference():
    problem = module_problem()
    given = [0.1], 0.2
    study = sme.weak_error(problem, problem.initial(), *given, orders=["poisson"], paths=64, times=[0.2])
    assert set(study.table.estimator) == {"difference"} and study.table.error.notna().all()
    plain = sme.weak_error(
        problem, problem.initial(), *given, orders=["poisson"], paths=64, times=[0.2], control="none"
    )
    assert study.table.sde_stderr[0] < plain.table.sde_stderr[0]
    ensembles = Ensembles(problem, problem.initial(), 0.1, [0.2], ["poisson"], 64)
    assert "poisson" in estimate("", [Cell("one", list, [ensembles])], None)["time"]


class WithoutCoordinates(sme.Problem):
    """A readout as a problem of one's own, which says nothing of functions of the draws that the noise is made of."""

    readout = linear_problem()
    dim, draw_dim, noise_dim = readout.dim, readout.draw_dim, readout.noise_dim
    draw, loss, gradient, mean_gradient = readout.draw, readout.loss, readout.gradient, readout.mean_gradient
    noise_product = readout.noise_product


def test_errors_of_a_problem_without_noise_coordinates_are_the_exact_ones():
    """Its jumps have no third control variate, of which only the mean would be taken off."""
    problem, theta0 = WithoutCoordinates(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    study = sme.weak_error(problem, theta0, lrs=[0.4, 0.2], horizon=0.8, orders=[3], paths=2048, times=[0.8])
    moments = LinearMoments(problem.readout, theta0)
    for row in study.table.itertuples():
        assert row.low < moments.error(row.lr, 3, 0.8) < row.high


@pytest.mark.slow
def test_the_error_of_a_network_is_resolved_and_falls_like_lr_cubed():
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = sme.TwoLayerNetwork(in_features=2, width=4, out_features=1, activation="tanh")
    problem = sme.DropoutProblem(network, x, torch.sin(2 * x[:, :1]), keep_prob=0.8)
    study = sme.weak_error(
        problem, 2 * problem.initial(), lrs=[0.2, 0.1], horizon=2.0, orders=[3], paths=2**15, times=[2.0]
    )
    assert study.table.resolved.all()
    fit = study.fit().iloc[0]
    assert fit.slope_low < 3 < fit.slope_high and fit.slope_low > 2
    bounds = study.table.set_index("lr")
    least = np.log2(bounds.high[0.2] / bounds.low[0.1])  # errors are negative
    most = np.log2(bounds.low[0.2] / bounds.high[0.1])
    assert 2 < least < 3 < most


def test_orders_are_named_numbers_first():
    assert orders_in_words([2]) == "order 2" and orders_in_words(["poisson"]) == "poisson"
    assert orders_in_words(["poisson", 3, 1, 3]) == "orders 1, 3 and poisson"


def test_what_does_not_measure_order_3_says_so():
    problem = make_problem()
    with pytest.raises(ValueError, match=r"orders=\[1, 3\] holds 3, which defects do not measure"):
        sme.weak_error(problem, problem.initial(), [0.1], 0.2, orders=[1, 3], estimator="defects")
    with pytest.raises(ValueError, match="holds 3, which defects do not measure"):
        sme.validity_range(problem, problem.initial(), 0.2, 0.1, orders=[3])
    with pytest.raises(ValueError, match="holds 'poisson', which defects do not measure"):
        sme.weak_error(problem, problem.initial(), [0.1], 0.2, orders=["poisson"], estimator="defects")
    with pytest.raises(ValueError, match=r"orders\[1\] must be 1, 2 or 3, or 'poisson', got 'quadratic'"):
        sme.weak_error(problem, problem.initial(), [0.1], 0.2, orders=[1, "quadratic"])
    scheduled = sme.ScheduledProblem(problem, lambda t: 1 - t / 2)
    with pytest.raises(ValueError, match="order='poisson' has jumps of one law"):
        sme.weak_error(scheduled, problem.initial(), [0.1], 0.2, orders=["poisson"])
    with pytest.raises(ValueError, match=r"orders.* order 4 would take jumps"):
        sme.weak_error(problem, problem.initial(), [0.1], 0.2, orders=[4])
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)).double()
    sampled = sme.ModuleProblem(module, problem.x, problem.y)
    with pytest.raises(ValueError, match="order=3 needs the mean gradient in closed form"):
        sme.weak_error(sampled, sampled.initial(), [0.1], 0.2, orders=[3], estimator="difference")
