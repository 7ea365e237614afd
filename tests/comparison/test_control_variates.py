"""Control variates where they are all of the noise: what they leave of a path does not depend on its draws."""

import numpy as np
import pytest
import torch
from given_errors import exactly
from problems import make_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control_variate import DrawControlVariate
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.sampler import Sampler
from smesolve.comparison.value_hessians import DenseForms, LowRankForms, ValueHessians
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.solver.integration import integration

LR, STEPS = 0.2, 3


def regression(**noise):
    """Four samples, two weights, no bias: a quadratic loss with a constant Hessian."""
    x = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, -1.2], [0.8, 0.1]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.2], [-0.7], [0.4]], dtype=torch.float64)
    problem = sme.ModuleProblem(nn.Linear(2, 1, bias=False).double(), x, y, **noise)
    return problem, x.mT @ x / len(x)


@pytest.mark.parametrize("divide", [None, 1, 2])
def test_three_control_variates_are_the_whole_taylor_series_of_a_quadratic_observable(divide):
    """Noise that does not depend on theta, linear steps with matrix A: Lam_j = A^(K-j) Hess g A^(K-j) exactly."""
    problem, hessian = regression(label_noise=0.7)
    theta0 = torch.tensor([0.9, -0.4], dtype=torch.float64)
    dt = LR / (divide or 1)
    steps = STEPS * (divide or 1)
    bend = torch.tensor([[2.0, 0.6], [0.6, -1.0]], dtype=torch.float64)
    slope = torch.tensor([0.3, -0.8], dtype=torch.float64)
    observables = {"g": lambda theta: ((theta @ bend) * theta).sum(-1) / 2 + theta @ slope}
    if divide is None:
        process, variance = DropoutIteration(problem, LR, 1), LR**2
        exact = LinearMoments(problem, theta0).iteration(LR, steps, observables["g"])
    else:
        process, variance = integration(sme.ModifiedEquation(problem, LR, 1), theta0, "euler", dt, 1), LR * dt
        exact = LinearMoments(problem, theta0).scheme(LR, 1, LR * STEPS, "euler", dt, observables["g"])
    A = torch.eye(2, dtype=torch.float64) - dt * hessian
    powers = [torch.linalg.matrix_power(A, steps - j) for j in range(steps + 1)]
    lams = [(power.mT @ bend @ power)[None, None] for power in powers]
    factor = problem.noise_factor(theta0)
    forms = ValueHessians(dt, [DenseForms(lam) for lam in lams], [DenseForms(factor.mT @ lam @ factor) for lam in lams])
    path = NoiseFreePath.of(process, theta0, [steps], observables)
    control = ControlVariate(path, dt, process.noise_time, variance, forms)
    values = Sampler(process, theta0, [steps], observables, control).values(0)[..., 0, 0]
    assert (values[[0, 2, 3, 4]].std(1) > 1e-3).all()  # all four vary from path to path
    assert values[1] == pytest.approx(np.full(values.shape[1], exact), rel=1e-12)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scheme", [None, "svag", "sampled_euler"])
def test_draw_control_is_all_of_a_noise_that_is_linear_in_its_draws(scheme, count):
    """Noise on the parameters of a linear model shifts the gradient by Hess xi: weights are linear in every draw."""
    problem, _ = regression(parameter_noise=0.3)
    problem = AveragedProblem(problem, count) if count > 1 else problem
    theta0, dt = torch.tensor([0.9, -0.4], dtype=torch.float64), LR / 2
    observables = {"first": lambda theta: theta[..., 0], "sum": lambda theta: theta.sum(-1)}
    if scheme is None:
        process, steps = DropoutIteration(problem, LR, 1), STEPS
    else:
        process, steps = integration(sme.ModifiedEquation(problem, LR, 1), theta0, scheme, dt, 1), 2 * STEPS
    control = DrawControlVariate.of(problem, NoiseFreePath.of(process, theta0, [2, steps], observables))
    values = Sampler(process, theta0, [2, steps], observables, control).values(0)
    assert (values[0, :, 1].std(0) > 1e-3).all() and (values[2, :, 0] == 0).all()
    assert np.ptp(values[1, :, 1], axis=0).max() < 1e-12


