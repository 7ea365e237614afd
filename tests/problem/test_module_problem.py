"""Module problems: exact if mean and noise have closed forms, else within their intervals."""

import itertools

import numpy as np
import pytest
import torch
from problems import make_problem
from scipy import stats
from torch import nn

import smesolve as sme
from smesolve.sampling.randomness import keyed_uniforms


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()


def data(samples=5, out_features=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    return x, torch.randn(samples, out_features, generator=generator, dtype=torch.float64)


def perceptron(width=3, out_features=1, drop_prob=0.0, depth=1):
    layers, inputs = [], 2
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.Tanh()] + ([nn.Dropout(drop_prob)] if drop_prob else [])
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, out_features)).double()


def points(problem, count=2):
    return torch.randn(count, problem.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_a_two_layer_network_has_the_gradients_of_its_dropout_problem(masks):
    exact = make_problem(width=3, out_features=2, bias=True, masks=masks)
    module = sme.ModuleProblem(perceptron(3, 2, 1 - 0.8), exact.x, exact.y, masks=masks)
    assert module.dim == exact.dim
    assert not module.has_closed_form
    theta = points(module, 6)
    eta = exact.sample(6, seed=0)
    rows = eta if masks == "per_sample" else eta[:, None]
    assert relative(module.gradient(theta, {"mask 0": rows}), exact.gradient(theta, eta)) < 1e-13
    assert relative(module.loss(theta), exact.loss(theta)) < 1e-13
    mean, stderr = module.mean_gradient_estimate(theta[0], draws=4000, seed=3)
    within = (mean - exact.mean_gradient(theta[0])).abs() < 4.5 * stderr
    assert within.all()


@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_noise_of_two_draws_has_the_exact_covariance_within_its_interval(masks):
    exact = make_problem(width=3, bias=True, masks=masks)
    module = sme.ModuleProblem(perceptron(3, 1, 1 - 0.8), exact.x, exact.y, masks=masks)
    theta = exact.initial(seed=4)
    normals = torch.randn(20000, module.noise_dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = module.noise_product(theta, normals)
    products = noise[:, :, None] * noise[:, None, :]
    stderr = products.std(0) / len(noise) ** 0.5
    assert ((products.mean(0) - exact.covariance(theta)).abs() < 5 * stderr + 1e-14).all()
    assert (noise.mean(0).abs() < 5 * noise.std(0) / len(noise) ** 0.5 + 1e-14).all()


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_mini_batches_equal_enumeration(replacement, loss):
    x, y = data(4, 3)
    if loss == "cross_entropy":
        y = torch.tensor([0, 2, 1, 2])
    problem = sme.ModuleProblem(perceptron(2, 3), x, y, loss, batch_size=2, replacement=replacement, weight_decay=0.1)
    theta = points(problem)
    pairs = itertools.product(range(4), repeat=2) if replacement else itertools.permutations(range(4), 2)
    indices = torch.tensor(list(pairs))
    gradients = problem.gradient(theta[:, None], {"indices": indices})
    mean = gradients.mean(1)
    centred = gradients - mean[:, None]
    assert problem.has_closed_form
    assert relative(problem.mean_gradient(theta), mean) < 1e-13
    assert relative(problem.covariance(theta), centred.mT @ centred / len(indices)) < 1e-13
    functions = problem.noise_coordinates({"indices": indices})
    noise = problem.noise_product(theta[:, None], functions)
    assert relative(problem.mean_gradient(theta)[:, None] + noise, gradients) < 1e-13
    slope = torch.func.vmap(torch.func.grad(problem.modified_loss))(theta)
    assert relative(problem.mean_gradient(theta), slope) < 1e-13


@pytest.mark.parametrize("batch_size", [None, 2])
def test_label_noise_has_the_covariance_of_its_jacobian(batch_size):
    x, y = data(4, 2)
    quiet = sme.ModuleProblem(perceptron(2, 2), x, y, batch_size=batch_size)
    problem = sme.ModuleProblem(perceptron(2, 2), x, y, batch_size=batch_size, label_noise=0.3)
    theta = points(problem)[0]
    jacobian = torch.func.jacrev(lambda v: problem._function(v, problem.x).flatten())(theta)
    expected = 0.3**2 / (4 * (batch_size or 4)) * jacobian.mT @ jacobian
    if batch_size:
        expected = expected + quiet.covariance(theta)
    assert relative(problem.covariance(theta), expected) < 1e-13
    draw = problem.sample(50, seed=0)
    noise = problem.noise_product(theta, problem.noise_coordinates(draw))
    assert relative(problem.mean_gradient(theta) + noise, problem.gradient(theta, draw)) < 1e-13


def test_plain_gradient_descent_has_no_noise():
    x, y = data()
    problem = sme.ModuleProblem(perceptron(), x, y)
    assert problem.draw_dim == problem.noise_dim == 0
    paths = sme.iterate(problem, problem.initial(), lr=0.1, steps=5, paths=2)
    theta = problem.initial()
    for _ in range(5):
        theta = theta - 0.1 * problem.mean_gradient(theta)
    assert relative(paths[-1], theta.expand(2, -1)) < 1e-14
    assert problem.covariance(theta).abs().max() == 0
    table = sme.weak_error(problem, problem.initial(), [0.1], 0.5, observables=["loss"], times=[0.5], paths=8).table
    ends = sme.solve(sme.ModifiedEquation(problem, 0.1, 1), problem.initial(), [0, 0.5], dt=0.1, paths=1)
    error = table.error[0] + table.solver_bias[0]  # of the solution at this step
    assert error == pytest.approx(float(problem.loss(ends[-1, 0]) - problem.loss(theta)), abs=1e-15)
    assert table.stderr.max() < 1e-15
    assert table.resolved.all()


@pytest.mark.parametrize(
    "noise",
    [
        {"drop_prob": 0.3},
        {"drop_prob": 0.3, "masks": "shared"},
        {"drop_prob": 0.3, "batch_size": 3, "label_noise": 0.5},
        {"parameter_noise": 0.2},
    ],
)
def test_first_order_of_the_noise_is_its_derivative(noise):
    noise = dict(noise)
    x, y = data()
    problem = sme.ModuleProblem(perceptron(3, 1, noise.pop("drop_prob", 0.0), depth=2), x, y, **noise)
    theta, direction = points(problem)
    draw = problem.sample(7, seed=1)
    coefficients = problem.noise_coefficients(theta, direction)
    first_order = problem.noise_along(coefficients, draw)

    def scaled(t):  # the draw's noise shrunk to t, all but the choice of samples
        shrunk = {name: 1 + t * (part - 1) if "mask" in name else t * part for name, part in draw.items()}
        return problem.gradient(theta, shrunk | {k: draw[k] for k in draw if k == "indices"}) @ direction

    slope = (scaled(1e-5) - scaled(-1e-5)) / 2e-5
    chosen = scaled(0.0) - problem._over_paths("gradient", torch.func.grad(problem._mean_loss), theta) @ direction
    assert relative(first_order, slope + chosen) < 1e-8


@pytest.mark.parametrize("noise", [{"masks": "shared"}, {"parameter_noise": 0.2, "replacement": True}])
def test_first_order_of_the_noise_has_mean_zero_and_follows_the_gradient(noise):
    x, y = data()
    problem = sme.ModuleProblem(perceptron(3, 1, 0.2), x, y, batch_size=3, **noise)
    theta, direction = points(problem)
    draw = problem.sample(4000, seed=1)
    first_order = problem.noise_along(problem.noise_coefficients(theta, direction), draw)
    assert abs(first_order.mean()) < 4.5 * first_order.std() / 4000**0.5
    assert np.corrcoef(first_order, problem.gradient(theta, draw) @ direction)[0, 1] > 0.7


def test_reference_gradient_and_hessian_product_are_those_of_fixed_draws():
    x, y = data()
    problem = sme.ModuleProblem(perceptron(3, 1, 0.3, depth=2), x, y)
    theta, direction = points(problem)
    reference = problem.reference_gradient(theta)
    assert torch.equal(reference, problem.reference_gradient(theta))
    slope = torch.func.grad(problem.modified_loss)(theta)
    assert relative(reference, slope) < 1e-13
    hessian = torch.func.jacfwd(problem.reference_gradient)(theta)
    assert relative(problem.hessian_product(theta, direction), hessian @ direction) < 1e-12
    assert problem.stability_limit(theta) > 0
    with pytest.raises(ValueError, match="mean_gradient is not known in closed form"):
        problem.mean_gradient(theta)


def test_iterate_trains_as_torch_does():
    """Loss after training: torch's own dropout and optimiser against `iterate`, two-sample Kolmogorov-Smirnov."""
    x, y = data(8)
    module = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.2))
    module = module.append(nn.Linear(4, 1)).double()
    problem = sme.ModuleProblem(module, x, y, batch_size=4, weight_decay=0.01)
    theta0 = problem.initial(seed=1)
    paths = sme.iterate(problem, theta0, lr=0.1, steps=10, paths=400, save=[10])
    ours = problem.loss(paths[0]).numpy()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs = []
    for _ in range(400):
        nn.utils.vector_to_parameters(theta0.clone(), module.parameters())
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.01)
        for _ in range(10):
            batch = rng.choice(8, 4, replace=False)
            optimiser.zero_grad()
            ((module(x[batch]) - y[batch]).square().sum() / 8).backward()
            optimiser.step()
        theirs.append(problem.loss(nn.utils.parameters_to_vector(module.parameters()).detach()).item())
    assert stats.ks_2samp(ours, theirs).pvalue > 0.001
    quieter = sme.iterate(sme.ModuleProblem(module, x, y, weight_decay=0.01), theta0, 0.1, 10, 400, save=[10])
    assert stats.ks_2samp(problem.loss(quieter[0]).numpy(), theirs).pvalue < 0.001  # the test can tell laws apart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of squared_error, cross_entropy"),
        ({"loss": nn.MSELoss()}, "loss must give one torch.float64 number for each of the 5 samples"),
        ({"y": torch.ones(4, 1)}, "x and y must hold the same number of samples"),
        ({"y": torch.ones(5)}, "y must have the shape of the module's outputs"),
        ({"x": torch.full((5, 2), float("nan"))}, "x has 10 values that are NaN or infinite"),
        ({"batch_size": 6}, "batch_size must be an integer from 1 to the 5 samples"),
        ({"label_noise": -1.0}, "label_noise must be a number of at least 0"),
        ({"loss": "cross_entropy", "y": torch.tensor([0] * 5), "label_noise": 1.0}, "label_noise=1.0 needs"),
        ({"masks": "each"}, 'masks must be "shared" or "per_sample"'),
        ({"module": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))}, "batch normalisation"),
        ({"module": nn.Sequential(nn.Linear(2, 3), nn.FeatureAlphaDropout(), nn.Linear(3, 1))}, "FeatureAlphaDropout"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(arguments, message):
    x, y = data()
    arguments = {"module": perceptron(), "x": x, "y": y} | arguments
    arguments["module"] = arguments["module"].double()
    with pytest.raises(ValueError, match=message):
        sme.ModuleProblem(**arguments)


def test_frozen_batch_norm_and_repeated_dropout_are_taken():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.last(self.drop(nn.functional.dropout(self.norm(self.first(x)), 0.25, self.training)))

    module = Twice().double()
    module.norm.eval()
    x, y = data()
    problem = sme.ModuleProblem(module, x, y)
    draw = problem.draw(keyed_uniforms((3, problem.draw_dim), 0, 0, 0))
    assert [draw[name].shape for name in ("mask 0", "mask 1")] == [(3, 5, 3)] * 2
    assert set(draw["mask 0"].flatten().tolist()) == {0.0, 1 / 0.75}
    assert problem.gradient(problem.initial(), draw).shape == (3, problem.dim)


def test_outputs_may_be_one_number_a_sample():
    """With label noise and batches: the same gradients and noise as with a column of outputs."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    column = nn.Linear(2, 1).double()
    flat = nn.Sequential(column, nn.Flatten(0))
    options = {"batch_size": 3, "label_noise": 0.5}
    wide = sme.ModuleProblem(column, x, x[:, :1], **options)
    narrow = sme.ModuleProblem(flat, x, x[:, 0], **options)
    theta = wide.initial()
    first, second = wide.sample(4, 0), narrow.sample(4, 0)
    assert torch.equal(wide.gradient(theta, first), narrow.gradient(theta, second))
    functions = narrow.noise_coordinates(second)
    assert torch.allclose(functions, wide.noise_coordinates(first))
    gradient = narrow.mean_gradient(theta) + narrow.noise_product(theta, functions)
    assert torch.allclose(gradient, narrow.gradient(theta, second), rtol=1e-12)


def test_random_numbers_of_a_modules_own_are_refused():
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    module = nn.Sequential(layer, nn.RReLU(), nn.Flatten(), nn.Linear(12, 1)).double()
    with pytest.raises(ValueError, match="random numbers of its own"):
        sme.ModuleProblem(module, x, x[:, 0, :1])
    module[1] = nn.Identity()  # every dropout call of the layer has masks, that of two heads included
    assert sme.ModuleProblem(module, x, x[:, 0, :1]).draw_dim == 5 * (2 * 3 * 3 + 3 * (8 + 4 + 4))


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_losses_of_all_samples_take_paths_in_batches_and_change_nothing(rate, monkeypatch):
    """A block has many paths where a batch is small, and the loss sees every sample, the modified one with 32 draws."""
    layers = nn.Linear(2, 3), nn.Tanh(), nn.Dropout(rate), nn.Linear(3, 1)
    x, y = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2), torch.ones(5, 1, dtype=torch.float64)
    problem = sme.ModuleProblem(nn.Sequential(*layers).double(), x, y, batch_size=2, weight_decay=0.1)
    theta = torch.stack([problem.initial(seed=seed) for seed in range(7)])

    def values():
        exact = [problem.mean_gradient(theta)] if problem.has_closed_form else []
        return [problem.loss(theta), problem.modified_loss(theta), *exact]

    whole = values()
    monkeypatch.setattr("smesolve.problem.module_problem.BATCH_FLOATS", 1)
    for one_by_one, together in zip(values(), whole, strict=True):
        torch.testing.assert_close(one_by_one, together, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (None, "draw must be a mapping of .'indices', 'mask 0'., got None"),
        ({}, "draw must be a mapping of .'indices', 'mask 0'., got a mapping of ..; take one that sample returns"),
        ({"indices": torch.arange(2), "mask 0": torch.ones(3).double()}, r"draw\['mask 0'\] must have shape .* 2, 3\)"),
    ],
)
def test_draws_that_are_not_those_of_the_problem_are_refused(draw, words):
    x, y = data()
    problem = sme.ModuleProblem(perceptron(drop_prob=0.2), x, y, batch_size=2)
    with pytest.raises(sme.SmesolveError, match=words):
        problem.gradient(problem.initial(), draw)
