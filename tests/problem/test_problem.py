import numpy as np
import pytest
import torch
from problems import ThreeValuedMasks, enumerated_moments, make_problem, plain_gradient
from sympy import Symbol

import smesolve as sme
from smesolve.problem.masks import all_masks

CASES = [
    {"width": 1},
    {"width": 2, "keep_prob": 0.5},
    {"width": 3, "out_features": 2, "activation": "gelu"},
    {"width": 3, "out_features": 3, "bias": True, "keep_prob": 0.3},
    {"width": 4, "activation": "softplus", "bias": True, "keep_prob": 0.9},
    {"width": 3, "activation": "sigmoid", "keep_prob": 0.1},
    {"width": 3, "activation": "relu", "out_features": 2},
    {"width": 2, "activation": "identity"},
    {"width": 3, "activation": torch.sin},
    {"width": 3, "out_features": 2, "law": ThreeValuedMasks()},
    {"width": 3, "out_features": 2, "depth": 3, "bias": True},
]
PER_SAMPLE = [
    {"width": 3, "samples": 2},
    {"width": 2, "samples": 3, "keep_prob": 0.4, "bias": True},
    {"width": 2, "out_features": 3, "samples": 3, "keep_prob": 0.6, "bias": True},
    {"width": 3, "out_features": 2, "samples": 2, "depth": 3, "bias": True},
]


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()


