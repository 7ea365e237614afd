"""Predicted leading constants against exact weak errors, whatever the horizon."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm_frechet

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, ScheduledMoments
from smesolve.comparison.exact.quadratic_observable import QuadraticObservable
from smesolve.comparison.leading_constants import _from_step_sizes, first_constants, leading_constants, second_constants
from smesolve.problem.observables import named_observables
from smesolve.problem.schedule import step

KEEP_PROB, CURVATURES = 0.9, (0.03, 4.01)


def stiff_problem():
    """Linear regression whose Hessian has the eigenvalues `CURVATURES`.

    Dropout multiplies the diagonal of X^T X/n by 1/keep_prob.
    """
    angle = 0.15
    axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    hessian = axes @ np.diag(CURVATURES) @ axes.T
    moments = np.where(np.eye(2), KEEP_PROB, 1.0) * hessian
    x, y = 2**0.5 * np.linalg.cholesky(moments).T, np.array([[1.0], [-0.5]])
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, y, keep_prob=KEEP_PROB)
    return problem, torch.tensor([0.6, -0.8], dtype=torch.float64)


def exact_constant(moments, order, time, observable):
    """d^p/dlr^p of the error at lr = 0, over p!, from the linear maps of second moments vec P.

    A step of the iteration is I + lr G + lr^2 W, so it follows the generator (its logarithm over lr)

        G + lr (W - G^2/2) + lr^2 (G^3/3 - (G W + W G)/2) + ...

    over time lr, and the equation G + lr (its own term). The first term in which they differ gives the constant, by the
    derivative of the matrix exponential.
    """
    size = moments._start.shape[0]
    G = moments._gradient.generator(0.0, 1)
    W = moments._gradient.step(1.0).moment_map() - np.eye(size**2) - G
    own = moments._gradient.generator(1.0, order) - G
    missing = own - (W - G @ G / 2)
    if order == 2:
        assert np.allclose(missing, 0)
        missing = -(G @ G @ G / 3 - (G @ W + W @ G) / 2)
    change = expm_frechet(time * G, time * missing, compute_expm=False) @ moments._start.flatten()
    quadratic = QuadraticObservable.of(moments.problem, observable)
    return quadratic.expectation(change.reshape(size, size)) - float(quadratic.constant)


def test_the_stiff_problem_has_its_curvatures():
    problem, theta0 = stiff_problem()
    identity = torch.eye(2, dtype=torch.float64)
    hessian = problem.hessian_product(theta0.expand_as(identity), identity)
    assert np.linalg.eigvalsh(hessian.numpy()) == pytest.approx(CURVATURES)


def test_exact_constants_are_the_limits_of_exact_errors():
    problem, theta0 = stiff_problem()
    moments = LinearMoments(problem, theta0)
    for order in (1, 2):
        exact = exact_constant(moments, order, 4.0, "squared_norm")
        limit = extrapolated(lambda lr, p=order: moments.error(lr, p, 4.0, "squared_norm"), order, 1 / 64)
        assert exact == pytest.approx(limit, rel=1e-4)


def extrapolated(error, order, lr):
    """error(lr)/lr^order at lr = 0, from lr, lr/2 and lr/4."""
    coarse, middle, fine = (error(lr / part) / (lr / part) ** order for part in (1, 2, 4))
    return (4 * (2 * fine - middle) - (2 * middle - coarse)) / 3


@pytest.mark.parametrize(
    "order, horizon",
    [
        *((1, horizon) for horizon in (4.0, 16.0, 64.0)),
        (2, 4.0),
        *(pytest.param(2, horizon, marks=pytest.mark.slow) for horizon in (8.0, 16.0, 32.0, 48.0, 56.0, 64.0)),
    ],
)
def test_constants_are_exact_at_horizons_of_many_relaxation_times(order, horizon):
    """The largest horizon is 257 relaxation times of the larger curvature and two of the smaller.

    The constant of theta[0] is nearly 0 at a horizon of 16, where its terms cancel.
    """
    problem, theta0 = stiff_problem()
    observables = named_observables(problem, ["squared_norm", "theta[0]"])
    predicted = first_constants(problem, theta0, horizon, observables, 0.1)
    if order == 2:
        predicted = second_constants(problem, theta0, horizon, observables)
    for name, (constant, error) in predicted.items():
        exact = exact_constant(LinearMoments(problem, theta0), order, horizon, name)
        assert abs(constant - exact) <= error
        assert error < (1e-3 if name == "squared_norm" else 1e-2) * abs(exact)


def test_a_hessian_product_of_a_linear_network_is_the_derivative_of_its_gradient():
    problem, _ = stiff_problem()
    theta, vector = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.func.jvp(problem.mean_gradient, (theta,), (vector,))[1]
    torch.testing.assert_close(problem.hessian_product(theta, vector), expected)


@pytest.mark.slow
def test_the_error_of_a_constant_is_in_the_prediction():
    problem, theta0 = stiff_problem()
    table = leading_constants(problem, theta0, [1.0], named_observables(problem, ["loss", "theta[0]"]), 0.1, [1, 2])
    assert len(table) == 4
    assert (table.stderr > 0).all()
    assert (table.stderr < 1e-3 * table.constant.abs()).all()


def test_a_network_with_kinks_is_followed_by_stable_steps():
    """Without kinks, the fit to step sizes gives the constant of the adjoint, however large the step asked for."""
    problem, theta0 = stiff_problem()
    observables = named_observables(problem, ["squared_norm"])
    exact, _ = first_constants(problem, theta0, 16.0, observables, 0.1)["squared_norm"]
    limit = problem.stability_limit(theta0)
    fitted, _ = _from_step_sizes(problem, theta0, 16.0, observables, limit / 8)["squared_norm"]
    assert fitted == pytest.approx(exact, rel=0.02)


def test_a_constant_in_single_precision_is_that_of_double_precision():
    problem, theta0 = stiff_problem()
    observables = named_observables(problem, ["loss"])
    expected, _ = first_constants(problem, theta0, 2.0, observables, 0.1)["loss"]
    network = sme.LinearNetwork(2).float()
    single = sme.DropoutProblem(network, problem.x.float(), problem.y.float(), keep_prob=KEEP_PROB)
    constant, error = first_constants(single, theta0.float(), 2.0, named_observables(single, ["loss"]), 0.1)["loss"]
    assert constant == pytest.approx(expected, rel=1e-3)
    assert error < 1e-2 * abs(constant)


@pytest.mark.slow
def test_a_constant_under_a_schedule_with_a_jump_is_exact_at_a_long_horizon():
    problem, theta0 = stiff_problem()
    scheduled = sme.ScheduledProblem(problem, step(8.0, 0.3))
    observables = named_observables(problem, ["squared_norm"])
    constant, _ = first_constants(scheduled, theta0, 16.0, observables, 0.1)["squared_norm"]
    moments = ScheduledMoments(scheduled, theta0)
    exact = extrapolated(lambda lr: moments.error(lr, 1, 16.0, "squared_norm"), 1, 1 / 16)
    assert constant == pytest.approx(exact, rel=2e-3)


def test_the_columns_have_their_types_where_nothing_is_predicted():
    """An empty column of objects is no number to the numpy of old."""
    layers = torch.nn.Linear(2, 2), torch.nn.Dropout(0.5), torch.nn.Linear(2, 1)
    x, y = torch.ones(3, 2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    sampled = sme.ModuleProblem(torch.nn.Sequential(*layers).double(), x, y)
    table = leading_constants(sampled, sampled.initial(seed=0), [1.0], {"loss": sampled.loss}, 0.1, (1, 2))
    assert len(table) == 0 and table.time.dtype == table.constant.dtype == table.stderr.dtype == float


@pytest.mark.parametrize("observables", [["accuracy"], ["loss"]])
def test_a_study_of_flat_observables_has_a_fit_without_predictions(observables):
    """Accuracies have no derivative, nor has the loss where all inputs are 0."""
    x, y = torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.eye(2, dtype=torch.float64).repeat(2, 1)
    flat = x * 0 if observables == ["loss"] else x
    problem = sme.DropoutProblem(sme.LinearNetwork(2, 2), flat, y, keep_prob=0.8)
    study = sme.weak_error(problem, problem.initial(0), [0.2, 0.1], 0.2, observables=observables, paths=64)
    assert study.fit().verdict.tolist() == ["not resolved"] * 2 and study.fit().predicted_constant.isna().all()
