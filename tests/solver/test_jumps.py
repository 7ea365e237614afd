"""Equations with jumps: coefficients against the derivation, law of the jump times, exact moments, reproducibility."""

import numpy as np
import pytest
import torch
import torchsde
from problems import linear_problem, make_problem
from scipy import stats

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.solver.jump_integration import JumpIntegration
from smesolve.solver.jumps import Poissonised, ThirdOrder


def along(field, theta, direction):
    return forward_derivative(field, theta, direction)[1]


@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_differences_are_the_derived_derivatives_up_to_lr_cubed(masks):
    """Drift b + lr b1 + lr^2 b2 and jump lr (xi + lr xi1), whose mean is -lr^3/4 D^2 b : Sigma, from derivatives."""
    problem = make_problem(masks=masks, samples=2)
    draws, weights = problem.all_draws()
    theta, count = problem.initial(), len(weights)

    def b(y):
        return -problem.mean_gradient(y)

    def xi(y):
        return -problem.gradient(y.expand(count, -1), draws) - b(y)

    drift, noise = b(theta), xi(theta)
    acceleration = along(b, theta, drift)
    second = along(lambda y: along(b, y, drift), theta, drift)  # D^2 b [b, b]: the direction is fixed
    b2 = along(b, theta, acceleration) / 3 + second / 12
    shifted = along(lambda y: problem.gradient(y, draws), theta.expand(count, -1), drift.expand(count, -1))
    xi_moved = -shifted - acceleration
    curvature = torch.stack([along(lambda y, n=n: along(b, y, n), theta, n) for n in noise])
    xi_carried = torch.stack([along(b, theta, n) for n in noise])
    found = []
    for lr in (0.02, 0.01):
        dynamics = ThirdOrder(problem, lr)
        size, increment = dynamics.jump(theta.expand(count, -1), draws)
        derived = lr * noise - lr**2 / 2 * (xi_moved + xi_carried) - lr**3 / 4 * curvature
        rest = size - derived
        errors = [dynamics.drift(theta) - (drift - lr / 2 * acceleration + lr**2 * b2), rest, weights @ rest]
        found.append([float(error.abs().max()) for error in errors])
        assert float((weights @ increment).abs().max()) < 1e-15
    ratios = np.log2(np.array(found[0]) / np.array(found[1]))
    assert np.allclose(ratios, [3, 3, 4], atol=0.1)


def test_the_flow_between_jumps_has_a_local_error_of_order_5():
    problem = make_problem()
    theta = problem.initial().expand(4, -1)
    errors = []
    for lr in (0.02, 0.01):
        dynamics, times = ThirdOrder(problem, lr), lr * torch.tensor([[0.3], [1.0], [2.5], [9.0]], dtype=torch.float64)
        exact, h = theta, times / 64
        for _ in range(64):
            k1 = dynamics.drift(exact)
            k2 = dynamics.drift(exact + h / 2 * k1)
            k3 = dynamics.drift(exact + h / 2 * k2)
            exact = exact + h / 6 * (k1 + 2 * k2 + 2 * k3 + dynamics.drift(exact + h * k3))
        moved, slope = dynamics.flow(theta, times)
        errors.append(torch.stack([(moved - exact).norm(dim=1), (slope + problem.mean_gradient(exact)).norm(dim=1)]))
    of_flow, of_slope = (errors[0] / errors[1]).log2()
    assert float(of_flow.min()) > 4.7 and float(of_slope[:3].min()) > 3.85


def test_clocks_ring_like_those_of_a_poisson_process():
    """The number of jumps in a step is Poisson, waiting times are exponential, and draws are uniform."""
    problem = linear_problem()
    process = JumpIntegration(problem, Poissonised(problem, 0.1), 0.1, dt=0.4, seed=1)
    times, uniforms = process.clocks(block=0, step=3)
    assert times.shape[1:] == (problem.block_size,) and uniforms.shape == (*times.shape, problem.draw_dim)
    counts = np.isfinite(times).sum(0)
    expected = stats.poisson(4.0).pmf(np.arange(9)) * len(counts)
    expected = np.append(expected, len(counts) - expected.sum())
    observed = np.append([np.sum(counts == k) for k in range(9)], np.sum(counts > 8))
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    with np.errstate(invalid="ignore"):
        assert not (np.diff(times, axis=0) < 0).any()
    assert stats.kstest(times[np.isfinite(times)] / 0.4, "uniform").pvalue > 1e-3
    first = times[0][np.isfinite(times[0])]
    cut = -0.1 * np.log1p(-np.linspace(0, 1, 5)[1:-1] * (1 - np.exp(-4)))  # quartiles, given one before dt
    assert stats.chisquare(np.bincount(np.digitize(first, cut), minlength=4)).pvalue > 1e-3
    assert stats.kstest(uniforms.ravel()[::7], "uniform").pvalue > 1e-3


def test_parts_of_a_step_have_the_jumps_of_the_whole():
    problem = make_problem()
    lr, dynamics = 0.01, ThirdOrder(problem, 0.01)
    whole = JumpIntegration(problem, dynamics, lr, dt=2 * lr, seed=1, nested=2)
    parts = JumpIntegration(problem, dynamics, lr, dt=lr, seed=1)
    theta = problem.initial().expand(problem.block_size, -1)
    together, halves = whole.advance(theta, 0, 1), parts.advance(parts.advance(theta, 0, 2), 0, 3)
    assert not torch.equal(together, theta)
    assert torch.allclose(together, halves, rtol=0, atol=1e-8)
    assert torch.equal(whole.advance_split(theta, 0, 1).state, together)


