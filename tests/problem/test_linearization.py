"""All quantities at one theta share one forward pass, also in derived problems and in the steps of schemes."""

import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.problem.derived_problem import ScaledProblem
from smesolve.solver.integration import integration


@pytest.fixture
def counted(monkeypatch):
    """A problem, computed by the formulas in torch, and the number of its forward passes so far."""
    problem, passes = make_problem(width=3), []
    problem.kernels = None
    forward = type(problem.network).linearize

    def counting(network, theta, x):
        passes.append(theta.shape)
        return forward(network, theta, x)

    monkeypatch.setattr(type(problem.network), "linearize", counting)
    return problem, passes


def polynomial(problem):
    return sme.symbolic.PolynomialLossProblem(
        problem.network, problem.x, problem.y, lambda f, y: (f - y) ** 4, keep_prob=0.8
    )


DERIVED = {
    "itself": lambda problem: problem,
    "weak noise": lambda problem: problem.with_weak_noise(),
    "scaled": lambda problem: ScaledProblem(problem, 0.5),
    "averaged": lambda problem: sme.AveragedProblem(problem, 2),
    "scheduled": lambda problem: sme.ScheduledProblem(problem, lambda t: 1 - t / 4).at(0.5),
    "polynomial": polynomial,
}


@pytest.mark.parametrize("name", DERIVED)
def test_all_methods_share_one_forward_pass_and_equal_those_of_the_problem(counted, name):
    problem, passes = DERIVED[name](counted[0]), counted[1]
    theta = torch.stack([problem.initial(seed) for seed in (0, 1)])
    normals = torch.linspace(-1, 2, 2 * problem.noise_dim, dtype=torch.float64).view(2, -1)
    at = problem.linearize(theta)
    passes.clear()
    found = [at.loss(), at.modified_loss(), at.mean_gradient(), at.noise_product(normals)]
    found += [at.hessian_product(theta), at.noisy_mean_gradient(normals, 0.3), at.reference_gradient()]
    assert len(passes) <= 1  # an averaged problem evaluates the network when it is first asked
    mean, noise = problem.mean_gradient(theta), problem.noise_product(theta, normals)
    expected = [problem.loss(theta), problem.modified_loss(theta), mean, noise, problem.hessian_product(theta, theta)]
    for one, other in zip(found, [*expected, 0.3 * mean + noise, mean], strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize(("scheme", "stages"), [("euler", 1), ("small_noise_heun", 3), ("small_noise_rk4", 4)])
@pytest.mark.parametrize("order", [1, 2])
def test_a_step_takes_one_forward_pass_for_each_stage(counted, name, scheme, stages, order):
    problem, passes = DERIVED[name](counted[0]), counted[1]
    process = integration(sme.ModifiedEquation(problem, 0.1, order), problem.initial(), scheme, 0.05)
    theta = problem.initial().expand(process.block_size, -1)
    passes.clear()
    process.advance(theta, 0, 0)
    assert len(passes) == stages


@pytest.mark.parametrize("scheme", ["svag", "sampled_euler"])
def test_all_gradients_of_a_step_share_one_forward_pass(counted, scheme):
    problem, passes = counted
    process = integration(sme.ModifiedEquation(problem, 0.1, 1), problem.initial(), scheme, 0.05)
    passes.clear()
    process.advance(problem.initial().expand(process.block_size, -1), 0, 0)
    assert len(passes) == 1
