"""Gradients through paths agree with closed-form moments, linear moments, and differences of the same path."""

import math

import pytest
import torch
import torchsde
from problems import linear_problem, make_problem
from torch.autograd import gradcheck

import smesolve as sme
from smesolve.comparison.exact.linear_moments import LinearMoments

SCALAR = sme.DropoutProblem(
    sme.LinearNetwork(1), torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), keep_prob=0.8
)
"""R_S = (eta theta)^2 / 2, whose equation is a geometric Brownian motion."""


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def unresolved(values, exact):
    """Return whether the mean of independent values lies within four standard errors of the exact one."""
    assert float(values.std()) > 0
    return abs(float(values.mean()) - exact) < 4 * float(values.std()) / len(values) ** 0.5


def derivatives_along_each(end, values):
    """Derivatives of end(*values), one value for each path, with respect to each of the scalars: a list of (paths,)."""
    units = torch.eye(len(values), dtype=torch.float64)
    return [torch.func.jvp(end, tuple(values), tuple(unit))[1] for unit in units]


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_scalar_dropout_are_those_of_its_closed_moments(order):
    """E theta_T^2 = theta_0^2 exp(T (-2/k - [order 2] lr/k^2 + lr (1/k^3 - 1/k^2))), for keep_prob k."""
    horizon, count = 0.5, 2000
    leaves = lr, keep_prob, theta0 = scalar(0.1), scalar(0.8), scalar(1.3)
    rate = -2 / keep_prob - (order == 2) * lr / keep_prob**2 + lr * (1 / keep_prob**3 - 1 / keep_prob**2)
    exact = torch.autograd.grad(theta0**2 * torch.exp(horizon * rate), leaves)

    def end(lr, keep_prob, theta0):
        equation = sme.ModifiedEquation(SCALAR, lr, order, keep_prob=keep_prob)
        paths = sme.solve(equation, theta0[None], [0, horizon], dt=0.1, paths=count, seed=3, differentiable=True)
        return paths[-1, :, 0].square()

    found = derivatives_along_each(end, [leaf.detach() for leaf in leaves])
    means = torch.autograd.grad(end(*leaves).mean(), leaves)
    for values, value, mean in zip(found, exact, means, strict=True):
        assert unresolved(values, float(value))
        assert math.isclose(float(mean), float(values.mean()), rel_tol=1e-10)  # reverse and forward mode


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_a_linear_readout_are_those_of_its_exact_moments(order):
    theta0 = linear_problem().initial(seed=1)

    def exact(lr, keep_prob, size):
        moments = LinearMoments(linear_problem(keep_prob), size * theta0)
        return moments.equation(lr, order, 0.4, "squared_norm")

    def end(lr, keep_prob, size):
        equation = sme.ModifiedEquation(linear_problem(), lr, order, keep_prob=keep_prob)
        paths = sme.solve(equation, size * theta0, [0, 0.4], dt=0.1, paths=2000, differentiable=True)
        return paths[-1].square().sum(-1)

    at, shift = [0.2, 0.7, 1.0], 1e-5
    found = derivatives_along_each(end, [torch.tensor(value, dtype=torch.float64) for value in at])
    for k, values in enumerate(found):
        above, below = (exact(*[value + sign * shift * (j == k) for j, value in enumerate(at)]) for sign in (1, -1))
        assert unresolved(values, (above - below) / (2 * shift))


def module_problem(**options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1)).double()
    if options.pop("dropout", False):
        module.insert(1, torch.nn.Dropout(0.2))
    return sme.ModuleProblem(module, x, x[:, :1].sin(), **options)


CASES = {
    "per sample": (make_problem(width=2, masks="per_sample"), 2, "small_noise_heun", True),
    "weak noise": (make_problem(width=2, out_features=2).with_weak_noise(), 1, "small_noise_rk4", True),
    "another law": (make_problem(width=2, law=sme.GaussianMasks(0.2)), 2, "small_noise_heun", False),
    "features (slow)": (make_problem(width=1, depth=2, samples=3), 2, "euler", True),
    "batches": (module_problem(batch_size=2), 2, "small_noise_rk4", False),
    "gradients only (slow)": (module_problem(dropout=True), 2, "svag", False),
    "sampled drift": (module_problem(dropout=True), 1, "sampled_euler", False),
    "momentum (slow)": (sme.Training(make_problem(width=1), torch.optim.SGD, lr=0.1, momentum=0.5), 2, "euler", False),
    "schedule": (sme.ScheduledProblem(make_problem(width=2), lambda t: 1 + t), 2, "small_noise_rk4", False),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("slow" in name)) for name in CASES])