@pytest.mark.parametrize(("order", "workers"), [(3, 2), ("poisson", None)])
def test_paths_are_the_same_for_any_number_of_paths_and_processes(order, workers):
    problem = make_problem()
    sde = sme.ModifiedEquation(problem, 0.1, order)
    few, many, shared = (
        sme.solve(sde, problem.initial(), [0.0, 0.2, 0.4], dt=0.2, paths=paths, seed=3, workers=processes)
        for paths, processes in ((10, None), (2 * problem.block_size, None), (2 * problem.block_size, workers))
    )
    assert torch.equal(few, many[:, :10]) and torch.equal(many, shared)
    assert not torch.equal(few, sme.solve(sde, problem.initial(), [0.0, 0.2, 0.4], dt=0.2, paths=10, seed=4))


@pytest.mark.parametrize("order", [3, "poisson"])
def test_means_and_third_moments_are_the_exact_ones(order):
    problem = linear_problem()
    theta0 = torch.tensor([1.0, 0.8], dtype=torch.float64)
    exact = LinearMoments(problem, theta0).moments(0.1, order, 1.0)
    (_, end) = sme.solve(sme.ModifiedEquation(problem, 0.1, order), theta0, [0.0, 1.0], dt=0.5, paths=2**14)
    psi = torch.cat([torch.ones(len(end), 1, dtype=torch.float64), end], dim=1)
    values = torch.einsum("bi,bj,bk->bijk", psi, psi, psi)
    deviation = (values.mean(0).numpy() - exact) / (values.std(0).numpy() / len(end) ** 0.5 + 1e-12)
    assert np.abs(deviation).max() < 4


def test_poisson_needs_gradients_only():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)).double()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = sme.ModuleProblem(module, x, x[:, :1])
    paths = sme.solve(sme.ModifiedEquation(problem, 0.1, "poisson"), problem.initial(), [0.0, 0.2], dt=0.2, paths=4)
    assert paths.isfinite().all() and not torch.equal(paths[0], paths[1])
    with pytest.raises(ValueError, match="order=3 needs the mean gradient in closed form"):
        sme.ModifiedEquation(problem, 0.1, 3)


def test_diffusions_and_jumps_are_not_mistaken_for_each_other():
    problem = make_problem()
    theta0, sde = problem.initial(), sme.ModifiedEquation(problem, 0.1, 3)
    with pytest.raises(ValueError, match="order=3 is an equation with jumps, which torchsde cannot integrate"):
        torchsde.sdeint(
            sde, theta0[None], torch.tensor([0.0, 0.2]), bm=sme.KeyedBrownian(1, problem.noise_dim, 0.1), dt=0.1
        )
    for call in (lambda: sde.f(0.0, theta0), lambda: sde.g_prod(0.0, theta0, None)):
        with pytest.raises(ValueError, match=r"call sme\.solve"):
            call()
    with pytest.raises(ValueError, match="scheme='euler' steps a diffusion, but the equation of order 3 has jumps"):
        sme.solve(sde, theta0, [0.0, 0.2], "euler", dt=0.1, paths=2)
    scheduled = sme.ScheduledProblem(problem, lambda t: 1 - t / 2)
    for order in (3, "poisson"):
        with pytest.raises(ValueError, match="has jumps of one law"):
            sme.ModifiedEquation(scheduled, 0.1, order)


def test_times_of_observation_change_no_jump():
    """A longer step has the clocks and draws of its cells: paths differ by the local error of the flow only."""
    problem, lr = make_problem(), 0.02
    process = JumpIntegration(problem, ThirdOrder(problem, lr), lr, dt=lr, seed=1)
    longer, saved = process.in_longer_steps([0, 20, 30])
    assert (longer.dt, saved) == (pytest.approx(10 * lr), [0, 2, 3])
    times, uniforms = longer.clocks(0, 1)
    cells = [process.clocks(0, step) for step in range(10, 20)]
    first = [times[:, 5], *(part[0][:, 5] + k * lr for k, part in enumerate(cells))]
    whole, *parts = (part[np.isfinite(part)] for part in first)
    assert np.allclose(whole, np.concatenate(parts), rtol=0, atol=1e-15)
    drawn = [part[1][np.isfinite(part[0][:, 5]), 5] for part in cells]
    assert np.array_equal(uniforms[np.isfinite(times[:, 5]), 5], np.concatenate(drawn))
    one, several = (
        sme.solve(sme.ModifiedEquation(problem, lr, 3), problem.initial(), ts, dt=lr, paths=20)[-1]
        for ts in ([0.0, 0.4], [0.0, 0.02, 0.14, 0.4])
    )
    assert torch.allclose(one, several, rtol=0, atol=1e-7) and not torch.equal(one[0], one[1])


def test_the_mean_number_of_jumps_is_the_time_over_lr():
    problem = linear_problem()
    process = JumpIntegration(problem, Poissonised(problem, 0.1), 0.1, dt=0.25, seed=2, nested=3)
    counts = np.concatenate(
        [np.isfinite(process.clocks(block, step)[0]).sum(0) for block in range(4) for step in range(4)]
    )
    deviation = (counts.mean() - 2.5) / (2.5 / len(counts)) ** 0.5
    assert abs(deviation) < 3.5
    assert counts.var(ddof=1) == pytest.approx(2.5, rel=4 * (2 / len(counts)) ** 0.5 * 1.2)
