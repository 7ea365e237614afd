"""Penalties, flows and orders; condensation; information geometry."""

import numpy as np
import pytest
import torch
from landscape_checks import covers_as_stated, jacobians, plain_outputs
from problems import make_problem
from scipy.optimize import brentq

import smesolve as sme
from smesolve.experiments import condensation, exact_regularisation_orders, flatness, regularisation_orders
from smesolve.landscape import (
    cosine_map,
    covariance_trace,
    dropout_penalty_error,
    factorial_effects,
    filter_normalised_directions,
    first_penalty,
    fisher_penalty,
    flow,
    initial_points,
    input_weights,
    interpolation,
    loss_along,
    manifold_geometry,
    participation,
    penalty_comparison,
    second_penalty,
)
from smesolve.landscape.information_geometry import normal_curvatures
from smesolve.landscape.penalties import covariance_trace_gradient
from smesolve.problem.masks import BernoulliMasks, all_masks


def linear_problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    return sme.DropoutProblem(sme.LinearNetwork(3), x, y, keep_prob=0.8)


# --- implicit regularisation -------------------------------------------------------------------------------------


def test_penalties_equal_enumeration():
    problem = make_problem(width=4, out_features=2)
    theta = torch.stack([problem.initial(0), problem.initial(1)])
    masks, weights = problem.all_draws()
    contributions = problem.contributions(theta)
    expected = problem.law.variance / (2 * problem.samples) * contributions.square().sum((-3, -2, -1))
    assert torch.allclose(first_penalty(problem, theta), expected, atol=1e-14)
    squares = problem.gradient(theta[:, None], masks).square().sum(-1) @ weights
    assert torch.allclose(second_penalty(problem, theta, 0.3), 0.3 / 4 * squares, rtol=1e-12)
    trace = torch.stack([problem.covariance(t).trace() for t in theta])
    assert torch.allclose(covariance_trace(problem, theta), trace, rtol=1e-12)
    wide = make_problem(width=12)  # M = 78 columns, more than are held together
    slope = torch.func.grad(lambda vector: wide.covariance(vector).trace())(wide.initial())
    assert torch.allclose(covariance_trace_gradient(wide, wide.initial()), slope, rtol=1e-10, atol=1e-14)
    assert torch.allclose(covariance_trace(wide, wide.initial()), wide.covariance(wide.initial()).trace(), rtol=1e-12)


@pytest.mark.parametrize("name", ["flow of R_S", "flow of R_S + R_1", "flow of R_S + R_1 + R_2"])
def test_flow_descends_its_loss(name):
    """The velocity by a small time is minus the gradient of the loss that the name says."""
    problem = make_problem(width=3)
    theta, lr, time = problem.initial(), 0.2, 1e-4

    def penalised(t):
        value = problem.loss(t)
        if "R_1" in name:
            value = value + first_penalty(problem, t)
        return value + second_penalty(problem, t, lr) if "R_2" in name else value

    moved = (flow(problem, theta, name, lr, time) - flow(problem, theta, name, lr, 2 * time) / 4 - 0.75 * theta) * 2
    assert (moved / time + torch.func.grad(penalised)(theta)).abs().max() < 1e-5
    with pytest.raises(ValueError, match="name must be one of 'flow of R_S'"):
        flow(problem, theta, "R_3", lr, time)


def test_exact_orders_of_the_linear_model():
    """tr Sigma in R_2 costs the mean its second order; no flow has order 2 for the loss; SMEs have their orders."""
    problem = linear_problem()
    table = exact_regularisation_orders(problem, problem.initial(), [0.02, 0.01, 0.005], 1.0, ["theta[0]", "loss"])
    slopes = table[table.lr == 0.005].set_index(["observable", "model"]).slope
    expected = {
        "SME order 1": (1, 1),
        "SME order 2": (2, 2),
        "flow of R_S": (0, 0),
        "flow of R_S + R_1": (1, 1),
        "flow of R_S + R_1 + R_2": (1, 1),
        "flow of R_S + R_1 + lr/4 |grad L_S|^2": (2, 1),
    }
    for model, orders in expected.items():
        for observable, order in zip(("theta[0]", "loss"), orders, strict=True):
            assert abs(slopes[observable, model] - order) < 0.12, (model, observable, slopes[observable, model])