def test_gradients_are_those_of_the_steps(name):
    problem, order, scheme, has_keep_prob = CASES[name]
    given = [scalar(0.1), problem.initial(seed=1).requires_grad_(), *[scalar(0.8)] * has_keep_prob]
    weights = torch.randn(2, problem.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def paths(lr, theta0, keep_prob=None, **options):
        equation = sme.ModifiedEquation(problem, lr, order, keep_prob=keep_prob)
        return sme.solve(equation, theta0, [0, 0.1], scheme=scheme, dt=0.05, paths=2, seed=1, **options)

    assert gradcheck(lambda *leaves: (weights * paths(*leaves, differentiable=True)[-1]).sum(), given)
    plain = paths(*given)
    assert not plain.requires_grad and torch.allclose(plain, paths(*given, differentiable=True), rtol=1e-12)


def test_paths_of_several_blocks_are_those_without_derivatives():
    problem = make_problem(width=2)
    theta0, many = problem.initial(), problem.block_size + 3
    equation = sme.ModifiedEquation(problem, scalar(0.1), 1)
    with torch.no_grad():
        found = sme.solve(equation, theta0, [0, 0.1, 0.3], dt=0.1, paths=many, differentiable=True)
    assert found.requires_grad and found.shape == (3, many, problem.dim)
    assert torch.allclose(found, sme.solve(equation, theta0, [0, 0.1, 0.3], dt=0.1, paths=many), rtol=1e-12)


class Growth(torch.nn.Module):
    """dY = rate Y dt + 0.1 Y dW."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def f(self, t, y):
        return self.rate * y

    def g(self, t, y):
        return 0.1 * y


def test_gradients_reach_the_parameters_of_any_sde():
    """An Euler step of Y multiplies by 1 + rate dt + 0.1 dW, so that d log Y_T/d rate is a sum over its steps."""
    sde, dt, bm = Growth(), 0.25, sme.KeyedBrownian(5, 1, 0.25, seed=4)
    theta0 = torch.ones(1, dtype=torch.float64)
    end = sme.solve(sde, theta0, [0, 1], scheme="euler", dt=dt, paths=5, bm=bm, differentiable=True)[-1]
    end.log().sum().backward()
    exact = sum((dt / (1 + 0.3 * dt + 0.1 * bm.increment(k, k + 1))).sum() for k in range(4))
    assert torch.allclose(sde.rate.grad, exact)


def test_torchsdes_adjoint_reaches_parameters_of_the_equation():
    problem, grads = make_problem(width=2), {}
    theta0, ts = problem.initial().expand(3, -1), torch.tensor([0.0, 0.1], dtype=torch.float64)
    for integrate, more in ((torchsde.sdeint, {}), (torchsde.sdeint_adjoint, {"adjoint_method": "euler"})):
        leaves = [torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.1, 0.8)]
        equation = sme.ModifiedEquation(problem, leaves[0], 2, dense=True, keep_prob=leaves[1])
        assert {name for name, _ in equation.named_parameters()} == {"lr", "keep_prob"}
        size = (3, problem.noise_dim)
        bm = torchsde.BrownianInterval(0.0, 0.1, size=size, dtype=torch.float64, entropy=1)
        problem.loss(integrate(equation, theta0, ts, bm=bm, method="euler", dt=0.0025, **more)[-1]).sum().backward()
        grads[integrate] = torch.stack([leaf.grad for leaf in leaves])
    exact, adjoint = grads.values()
    assert (adjoint - exact).norm() < 0.05 * exact.norm()


EQUATION = sme.ModifiedEquation(SCALAR, lr=0.1, order=1)
START = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("sde", "more", "words"),
    [
        (EQUATION, {}, "nothing requires a gradient; set .requires_grad_"),
        (EQUATION, {"observables": ["loss"]}, "table of observables has no gradients; leave observables out"),
        (EQUATION, {"workers": 2}, "workers=2 has no meaning beside differentiable=True"),
        (EQUATION, {"differentiable": 1}, "differentiable must be True or False"),
        (EQUATION, {"max_memory": 10}, "max_memory=10 bytes is less than the .* bytes or so .* gradients of several"),
        (sme.ModifiedEquation(SCALAR, 0.1, "quadratic"), {}, "order='quadratic' resums by Lanczos"),
        (sme.ModifiedEquation(SCALAR, 0.1, 3), {}, "order=3 jumps at random times"),
        (sme.ModifiedEquation(SCALAR, 0.1, "poisson"), {}, "order='poisson' jumps at random times"),
        (sme.ModifiedEquation(SCALAR, 0.1, 1, keep_prob=scalar(0.8)), {"scheme": "svag"}, "masks have no derivative"),
    ],
)
def test_what_has_no_derivative_is_refused(sde, more, words):
    with pytest.raises(sme.SmesolveError, match=words):
        sme.solve(sde, START, [0, 1], **{"dt": 0.05, "paths": 2, "differentiable": True} | more)


@pytest.mark.parametrize(
    ("problem", "options", "words"),
    [
        (SCALAR, {"lr": scalar(-0.1)}, "lr must be a positive number, got"),
        (SCALAR, {"lr": torch.tensor([0.1])}, "lr must be a number, or a floating-point tensor of shape"),
        (SCALAR, {"lr": torch.tensor(1)}, "lr must be a number, or a floating-point tensor of shape"),
        (SCALAR, {"lr": scalar(0.1), "order": 3}, "lr is a tensor, but paths of order=3 jump"),
        (SCALAR, {"keep_prob": scalar(0.5), "order": "poisson"}, "keep_prob is a tensor, but paths of order='poisson'"),
        (SCALAR, {"keep_prob": scalar(1.0)}, "at 1 there is no noise"),
        (SCALAR, {"keep_prob": 1.5}, "keep_prob must lie in"),
        (module_problem(), {"keep_prob": 0.5}, "keep_prob is an argument for a DropoutProblem, got ModuleProblem"),
        (make_problem(law=sme.GaussianMasks(0.2)), {"keep_prob": scalar(0.5)}, "does not describe the masks"),
    ],
)
def test_tensors_that_no_derivative_goes_through_are_refused(problem, options, words):
    with pytest.raises(sme.SmesolveError, match=words):
        sme.ModifiedEquation(problem, **{"lr": 0.1} | options)


def test_a_keep_prob_of_the_equation_is_that_of_a_problem():
    problem, other = make_problem(keep_prob=0.8), make_problem(keep_prob=0.6)
    theta = problem.initial().expand(2, -1)
    for given in (0.6, scalar(0.6)):
        equation = sme.ModifiedEquation(problem, 0.1, keep_prob=given)
        assert torch.allclose(equation.f(0.0, theta), sme.ModifiedEquation(other, 0.1).f(0.0, theta), rtol=1e-13)
    assert "0.6" in problem.with_keep_prob(0.6)._repr_latex_() and "0.6" in equation.problem._repr_latex_()
    assert "0.1" in sme.ModifiedEquation(problem, scalar(0.1))._repr_latex_()


@pytest.mark.parametrize("name", ["theta0", "lr", "keep_prob"])
def test_tensors_made_in_inference_mode_do_not_lose_their_gradient_in_silence(name):
    problem, given = make_problem(), {"ts": [0.0, 0.2], "dt": 0.1, "paths": 2, "differentiable": True}
    leaves = {"theta0": problem.initial(seed=0), "lr": scalar(0.1), "keep_prob": scalar(0.7)}
    with torch.inference_mode():
        leaves[name] = leaves[name].detach().clone().requires_grad_()

    def paths():
        sde = sme.ModifiedEquation(problem, lr=leaves["lr"], order=1, keep_prob=leaves["keep_prob"])
        return sme.solve(sde, leaves["theta0"], **given)

    with pytest.raises(sme.SmesolveError, match=f"{name} requires a gradient, but it was made in"):
        paths()
    leaves[name] = leaves[name].clone().detach().requires_grad_()
    with torch.inference_mode():  # the call itself may be in it: its paths have a graph
        found = paths()
    assert torch.autograd.grad(found[-1].square().sum(), leaves[name])[0].any()


def test_parameters_of_an_sde_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        sde = Growth()
    with pytest.raises(sme.SmesolveError, match="rate requires a gradient, but it was made in"):
        sme.solve(sde, torch.ones(1, dtype=torch.float64), [0, 0.1], dt=0.1, paths=2, differentiable=True)