@pytest.mark.parametrize("scheme", [None, "euler", "svag", "sampled_euler"])
def test_a_step_is_its_prediction_and_noise_of_the_stated_variance(scheme):
    """increment = s C chi with s = -lr for the iteration, sqrt(lr dt) for an equation."""
    problem = make_problem(width=3, out_features=2)
    theta0, dt = problem.initial(), 0.05
    if scheme is None:
        process, size = DropoutIteration(problem, LR, 1), -LR
    else:
        process, size = integration(sme.ModifiedEquation(problem, LR, 1), theta0, scheme, dt, 1), (LR * dt) ** 0.5
    theta = theta0.expand(process.block_size, -1).contiguous()
    taken = process.advance_split(theta, 0, 3)
    assert torch.allclose(taken.prediction, theta - (dt if scheme else LR) * problem.mean_gradient(theta), rtol=1e-12)
    assert torch.allclose(taken.prediction + taken.increment, taken.state, rtol=1e-12)
    assert torch.allclose(size * problem.noise_product(theta, taken.noise), taken.increment, rtol=1e-9, atol=1e-13)
    assert float(taken.noise.square().mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("antithetic", [False, True])
def test_antithetic_gradients_change_the_sign_of_the_deviations_alone(antithetic):
    problem = make_problem(width=2)
    equation = sme.ModifiedEquation(problem, LR, 1)
    process = integration(equation, problem.initial(), "svag", LR / 4, 1, antithetic=antithetic)
    draws, weights = process._draws(problem, 0, 2)
    deviation = (2 * 4 - 1) ** 0.5 / 2
    half = process.block_size // 2
    signs = torch.ones(process.block_size, 1, dtype=torch.float64)
    signs[half:] = -1 if antithetic else 1
    for weight, sign in zip(weights, (1, -1), strict=True):
        assert torch.allclose(weight, 0.5 + sign * deviation * signs)
    assert all(torch.equal(draw[:half], draw[half:]) == antithetic for draw in draws)


# --- steps of schemes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scheme", ["euler", "small_noise_heun", "small_noise_rk4"])
def test_a_step_of_a_scheme_is_a_polynomial_where_the_drift_is_linear(scheme, order):
    """b = -h y, C constant, z = h dt; the perturbation P is taken at (1 - z/2) y and enters as the stages say."""
    h, lr, dt = 1.7, 0.3, 0.25
    x = torch.full((1, 1), h**0.5, dtype=torch.float64)
    problem = sme.ModuleProblem(nn.Linear(1, 1, bias=False).double(), x, 0 * x, label_noise=0.6)
    y = torch.tensor([[0.8], [-1.1]], dtype=torch.float64)
    process = integration(sme.ModifiedEquation(problem, lr, order), y[0], scheme, dt)
    increments = torch.tensor([[0.4], [-0.9]], dtype=torch.float64)
    found, prediction, increment = process._step(y, 3, increments)
    noise = -(lr**0.5) * 0.6 * h**0.5 * increments
    z, correction = h * dt, (order - 1) * lr * h**2 * dt / 2
    if scheme == "euler":
        plain = (1 - z - correction) * y
        expected = plain + noise
    else:
        P = noise - correction * (1 - z / 2) * y
        plain = (1 - z + z**2 / 2) * y - correction * (1 - z / 2) * y
        heun = (1 - z + z**2 / 2) * y + (1 - z / 2) * P
        rk4 = (1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24) * y + (1 - z / 2 + z**2 / 6) * P
        expected = heun if scheme == "small_noise_heun" else rk4
        if scheme == "small_noise_rk4":  # its prediction takes the second stage, one step further
            plain = (1 - z * (1 - z / 2)) * y - correction * (1 - z / 2) * y
    assert torch.allclose(increment, noise, rtol=1e-13)
    assert torch.allclose(found, expected, rtol=1e-13)
    assert torch.allclose(prediction, plain, rtol=1e-13)
    assert process.noise_time == (1.0 if scheme == "euler" else 0.5)
    advanced = process._scheme.advance(process._sde, 3 * dt, 4 * dt, y, increments)
    assert torch.allclose(advanced, found, rtol=1e-13)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 8.0])
def test_weights_of_gradient_schemes_have_their_sums(ratio):
    """sum_r a_r = 1 and sum_r a_r^2 = lr / dt, whatever the sign of the deviations, so that R is at least dt / lr."""
    for name in ("svag", "sampled_euler"):
        means, deviations = map(np.array, sme.SCHEMES[name].weights(ratio))
        for sign in (1, -1):
            weights = means + sign * deviations
            assert (weights.sum(), np.square(weights).sum()) == exactly((1.0, ratio)) and len(weights) >= 1 / ratio
        with pytest.raises(ValueError, match="dt must be at most 2 lr"):
            sme.SCHEMES[name].weights(0.49)
    assert sme.SCHEMES["sampled_euler"].weights(2.5)[0] == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("rank", [5, 16])  # kernels take whole vectors
def test_bilinear_forms_are_those_of_their_matrices(rank):
    generator = torch.Generator().manual_seed(0)
    factors, values, left, right, origin = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 2, 7, rank), (3, 2, rank), (11, 7), (11, 7), (7,))
    )
    matrices = (factors * values[:, :, None]) @ factors.mT
    for one, other, at in ((left, right, None), (left, left, None), (left, right, origin)):
        expected = torch.einsum("bi,toij,bj->bto", one if at is None else one - at, matrices, other)
        for forms in (LowRankForms(factors, values), DenseForms(matrices)):
            assert torch.allclose(forms.bilinear(one, other, at), expected, rtol=1e-12, atol=1e-12)
            assert torch.allclose(forms.trace, torch.einsum("toii->to", matrices), rtol=1e-12)