def test_measured_orders_of_a_small_network():
    problem = make_problem(width=3, samples=6)
    study = regularisation_orders(
        problem, problem.initial(1), [0.1, 0.05], 0.4, ["loss"], paths=1024, rel_tol=None, seed=0
    )
    assert set(study.table.model) == {
        "SME order 1", "SME order 2", "flow of R_S", "flow of R_S + R_1", "flow of R_S + R_1 + R_2",
        "flow of R_S + R_1 + lr/4 |grad L_S|^2",
    }  # fmt: skip
    assert np.allclose(study.table.value - study.table.dropout, study.table.error)
    fits = study.fits.set_index("model")
    assert fits.nominal["flow of R_S"] == 0 and fits.nominal["SME order 2"] == 2
    # Without R_1 the error stays as lr falls.
    assert abs(fits.slope["flow of R_S"]) < 0.5


# --- flatness ----------------------------------------------------------------------------------------------------


def test_filter_normalised_directions():
    problem = make_problem(width=3, out_features=2, bias=True)
    theta = problem.initial()
    rays = filter_normalised_directions(problem, theta, 4, seed=1)
    hidden, hidden_bias, readout, readout_bias = rays.split([6, 3, 6, 2], dim=1)
    own = theta.split([6, 3, 6, 2])
    assert torch.allclose(hidden.reshape(4, 3, 2).norm(dim=2), own[0].reshape(3, 2).norm(dim=1).expand(4, 3))
    assert torch.allclose(readout.reshape(4, 2, 3).norm(dim=2), own[2].reshape(2, 3).norm(dim=1).expand(4, 2))
    assert not hidden_bias.any() and not readout_bias.any()
    values = loss_along(problem, theta, rays, [0.0, 0.5])
    assert torch.equal(values[:, 0], problem.loss(theta).expand(4))
    assert torch.allclose(values[2, 1], problem.loss(theta + 0.5 * rays[2]))
    other = problem.initial(1)
    ends = interpolation(problem, theta, other, [0.0, 1.0])
    assert torch.allclose(ends, torch.stack([problem.loss(theta), problem.loss(other)]))


def test_flatness_and_the_effects_of_both_halves():
    problem = make_problem(width=3, out_features=2)
    names = ("gradient descent", "drift only", "noise only", "dropout")
    solutions = {name: initial_points(problem, 3, seed=10 * k) for k, name in enumerate(names)}
    study = flatness(problem, solutions, directions=3, rise=0.1, probes=problem.dim)
    theta = solutions["noise only"][2]
    H = torch.func.hessian(problem.loss)(theta)
    row = study.table.query("training == 'noise only' and run == 2").iloc[0]
    assert np.isclose(row.trace, float(H.trace())) and np.isclose(
        row.top_eigenvalue, float(torch.linalg.eigvalsh(H)[-1])
    )
    rays, base = filter_normalised_directions(problem, theta, 3, seed=2), problem.loss(theta)
    low, high = (
        np.array(
            [brentq(lambda t, ray=ray: float(problem.loss(theta + t * ray) - base - 0.1), 0, side) for ray in rays]
        )
        for side in (-3.0, 3.0)
    )
    assert np.isclose(row.width, (high - low).mean(), rtol=1e-9)
    assert len(study.interpolations) == 3 * 3 * 21 and len(study.curves) == 4 * 3 * 21
    logs = {"gradient descent": 0, "drift only": 1, "noise only": 5, "dropout": 7}
    table = study.table.assign(trace=np.exp(study.table.training.map(logs)))
    effects = factorial_effects(table, ["trace"]).set_index("effect").change
    assert np.allclose([effects["drift"], effects["noise"], effects["interaction"]], [1.5, 5.5, 1.0])
    with pytest.raises(ValueError, match="table lacks the training 'dropout'"):
        factorial_effects(study.table[study.table.training != "dropout"])
    assert factorial_effects(table.assign(trace=-1.0), ["trace"]).change.isna().all()


