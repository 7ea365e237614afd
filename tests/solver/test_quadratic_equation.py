"""The equation that resums the steps of a quadratic loss, and the limits of stability."""

import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, scalar_dropout
from smesolve.solver.lanczos import apply_function


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


@pytest.mark.parametrize("dim", [1, 3, 24])
def test_lanczos_applies_functions_of_matrices(dim):
    generator = torch.Generator().manual_seed(dim)
    basis = torch.linalg.qr(torch.randn(4, dim, dim, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(-0.2, 0.8, dim, dtype=torch.float64)
    A = basis @ (values[:, None] * basis.mT)
    vector = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    vector[3] = basis[3, :, 0]  # an eigenvector: the Krylov space has one dimension
    exact = (basis @ ((-torch.log1p(-values))[:, None] * basis.mT) @ vector[..., None])[..., 0]
    found = apply_function(lambda v: (A @ v[..., None])[..., 0], vector, lambda z: -torch.log1p(-z), steps=24)
    assert relative(found, exact) < 1e-12
    if dim == 24:  # the error falls geometrically
        few = [apply_function(lambda v: (A @ v[..., None])[..., 0], vector, torch.exp, steps=k) for k in (2, 4, 8)]
        exact = (basis @ (values.exp()[:, None] * basis.mT) @ vector[..., None])[..., 0]
        errors = [relative(one, exact) for one in few]
        assert errors[1] < 0.05 * errors[0]
        assert errors[2] < 1e-4 * errors[1]


def test_the_quadratic_equation_has_the_mean_of_the_iteration_exactly():
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    for lr in (0.3, 0.1):
        steps = round(1.2 / lr)
        exact = moments.iteration(lr, steps, "theta[0]")
        assert moments.equation(lr, "quadratic", 1.2, "theta[0]") == pytest.approx(exact, abs=1e-12)
        assert abs(moments.equation(lr, 2, 1.2, "theta[0]") - exact) > 1e-6
    equation = sme.ModifiedEquation(problem, 0.3, "quadratic")
    theta = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessian = torch.func.hessian(problem.modified_loss)(theta0)
    values, vectors = torch.linalg.eigh(0.3 * hessian)
    phi = vectors @ torch.diag(-torch.log1p(-values) / values) @ vectors.mT
    assert relative(equation.f(0.0, theta), -problem.mean_gradient(theta) @ phi) < 1e-12
    root = vectors @ torch.diag((2 * torch.log1p(-values) / values / (values - 2)).sqrt()) @ vectors.mT
    normals = torch.randn(5, problem.noise_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = 0.3**0.5 * problem.noise_product(theta, normals) @ root
    assert relative(equation.g_prod(0.0, theta, normals), noise) < 1e-12
    end = sme.solve(equation, theta0, [0, 1.2], dt=0.15, paths=20_000)[-1]
    exact = moments.iteration(0.3, 4, "theta[0]")
    assert abs(end[:, 0].mean() - exact) < 4 * end[:, 0].std() / 20_000**0.5 + 1e-4


def test_the_quadratic_equation_has_the_stationary_variance_for_noise_that_does_not_depend_on_theta():
    """One parameter and label noise: the iteration's variance is known in closed form, orders 1 and 2 miss it."""
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    problem = sme.ModuleProblem(torch.nn.Linear(1, 1, bias=False).double(), x, y, label_noise=0.5)
    moments, lr = LinearMoments(problem, torch.zeros(1, dtype=torch.float64)), 0.4
    exact = lr**2 * 0.25 / (1 - (1 - lr) ** 2)
    assert moments.stationary(lr, None, "squared_norm") == pytest.approx(exact, rel=1e-12)
    assert moments.stationary(lr, "quadratic", "squared_norm") == pytest.approx(exact, rel=1e-12)
    assert moments.stationary(lr, 1, "squared_norm") == pytest.approx(lr * 0.25 / 2, rel=1e-12)
    assert moments.stationary(lr, 2, "squared_norm") == pytest.approx(lr * 0.25 / 2 / (1 + lr / 2), rel=1e-12)
    assert moments.stability_limit() == pytest.approx(2.0, rel=1e-10)
    with pytest.raises(ValueError, match="has no stationary state"):
        moments.stationary(2.5, None)
    assert moments.stability_limit("quadratic") == pytest.approx(1.0, rel=1e-10)
    for lr in (1.0, 2.0):
        with pytest.raises(ValueError, match="is not below 1/lambda_max = 1, beyond which the equation 'quadratic'"):
            moments.equation(lr, "quadratic", 4.0)


@pytest.mark.parametrize("keep_prob", [0.1, 0.3, 0.8])
def test_stability_limits_equal_the_closed_forms_of_scalar_dropout(keep_prob):
    x = y = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), x, y, keep_prob=keep_prob)
    moments = LinearMoments(problem, torch.zeros(1, dtype=torch.float64))
    closed = scalar_dropout(keep_prob, 0.01, 1.0)
    assert moments.stability_limit() == pytest.approx(closed[None].stability_limit, rel=1e-10)
    for order in (1, 2):
        limit = closed[order].stability_limit
        assert moments.stability_limit(order) == (pytest.approx(limit, rel=1e-10) if limit < 1e6 else limit)


def test_the_quadratic_equation_is_no_weak_order_to_certify():
    problem = make_problem()
    with pytest.raises(ValueError, match="the quadratic equation has no weak order of its own"):
        sme.weak_error(problem, problem.initial(), [0.1], 1.0, orders=(1, "quadratic"))
    with pytest.raises(ValueError, match="knows orders 1 and 2 without schedules"):
        sme.solve(
            sme.ModifiedEquation(problem, 0.1, "quadratic"), problem.initial(), [0, 1.0], "svag", dt=0.05, paths=2
        )