@pytest.mark.parametrize("case", [*CASES, *({**case, "masks": "per_sample"} for case in PER_SAMPLE)])
def test_gradients_and_covariance_equal_enumeration(case):
    problem = make_problem(**case)
    theta = torch.randn(3, problem.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks, _ = problem.all_draws()
    for mask in masks[:3]:
        expected = torch.stack([plain_gradient(problem, row, mask) for row in theta])
        assert relative(problem.gradient(theta, mask), expected) < 1e-12
    means, covariances = zip(*(enumerated_moments(problem, row) for row in theta), strict=True)
    assert relative(problem.mean_gradient(theta), torch.stack(means)) < 1e-12
    assert relative(problem.covariance(theta), torch.stack(covariances)) < 1e-12
    if problem.linear_noise:
        assert problem.noise_factor(theta).shape == (3, problem.dim, problem.noise_dim)


@pytest.mark.parametrize("case", PER_SAMPLE)
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_noise_product_with_signs_has_the_enumerated_covariance_and_no_odd_moments(case, masks):
    problem = make_problem(**case, masks=masks)
    if masks == "shared":
        problem = problem.with_weak_noise()
    theta = problem.initial(seed=2)
    assert problem.noise_dim == (problem.samples if masks == "per_sample" else 1) * (2 * problem.width + 1)
    covariance = covariance_over_signs(problem, theta)
    assert relative(covariance, enumerated_moments(problem, theta)[1]) < 1e-12
    some = torch.randn(problem.noise_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    product = problem.noise_product(theta, some)
    assert relative(problem.noise_product(theta, -2 * some), -2 * product) < 1e-14
    assert relative(problem.covariance(theta), covariance) < 1e-12
    mean = problem.mean_gradient(theta)
    assert relative(problem.linearize(theta).noisy_mean_gradient(some, -0.3), product - 0.3 * mean) < 1e-13


@pytest.mark.parametrize("outputs", [1, 2])
def test_gaussian_masks_per_sample_have_the_covariance_of_an_exact_quadrature(outputs):
    """The gradient is quadratic in the masks, so three Gauss-Hermite nodes a mask give its covariance exactly."""
    problem = make_problem(width=2, samples=2, out_features=outputs, law=sme.GaussianMasks(0.3), masks="per_sample")
    theta = problem.initial(seed=2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    count = problem.draw_dim
    grid = torch.cartesian_prod(*[torch.tensor(nodes)] * count).reshape(-1, *problem.mask_shape)
    probabilities = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * count).reshape(-1, count).prod(-1)
    gradients = problem.gradient(theta, 1 + 0.3**0.5 * grid)
    mean = probabilities @ gradients
    covariance = (gradients - mean).mT @ (probabilities[:, None] * (gradients - mean))
    assert relative(problem.mean_gradient(theta), mean) < 1e-12
    assert relative(problem.covariance(theta), covariance) < 1e-12
    assert relative(covariance_over_signs(problem, theta), covariance) < 1e-12


def covariance_over_signs(problem, theta):
    """Over every choice of signs the product is linear in its other normals: its covariance is an exact sum."""
    n, m = problem.samples if problem.per_sample else 1, problem.width
    size = problem.noise_dim // n
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (n * m)).reshape(-1, 1, n, m)
    normals = torch.eye(n * size, dtype=torch.float64).reshape(-1, n, size).repeat(len(signs), 1, 1, 1)
    keep = normals[0, :, :, m : 2 * m].abs().sum((-2, -1)) == 0  # unit vectors of normals whose value counts
    normals = normals[:, keep]
    normals[..., m : 2 * m] = signs
    columns = problem.noise_product(theta, normals.flatten(-2))
    return torch.einsum("scd,sce->de", columns, columns) / len(signs)


def test_masks_say_who_shares_them_and_law_what_they_are():
    problem = make_problem(width=2)
    arguments = problem.network, problem.x, problem.y
    gaussian = sme.DropoutProblem(*arguments, law=sme.GaussianMasks(0.25), masks="per_sample")
    assert gaussian.draw_dim == problem.samples * 2 and gaussian.law.variance == 0.25
    for call, sentence in (
        (lambda: sme.DropoutProblem(*arguments, masks=sme.GaussianMasks(0.25)), "masks must be .* law as law="),
        (lambda: sme.DropoutProblem(*arguments, law=0.8), "law must be a MaskLaw, got 0.8"),
        (lambda: sme.DropoutProblem(*arguments), "keep_prob is missing"),
        (lambda: sme.DropoutProblem(*arguments, 0.8, law=sme.GaussianMasks(0.25)), "both name a mask law"),
        (lambda: sme.DropoutProblem(*arguments, Symbol("p")), "keep_prob must lie in"),
        (lambda: problem.with_keep_prob(Symbol("p")), "keep_prob must lie in"),
        (lambda: sme.DropoutProblem(*arguments, law=sme.GaussianMasks(Symbol("v", positive=True))), "has symbols"),
        (lambda: gaussian.with_keep_prob(0.5), "keep_prob=0.5 does not describe the masks of this problem"),
    ):
        with pytest.raises(sme.SmesolveError, match=sentence):
            call()


@pytest.mark.parametrize("kind", ["compiled", "torch", "module"])
def test_directions_are_checked_and_broadcast(kind):
    problem = make_problem(out_features=2)
    if kind == "module":
        problem = sme.ModuleProblem(problem.network, problem.x, problem.y)
    problem = problem.without_kernels() if kind == "torch" else problem
    theta, vector = problem.initial(), torch.linspace(-1, 1, 4 * problem.dim, dtype=torch.float64).view(4, -1)
    rows = torch.stack([problem.hessian_product(theta, row) for row in vector])
    assert torch.allclose(problem.hessian_product(theta, vector), rows, rtol=1e-12)
    rows = torch.stack([problem.third_derivative(theta, row, vector[0]) for row in vector])
    assert torch.allclose(problem.third_derivative(theta, vector, vector[0]), rows, rtol=1e-12)
    with pytest.raises(sme.SmesolveError, match=rf"vector must have shape \(\.\.\., {problem.dim}\), .* got \(3,\)"):
        problem.hessian_product(theta, vector[0, :3])
    with pytest.raises(sme.SmesolveError, match=r"second must be torch.float64 as the problem is, got torch.float32"):
        problem.third_derivative(theta, vector[0], vector[0].float())


def test_masks_per_sample_have_no_linear_noise():
    problem = make_problem(masks="per_sample")
    assert problem.with_noise(linear=False).noise_dim == problem.noise_dim
    with pytest.raises(sme.SmesolveError, match="linear=True needs masks='shared'"):
        problem.with_noise(linear=True)


def test_weak_noise_of_laws_on_more_than_two_values_has_their_covariance():
    problem = make_problem(width=2, law=sme.UniformMasks(0.9)).with_weak_noise()
    theta = problem.initial(seed=2)
    assert problem.noise_dim == 7  # xi (2), signs (2), g, omega (2)
    assert relative(covariance_over_signs(problem, theta), problem.covariance(theta)) < 1e-12


@pytest.mark.parametrize("law", ["shared", "per_sample"])
def test_feature_network_equals_the_two_layer_network_it_states(law):
    two_layer = make_problem(width=3, out_features=2, bias=True, masks=law)
    hidden = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    network = sme.FeatureNetwork(hidden, torch.nn.Linear(3, 2)).double()
    feature = sme.DropoutProblem(network, two_layer.x, two_layer.y, keep_prob=0.8, masks=law)
    assert feature.dim == two_layer.dim
    theta = torch.randn(4, 2, feature.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks = two_layer.sample(8, seed=0).unflatten(0, (4, 2))
    normals = torch.randn(4, 2, feature.noise_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vector = torch.randn(feature.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert relative(feature.gradient(theta, masks), two_layer.gradient(theta, masks)) < 1e-14
    assert relative(feature.mean_gradient(theta), two_layer.mean_gradient(theta)) < 1e-14
    assert relative(feature.noise_product(theta, normals), two_layer.noise_product(theta, normals)) < 1e-14
    assert relative(feature.covariance(theta), two_layer.covariance(theta)) < 1e-14
    along = vector.expand_as(theta)
    assert relative(feature.hessian_product(theta, along), two_layer.hessian_product(theta, along)) < 1e-13


def test_feature_network_takes_convolutions():
    features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.GELU(), torch.nn.Flatten())
    network = sme.FeatureNetwork(features, torch.nn.Linear(8, 2)).double()
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = sme.DropoutProblem(network, x, torch.ones(3, 2), keep_prob=0.7)
    theta = problem.initial()
    masks, weights = problem.all_draws()
    assert relative(weights @ problem.gradient(theta, masks), problem.mean_gradient(theta)) < 1e-12


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.5)), "features must not drop"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)), "batch normalisation in train mode"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.AlphaDropout(0.5)), "AlphaDropout"),
        (torch.nn.Linear(2, 4), r"features must map x to shape \(5, 3\)"),
    ],
)
def test_feature_network_refuses_what_it_cannot_do(features, message):
    network = sme.FeatureNetwork(features, torch.nn.Linear(3, 1)).double()
    with pytest.raises(ValueError, match=message):
        sme.DropoutProblem(network, torch.ones(5, 2), torch.ones(5, 1), keep_prob=0.5)
    with pytest.raises(ValueError, match=r"readout must be a torch.nn.Linear"):
        sme.FeatureNetwork(features, torch.nn.Tanh())