# --- condensation ------------------------------------------------------------------------------------------------


def test_orientations_of_known_weights():
    angles = np.radians([0, 5, 90, 95, 180, 45])
    weights = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([1, 2, 3, 1, 1, 1])[:, None]
    assert np.allclose(cosine_map(weights)[0], np.cos(angles))
    assert abs(participation(np.eye(4), np.ones(4)) - 4) < 1e-12
    assert abs(participation(np.array([[1.0, 1.0], [-2.0, -2.0]]), np.array([1.0, 3.0])) - 1) < 1e-12


def test_input_weights_and_condensation_study():
    problem = make_problem(width=3, out_features=2, bias=True)
    starts = initial_points(problem, 2)
    weights, amplitudes = input_weights(problem, starts)
    network = sme.TwoLayerNetwork(2, 3, 2, bias=True)
    torch.nn.utils.vector_to_parameters(starts[1], network.parameters())
    u = torch.cat([network.hidden.weight, network.hidden.bias[:, None]], 1).detach()
    assert np.allclose(weights[1], u)
    assert np.allclose(amplitudes[1], (u.norm(dim=1) * network.readout.weight.norm(dim=0)).detach())
    study = condensation(problem, starts, lr=0.05, steps=[0, 5])
    assert len(study.table) == 4 * 2 * 2 and set(study.maps) == {
        "gradient descent", "drift only", "dropout", "SME order 2",
    }  # fmt: skip
    first = study.table[study.table.step == 0].groupby("run").participation.nunique()
    assert (first == 1).all()
    with pytest.raises(ValueError, match=r"trainings\[0\] must be one of 'gradient descent'"):
        condensation(problem, starts, 0.05, [0, 1], ["adam"])
    with pytest.raises(ValueError, match="problem must have a TwoLayerNetwork"):
        input_weights(linear_problem(), linear_problem().initial())


# --- information geometry ----------------------------------------------------------------------------------------


def test_fisher_form_is_exact_for_squared_error_and_its_error_is_measured_otherwise():
    problem = make_problem(width=3, out_features=2)
    theta = problem.initial()
    at = problem.network.linearize(theta, problem.x)
    form = fisher_penalty(at.features.mT, at.readout.mT, problem.law.variance)
    assert abs(form - float(first_penalty(problem, theta))) < 1e-15
    law = BernoulliMasks(0.7)
    generator = torch.Generator().manual_seed(5)
    features, weights = problem.x.repeat(1, 2), torch.randn(4, 3, generator=generator, dtype=torch.float64)
    assert abs(dropout_penalty_error(features, weights, law, "gaussian", draws=4).value) < 1e-12
    masks, chances = all_masks(law, 4)
    outputs = ((masks[:, None] * features) @ weights).logsumexp(-1)
    penalty = float((chances @ outputs - (features @ weights).logsumexp(-1)).mean())
    form = fisher_penalty(features, weights, law.variance, "categorical")
    p = (features @ weights).softmax(-1)
    information = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    expected = law.variance / 2 * torch.einsum("ik,ko,iou,ku->i", features**2, weights, information, weights).mean()
    assert abs(form - float(expected)) < 1e-14
    hits, runs = 0, 200
    for seed in range(runs):
        error = dropout_penalty_error(features, weights, law, "categorical", seed=seed)
        hits += error.low <= penalty - form <= error.high
    assert covers_as_stated(hits, runs), hits
    row = penalty_comparison(features, weights, {0.7: law}, draws=400).iloc[0]
    assert row.penalty_low < penalty < row.penalty_high
    assert row.relative_error_low < (form - penalty) / penalty < row.relative_error_high
    with pytest.raises(ValueError, match="likelihood must be one of 'gaussian', 'categorical'"):
        fisher_penalty(features, weights, 0.1, "poisson")


