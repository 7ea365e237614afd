"""Problems derived from another one: each method is the stated multiple of the original problem's method."""

import math

import pytest
import torch
from given_errors import exactly
from problems import make_problem
from torch import nn

import smesolve as sme
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.derived_problem import ScaledProblem
from smesolve.problem.schedule import Piecewise, ScheduledProblem, cosine, step, warm_up


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("derived", ["scaled", "averaged"])
def test_gradients_noise_and_curvature_are_multiples(derived):
    problem = make_problem(width=3, out_features=2)
    made = ScaledProblem(problem, 0.4) if derived == "scaled" else AveragedProblem(problem, 4)
    mean, noise = (0.4, 0.4) if derived == "scaled" else (1.0, 0.5)
    theta = torch.stack([problem.initial(seed) for seed in (0, 1)])
    normals = torch.linspace(-1, 2, 2 * problem.noise_dim, dtype=torch.float64).view(2, -1)
    vector = torch.linspace(1, -2, 2 * problem.dim, dtype=torch.float64).view(2, -1)
    gradient, product = problem.mean_gradient(theta), problem.noise_product(theta, normals)
    curvature = problem.hessian_product(theta, gradient)
    assert close(made.mean_gradient(theta), mean * gradient)
    assert close(made.reference_gradient(theta), mean * problem.reference_gradient(theta))
    assert close(made.hessian_product(theta, vector), mean * problem.hessian_product(theta, vector))
    assert close(made.noise_product(theta, normals), noise * product)
    assert close(made.noise_factor(theta), noise * problem.noise_factor(theta))
    assert close(made.covariance(theta), noise**2 * problem.covariance(theta))
    at = made.linearize(theta)
    assert close(at.noisy_mean_gradient(normals, -0.3), -0.3 * mean * gradient + noise * product)
    assert close(at.mean_gradient(), mean * gradient) and close(at.noise_product(normals), noise * product)
    assert close(at.hessian_product(at.mean_gradient()), mean**2 * curvature)
    assert close(at.reference_gradient(), mean * gradient)
    assert close(made.loss(theta), problem.loss(theta)) and close(
        made.modified_loss(theta), problem.modified_loss(theta)
    )
    assert made.stability_limit(theta[0]) == pytest.approx(problem.stability_limit(theta[0]) / mean, rel=1e-3)
    draw = made.sample(2, seed=3)
    chi = made.noise_coordinates(draw)
    assert close(at.gradient(draw), made.gradient(theta, draw))
    assert close(at.gradient(draw), mean * gradient + made.noise_product(theta, chi))


def test_more_draws_than_floats_reach_are_infinitely_many():
    problem = make_problem(width=100, samples=12, masks="per_sample")
    assert problem.draw_count == AveragedProblem(problem, 3).draw_count == math.inf
    few = make_problem(width=10, samples=12, masks="per_sample")
    assert few.draw_count == 2.0**120 and AveragedProblem(few, 10).draw_count == math.inf


class SquaredNormals(sme.Problem):
    """A noise that is not linear in its normals: theta + z |z|, z a standard normal, of variance 3."""

    dim = draw_dim = noise_dim = 1
    linear_noise = False

    def draw(self, uniforms):
        return 3**0.5 * (2.0 * (uniforms < 0.5) - 1)

    def loss(self, theta):
        return theta.square().sum(-1) / 2

    def gradient(self, theta, draw=0.0):
        return theta + draw

    mean_gradient = gradient

    def noise_product(self, theta, normals):
        return normals * normals.abs() + 0 * theta


def test_an_average_halves_a_noise_of_any_kind():
    made, theta = AveragedProblem(SquaredNormals(), 4), torch.tensor([[0.5]], dtype=torch.float64)
    normals, at = torch.tensor([[2.0]], dtype=torch.float64), made.linearize(theta)
    assert float(at.noise_product(normals)) == exactly(2.0)
    assert float(at.noisy_mean_gradient(normals, -0.3)) == exactly(2.0 - 0.15)


def test_averages_of_draws_count_them():
    problem = make_problem(width=2)
    made = AveragedProblem(problem, 3)
    assert (made.draw_dim, made.noise_dim) == (3 * problem.draw_dim, problem.noise_dim)
    assert made.floats_per_path == 3 * problem.floats_per_path
    assert made.draw_count == problem.draw_count**3
    draws, weights = made.all_draws()
    assert draws.shape == (4**3, 3, 2) and float(weights.sum()) == exactly(1.0)
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 4**3


@pytest.mark.parametrize("derived", ["scaled", "averaged"])
def test_the_linear_part_of_the_noise_is_a_multiple(derived):
    x = torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=torch.float64)
    problem = sme.ModuleProblem(nn.Linear(2, 1, bias=False).double(), x, x[:, :1], parameter_noise=0.3)
    theta = torch.tensor([0.9, -0.4], dtype=torch.float64)
    direction = torch.tensor([0.3, 0.7], dtype=torch.float64)
    made = ScaledProblem(problem, 0.4) if derived == "scaled" else AveragedProblem(problem, 3)
    draw, coefficients = made.sample(5, seed=2), made.noise_coefficients(theta, direction)
    hessian = x.mT @ x / 2
    noise = made.gradient(theta, draw) - (0.4 if derived == "scaled" else 1) * (hessian @ theta - x.mT @ x[:, 0] / 2)
    assert close(made.noise_along(coefficients, draw), noise @ direction)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_schedules_of_the_package_have_their_values():
    times = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    falls = [1.0, 0.2 + 0.8 * (1 + 0.5**0.5) / 2, 0.6, 0.2]
    assert [float(cosine(4.0, 0.2)(time)) for time in times] == exactly(falls)
    assert [warm_up(2.0, 0.25).value(time) for time in (0.0, 1.0, 2.0, 3.0)] == exactly([0.25, 0.625, 1.0, 1.0])
    assert [step(2.0, 0.3).value(time) for time in (0.0, 1.99, 2.0, 5.0)] == exactly([1.0, 1.0, 0.3, 0.3])


def test_a_problem_under_both_schedules_has_the_product_of_their_effects():
    base = make_problem(width=3)
    problem = ScheduledProblem(base, lambda t: 1 + 2 * t, lambda t: 0.9 - 0.2 * t)
    theta, there = base.initial(), base.with_keep_prob(0.8)
    normals = torch.linspace(-1, 2, base.noise_dim, dtype=torch.float64)
    assert close(problem.at(0.5).mean_gradient(theta), 2 * there.mean_gradient(theta))
    assert close(problem.at(0.5).noise_product(theta, normals), 2 * there.noise_product(theta, normals))
    # d/dt of -u grad L_S(v): u' = 2, v' = 0.2 / keep^2; L_S is affine in v
    plain = base.with_keep_prob(1.0).mean_gradient(theta)
    penalty = (there.mean_gradient(theta) - plain) / (1 / 0.8 - 1)
    expected = -2 * there.mean_gradient(theta) - 2 * 0.2 / 0.8**2 * penalty
    assert close(problem.drift_slope(0.5, theta), expected)


def test_pieces_begin_at_their_breaks_up_to_rounding():
    schedule = Piecewise([1.0, 3.0], [torch.zeros_like, torch.ones_like, lambda t: 2 + 0 * t])
    for time, value in ((1 - 1e-8, 0.0), (1 - 1e-10, 1.0), (3 - 1e-8, 1.0), (3 - 1e-10, 2.0), (1e6, 2.0)):
        assert schedule.value(time) == value