@pytest.mark.parametrize("case", CASES)
def test_noise_coordinates_turn_the_noise_product_into_the_gradient_itself(case):
    problem = make_problem(**case)
    theta = torch.randn(1, problem.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks, weights = all_masks(problem.law, problem.width)
    functions = problem.noise_coordinates(masks)
    noise = problem.noise_product(theta, functions)
    assert relative(problem.mean_gradient(theta) + noise, problem.gradient(theta, masks)) < 1e-12
    assert (weights @ functions).abs().max() < 1e-14
    identity = torch.eye(problem.noise_dim, dtype=torch.float64)
    assert (functions.mT @ (weights[:, None] * functions) - identity).abs().max() < 1e-13


@pytest.mark.parametrize("case", CASES)
def test_mean_gradient_is_the_gradient_of_the_modified_loss(case):
    problem = make_problem(**case)
    theta = problem.initial(seed=3)
    slope = torch.func.grad(problem.modified_loss)(theta)
    assert relative(problem.mean_gradient(theta), slope) < 1e-12
    hessian = torch.func.jacfwd(problem.mean_gradient)(theta)
    vector = torch.linspace(-1, 1, problem.dim, dtype=torch.float64)
    batch = torch.stack([theta, theta])
    assert relative(problem.hessian_product(batch, vector.expand(2, -1))[1], hessian @ vector) < 1e-12
    assert relative(problem.hessian_product(theta, vector), hessian @ vector) < 1e-12


def test_modified_loss_is_the_mean_of_the_dropout_loss():
    problem = make_problem(width=3, out_features=2)
    theta = problem.initial()
    masks, weights = all_masks(problem.law, problem.width)
    z = problem.contributions(theta)
    assert z.shape == (problem.samples, 3, 2)
    losses = [((z * mask[:, None]).sum(1) - problem.y).square().sum() / (2 * problem.samples) for mask in masks]
    assert problem.modified_loss(theta).item() == pytest.approx((weights @ torch.stack(losses)).item(), rel=1e-13)
    network = problem.network
    torch.nn.utils.vector_to_parameters(theta, network.parameters())
    plain = (network(problem.x) - problem.y).square().sum() / (2 * problem.samples)
    assert problem.loss(theta).item() == pytest.approx(plain.item(), rel=1e-13)


def test_shapes_follow_the_leading_dimensions_of_theta():
    problem = make_problem(width=3, out_features=2, bias=True)
    theta = torch.randn(2, 5, problem.dim, dtype=torch.float64)
    assert problem.loss(theta).shape == problem.modified_loss(theta).shape == (2, 5)
    assert problem.gradient(theta, torch.ones(3, dtype=torch.float64)).shape == theta.shape
    normals = torch.randn(2, 5, problem.noise_dim, dtype=torch.float64)
    product = problem.noise_product(theta, normals)
    dense = torch.einsum("...dm,...m->...d", problem.noise_factor(theta), normals)
    assert relative(product, dense) < 1e-12
    masks = torch.rand(4, 1, 3, dtype=torch.float64)
    broadcast = problem.gradient(theta[0], masks)
    assert broadcast.shape == (4, 5, problem.dim)
    assert relative(broadcast[2, 3], problem.gradient(theta[0, 3], masks[2, 0])) < 1e-14
    at = problem.linearize(theta)
    assert torch.equal(at.noise_product(normals), product)
    assert torch.equal(at.mean_gradient(), problem.mean_gradient(theta))
    assert relative(at.noisy_mean_gradient(normals, -0.3), product - 0.3 * at.mean_gradient()) < 1e-14


def test_parameters_are_tensors():
    problem = make_problem()
    for theta, words in (
        ([0.0] * problem.dim, "torch.as_tensor"),
        (problem.initial(seed=0).numpy(), "torch.as_tensor"),
        (problem.initial(seed=0).to_sparse(), "to_dense"),
    ):
        for method in (problem.loss, problem.modified_loss, problem.mean_gradient):
            with pytest.raises(sme.SmesolveError, match=f"theta must be a dense tensor .* convert it by .*{words}"):
                method(theta)


def test_parameters_are_in_the_order_of_torch():
    problem = make_problem(width=3, out_features=2, bias=True)
    theta = problem.initial(seed=5)
    assert torch.equal(theta, problem.initial(seed=5))
    assert not torch.equal(theta, problem.initial(seed=6))
    names = [name for name, _ in problem.network.named_parameters()]
    assert names == ["hidden.weight", "hidden.bias", "readout.weight", "readout.bias"]


def test_keep_prob_one_has_no_noise():
    problem = make_problem(keep_prob=1.0)
    theta = problem.initial()
    assert torch.equal(problem.covariance(theta), torch.zeros(problem.dim, problem.dim, dtype=torch.float64))
    assert problem.loss(theta) == problem.modified_loss(theta)


def test_stability_limit_is_two_over_the_largest_hessian_eigenvalue():
    problem = make_problem(width=4)
    theta = problem.initial()
    largest = torch.linalg.eigvalsh(torch.func.hessian(problem.modified_loss)(theta))[-1].item()
    assert problem.stability_limit(theta) == pytest.approx(2 / largest, rel=1e-3)


@pytest.mark.parametrize("keep_prob", [0, -0.1, 1.1, float("nan")])
def test_keep_prob_outside_its_range_is_refused(keep_prob):
    with pytest.raises(ValueError, match="keep_prob must lie in"):
        sme.BernoulliMasks(keep_prob)


def test_bad_data_get_one_clear_sentence():
    network = sme.TwoLayerNetwork(2, 3)
    x, y = torch.zeros(4, 2), torch.zeros(4, 1)
    refusals = [
        ((x, y[:, 0]), {"keep_prob": 0.5}, r"y must have two dimensions.*y.reshape\(-1, 1\)"),
        ((x[:, :1], y), {"keep_prob": 0.5}, "x must have 2 columns"),
        ((x, torch.zeros(4, 3)), {"keep_prob": 0.5}, "y must have 1 columns"),
        ((x[:2], y), {"keep_prob": 0.5}, "same number of samples"),
        ((x / 0, y), {"keep_prob": 0.5}, "x has 8 values that are NaN or infinite"),
        ((x, y), {"keep_prob": 0.5, "masks": "per-neuron"}, "masks must be"),
    ]
    for data, arguments, sentence in refusals:
        with pytest.raises(ValueError, match=sentence):
            sme.DropoutProblem(network, *data, **arguments)
    problem = sme.DropoutProblem(network, x, y, keep_prob=0.5)
    with pytest.raises(ValueError, match=r"theta must have shape \(..., 9\)"):
        problem.loss(torch.zeros(8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"normals must have shape \(..., 6\)"):
        problem.noise_product(torch.zeros(9, dtype=torch.float64), torch.zeros(5))
    with pytest.raises(ValueError, match="activation must be one of"):
        sme.TwoLayerNetwork(2, 3, activation="tanhh")
    with pytest.raises(ValueError, match="width must be a positive integer"):
        sme.TwoLayerNetwork(2, 0)


def test_a_loss_without_curvature_has_no_stability_limit():
    x = torch.randn(5, 2, dtype=torch.float64)
    network = sme.TwoLayerNetwork(2, 100, activation="relu")
    problem = sme.DropoutProblem(network, x, x[:, :1], keep_prob=0.8)
    still = torch.zeros(problem.dim, dtype=torch.float64)
    assert problem.stability_limit(still) == float("inf")
    assert (sme.weak_error(problem, still, [0.1], 0.1, paths=8).table.error == 0).all()


def test_features_without_parameters():
    """Linear regression with a bias, which has no mask."""
    base = make_problem(bias=True)
    problem = sme.DropoutProblem(
        sme.FeatureNetwork(torch.nn.Identity(), torch.nn.Linear(2, 1).double()), base.x, base.y, keep_prob=0.7
    )
    theta = problem.initial()
    mean, covariance = enumerated_moments(problem, theta)
    assert torch.allclose(problem.mean_gradient(theta), mean, rtol=1e-12)
    assert torch.allclose(problem.covariance(theta), covariance, rtol=1e-12)
    assert torch.equal(problem.mean_gradient(theta.expand(2, 3, -1))[1, 2], problem.mean_gradient(theta))


def test_parameters_that_are_frozen_or_shared_are_refused():
    base = make_problem()
    hidden, readout = torch.nn.Linear(2, 2, bias=False).double(), torch.nn.Linear(2, 2, bias=False).double()
    network = sme.FeatureNetwork(hidden.requires_grad_(False), readout)
    with pytest.raises(ValueError, match=r"frozen parameters .*features\.weight.*register_buffer"):
        sme.DropoutProblem(network, base.x, base.x, keep_prob=0.8)
    readout.weight = hidden.weight
    with pytest.raises(ValueError, match="must not share parameters with features"):
        sme.FeatureNetwork(hidden, readout)
