"""Schemes that take gradients in place of drift and diffusion."""

import itertools

import pytest
import torch
from problems import make_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.solver.integration import integration


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()


@pytest.mark.parametrize(("scheme", "dt"), [("svag", 0.05), ("svag", 0.0125), ("sampled_euler", 0.05)])
@pytest.mark.parametrize("order", [1, 2])
def test_the_step_has_the_exact_mean_and_covariance_by_enumeration(scheme, dt, order):
    problem = make_problem(width=2, keep_prob=0.6)
    theta0, lr = problem.initial(seed=1), 0.1
    process = integration(sme.ModifiedEquation(problem, lr, order), theta0, scheme, dt)
    masks, weights = problem.all_draws()
    count = sme.SCHEMES[scheme].drift_evaluations
    choices = torch.tensor(list(itertools.product(range(len(masks)), repeat=count)))
    probability = weights[choices].prod(-1)
    means, deviations = sme.SCHEMES[scheme].weights(lr / dt)
    steps = theta0.expand(len(choices), -1)
    one = torch.ones(len(choices), 1, dtype=torch.float64)
    a = [one * (m + d) for m, d in zip(means, deviations, strict=True)]
    state, total = process._move(problem.linearize(steps), 0, [masks[choice] for choice in choices.T], a)
    drift = -problem.mean_gradient(theta0)
    if order == 2:
        drift = drift + lr / 2 * problem.hessian_product(theta0, drift)
    assert relative(probability @ state - theta0, dt * drift) < 1e-12
    noise = total - probability @ total
    assert relative(dt**2 * noise.mT @ (probability[:, None] * noise), lr * dt * problem.covariance(theta0)) < 1e-12


def test_splitting_a_step_does_not_change_it_and_antithetic_noise_has_the_other_sign():
    problem = make_problem()
    theta0 = problem.initial()
    for scheme in ("svag", "sampled_euler"):
        process = integration(sme.ModifiedEquation(problem, 0.1, 1), theta0, scheme, 0.02, seed=3, antithetic=True)
        theta = theta0.expand(process.block_size, -1)
        taken = process.advance_split(theta, 1, 2)
        assert torch.equal(taken.state, process.advance(theta, 1, 2))
        assert relative(taken.prediction + taken.increment, taken.state) < 1e-14
        product = (0.1 * 0.02) ** 0.5 * problem.noise_product(theta, taken.noise)
        assert relative(product, taken.increment) < 1e-12
        half = process.block_size // 2
        if scheme == "svag":  # the pair's mean is a step with the plain mean of two gradients
            draws, _ = process._draws(problem, 1, 2)
            gradients = [problem.gradient(theta, draw) for draw in draws]
            mean = theta - 0.02 * (gradients[0] + gradients[1]) / 2
            assert relative((taken.state[:half] + taken.state[half:]) / 2, mean[:half]) < 1e-14