def test_manifold_geometry_against_dense_projection():
    """n o = 12 outputs, D = 9 parameters: the normal space has dimension three or more."""
    problem = make_problem(width=3, samples=12)
    theta = problem.initial()
    J = jacobians(problem, theta)[0].flatten(0, 1)
    metric = J.mT @ J / 12
    found = manifold_geometry(problem, theta, probes=problem.dim, directions=3, seed=4)
    assert np.isclose(found.trace.value, float(metric.trace()))
    assert np.isclose(found.dimension.value, float(metric.trace() ** 2 / metric.square().sum()))
    assert np.isclose(found.top_eigenvalue, float(torch.linalg.eigvalsh(metric)[-1]))
    u = J.mT @ torch.from_numpy(np.random.default_rng(np.random.SeedSequence(4)).standard_normal(12))
    acceleration = torch.einsum("kij,i,j->k", torch.func.hessian(plain_outputs(problem))(theta).flatten(0, 1), u, u)
    residual = acceleration - J @ torch.linalg.lstsq(J, acceleration[:, None], driver="gelsd").solution[:, 0]
    expected = 12**0.5 * residual.norm() / (J @ u).square().sum()
    assert np.isclose(normal_curvatures(problem, theta, 1, seed=4)[0], float(expected), rtol=1e-9)


@pytest.mark.parametrize(("samples", "bias"), [(150, False), (60, True)])
def test_curvature_where_singular_values_are_on_all_scales(samples, bias):
    """More outputs than parameters and fewer. Iterative least squares is far from the projection here."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 8)) * np.logspace(0, -3, 8)
    network = sme.TwoLayerNetwork(8, 20, 3, bias=bias)
    problem = sme.DropoutProblem(network, x, rng.standard_normal((samples, 3)), keep_prob=0.8)
    theta = problem.initial()
    readout = theta[160 + 20 * bias : 220 + 20 * bias].view(3, 20)
    readout[1:] = readout[0]  # three outputs with the same hidden directions: J has no full rank
    found = normal_curvatures(problem, theta, 1, seed=4)[0]
    J = jacobians(problem, theta)[0].flatten(0, 1)
    left, values, _ = torch.linalg.svd(J, full_matrices=False)
    tangent = left[:, values > 2e-7 * values[0]]
    normals = np.random.default_rng(np.random.SeedSequence(4)).standard_normal((3, samples))  # output by output
    u = J.mT @ torch.from_numpy(normals.T.flatten())
    outputs = plain_outputs(problem)
    acceleration = torch.func.jvp(lambda v: torch.func.jvp(outputs, (v,), (u,))[1], (theta,), (u,))[1].flatten()
    normal = acceleration - tangent @ (tangent.mT @ acceleration)
    assert normal.norm() > 1e-5 * acceleration.norm()
    assert np.isclose(found, float(samples**0.5 * normal.norm() / (J @ u).square().sum()), rtol=1e-6)


def test_a_linear_model_is_flat():
    problem = linear_problem()
    assert manifold_geometry(problem, problem.initial(), probes=12, directions=2).curvature.value < 1e-12


class Valley(sme.Problem):
    """R_S = |theta_0| + |theta_1|^2 / 2: flows slide along the kink."""

    network, samples, dim, draw_dim, noise_dim, floats_per_path = None, 1, 2, 1, 0, 4
    dtype, device = torch.float64, torch.device("cpu")

    def draw(self, uniforms):
        return uniforms

    def loss(self, theta):
        return theta[..., 0].abs() + theta[..., 1].square() / 2

    modified_loss = loss

    def mean_gradient(self, theta):
        return torch.stack([torch.sign(theta[..., 0]), theta[..., 1]], -1)

    def gradient(self, theta, draw):
        return self.mean_gradient(theta)

    def noise_product(self, theta, normals):
        return torch.zeros_like(theta)


def test_a_flow_slides_along_a_kink():
    start = torch.tensor([0.3, 1.0], dtype=torch.float64)
    end = flow(Valley(), start, "flow of R_S + R_1", lr=0.1, horizon=1.0)
    assert end.tolist() == pytest.approx([0.0, np.exp(-1)], abs=1e-5)