def test_svag_converges_to_the_equation_like_one_over_l():
    """Linear regression: every bias is exact, and svag has the moments of Euler with dt = lr/l."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, y, keep_prob=0.7)
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments, lr = LinearMoments(problem, theta0), 0.2
    equation = sme.ModifiedEquation(problem, lr, 1)
    biases = []
    for number in (2, 4):
        exact = moments.scheme(lr, 1, 1.0, "euler", lr / number)
        paths = sme.solve(equation, theta0, [0, 1.0], "svag", dt=lr / number, paths=20_000, seed=1)
        losses = problem.loss(paths[-1])
        assert abs(losses.mean() - exact) < 4 * losses.std() / len(losses) ** 0.5
        biases.append(exact - moments.equation(lr, 1, 1.0))
    assert biases[0] / biases[1] == pytest.approx(2, abs=0.3)
    with pytest.raises(ValueError, match="not affine in normals"):
        moments.scheme(lr, 1, 1.0, "svag", lr)


def test_schemes_and_problems_that_do_not_fit_are_refused():
    problem = make_problem()
    theta0 = problem.initial()
    equation = sme.ModifiedEquation(problem, 0.1, 1)
    sampled = sme.ModuleProblem(
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 1)).double(), problem.x, problem.y
    )
    theta1 = sampled.initial()
    unknown = sme.ModifiedEquation(sampled, 0.1, 1)
    cases = [
        (lambda: sme.solve(equation, theta0, [0, 1.0], "svag", dt=0.25, paths=2), "dt must be at most 2 lr for svag"),
        (lambda: sme.solve(equation, theta0, [0, 1.0], "sampled_euler", dt=0.5, paths=2), "dt must be at most 2 lr"),
        (lambda: sme.solve(unknown, theta1, [0, 1.0], dt=0.1, paths=2), "take scheme='svag' or 'sampled_euler'"),
        (lambda: sme.weak_error(sampled, theta1, [0.1], 1.0, scheme="euler"), "take scheme='svag'"),
        (lambda: sme.weak_error(sampled, theta1, [0.1], 1.0, control="second"), "control='second' needs the mean"),
    ]
    for call, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            call()
    with pytest.warns(sme.NothingTestedWarning, match="it is the discrete iteration itself"):
        sme.solve(equation, theta0, [0, 1.0], "svag", dt=0.1, paths=2)


@pytest.mark.parametrize("scheme", ["svag", "sampled_euler"])
def test_weak_error_of_a_module_agrees_with_that_of_its_exact_problem(scheme):
    exact = make_problem(width=2, samples=3, bias=True)
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Dropout(1 - 0.8), nn.Linear(2, 1)).double()
    sampled = sme.ModuleProblem(module, exact.x, exact.y, masks="shared")
    theta0 = exact.initial(seed=1)
    arguments = {"lrs": [0.5], "horizon": 2.0, "orders": (1,), "times": [2.0], "observables": ["loss"]}
    truth = sme.weak_error(exact, theta0, **arguments, paths=4096).table.iloc[0]
    found = sme.weak_error(sampled, theta0, **arguments, scheme=scheme, dt=0.0625, paths=4096).table.iloc[0]
    assert truth.resolved
    assert found["low"] < truth["error"] < found["high"]
    assert found["stderr_reduction"] > 1.2
    assert abs(found["discrete"] - truth["discrete"]) < 4 * found["discrete_stderr"]


def test_mini_batch_noise_takes_the_whole_machinery():
    """SGD without dropout: exact mean and noise, value Hessian, error resolved and constant predicted."""
    problem = make_problem(samples=6)
    network = sme.TwoLayerNetwork(2, 3)
    sgd = sme.ModuleProblem(network, problem.x, problem.y, batch_size=2)
    lrs = [0.1, 0.05, 0.025]
    study = sme.weak_error(sgd, sgd.initial(seed=1), lrs, 1.0, observables=["loss"], times=[1.0], paths=1024)
    assert study.table.resolved.all()
    assert (study.table.stderr_reduction > 10).all()
    order1 = study.fit().set_index("order").loc[1]
    assert order1.constant_low < order1.predicted_constant < order1.constant_high < 0


def test_masks_per_sample_take_the_whole_machinery():
    problem = make_problem(samples=3, masks="per_sample")
    study = sme.weak_error(problem, problem.initial(seed=1), [0.2], 1.0, observables=["loss"], times=[1.0], paths=2048)
    order1 = study.table.set_index("order").loc[1]
    assert order1.resolved
    assert order1.stderr_reduction > 5


def test_descent_without_noise_takes_gradient_schemes():
    problem = make_problem()
    theta0 = problem.initial()
    for still in (sme.ModuleProblem(problem.network, problem.x, problem.y), problem.with_keep_prob(1.0)):
        study = sme.weak_error(still, theta0, [0.1], 0.2, orders=(1,), scheme="svag", dt=0.0125, paths=8, times=[0.2])
        path = sme.solve(sme.ModifiedEquation(still, 0.1, 1), theta0, [0, 0.2], "svag", dt=0.0125, paths=1)
        solution = study.table.sde.item() + study.table.solver_bias.item()
        assert solution == pytest.approx(still.loss(path[-1, 0]).item(), rel=1e-12)
        assert study.table.stderr.item() < 1e-15
