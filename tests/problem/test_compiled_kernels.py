"""The compiled kernels agree with the formulas in torch, and are called only with tensors that they can take."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from kernel_variants import choose_variant
from problems import ThreeValuedMasks, make_problem
from torch.autograd import forward_ad

import smesolve as sme
from smesolve.problem.activations import ACTIVATIONS
from smesolve.problem.differentiable_masks import with_differentiable_keep_prob
from smesolve.problem.kernels.library import VARIANTS, library
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.small_noise_rk4 import SmallNoiseRK4

compiled = pytest.mark.skipif(library() is None, reason="no compiled kernels are installed")

LAWS = {
    "dropout": sme.BernoulliMasks(0.7),
    "three values": ThreeValuedMasks(),
    "uniform": sme.UniformMasks(0.5),
    "no dropout": sme.BernoulliMasks(1.0),
}


def built(activation, law, n, d, m, o, bias, dtype=torch.float64, seed=0, masks="shared", unused=()):
    """The inputs `unused` are 0 for all samples: the kernels leave them out."""
    torch.manual_seed(seed)
    network = sme.TwoLayerNetwork(d, m, o, activation, bias=bias, dtype=dtype)
    return on_data(network, n, d, o, law, dtype, masks, unused)


def with_features(law, n, d, m, o, bias, dtype=torch.float64, seed=0, masks="shared"):
    """Features of two layers below the readout."""
    torch.manual_seed(seed)
    features = torch.nn.Sequential(torch.nn.Linear(d, 3), torch.nn.Tanh(), torch.nn.Linear(3, m), torch.nn.Tanh())
    network = sme.FeatureNetwork(features, torch.nn.Linear(m, o, bias=bias)).to(dtype)
    return on_data(network, n, d, o, law, dtype, masks)


def on_data(network, n, d, o, law, dtype, masks, unused=()):
    x, y = torch.randn(n, d, dtype=dtype), torch.randn(n, o, dtype=dtype)
    x[:, [j for j in unused if j < d]] = 0
    return sme.DropoutProblem(network, x, y, law=LAWS[law], masks=masks)


def in_torch(problem):
    """The same problem by the formulas in torch."""
    return problem.without_kernels()


def everything(problem, paths=3):
    """All that the kernels compute, at states of size 2."""
    generator = torch.Generator().manual_seed(5)

    def normals(*shape):
        return torch.randn(*shape, generator=generator, dtype=problem.dtype)

    theta, z, vector = 2 * normals(paths, problem.dim), normals(paths, problem.noise_dim), normals(paths, problem.dim)
    masks = problem.draw(torch.rand(paths, problem.draw_dim, generator=generator))
    at = problem.linearize(theta)
    yield "loss", at.loss()
    yield "modified loss", at.modified_loss()
    yield "gradient", at.gradient(masks)
    yield "mean gradient", at.mean_gradient()
    for name, value in zip(("gradient", "mean gradient"), at.gradient_and_mean(masks), strict=True):
        yield f"{name} of both", value
    yield "noise product", at.noise_product(z)
    yield "drift and noise", at.noisy_mean_gradient(z, -0.3)
    yield "noisy step", at.noisy_step(z, -0.3, 0.2) - theta
    yield "Hessian product", at.hessian_product(vector)
    for name, value in zip(("mean", "noise", "curvature"), at.mean_noise_and_curvature(z), strict=True):
        yield name, value
    for order in (1, 2):
        sde, scheme = PerturbedSDE(sme.ModifiedEquation(problem, 0.1, order)), SmallNoiseRK4()
        step = scheme.step(sde, 0.0, 0.05, theta, 0.05**0.5 * z)
        for name, value in zip(("state", "prediction", "noise"), step, strict=True):
            yield f"rk4 of order {order}, {name}", value - theta if name != "noise" else value
        yield f"rk4 of order {order}", scheme.advance(sde, 0.0, 0.05, theta, 0.05**0.5 * z) - theta


def assert_equal_to_torch(problem, tolerance):
    for one in (problem, problem.with_weak_noise()):
        for (name, found), (_, expected) in zip(everything(one), everything(in_torch(one)), strict=True):
            size = expected.abs().max()
            assert (found - expected).abs().max() <= tolerance * size, name


@compiled
@settings(max_examples=60, deadline=None)
@given(
    activation=some.sampled_from(sorted(ACTIVATIONS)),
    law=some.sampled_from(sorted(LAWS)),
    n=some.integers(1, 70),
    d=some.integers(1, 36),
    m=some.integers(1, 21),
    o=some.integers(1, 4),
    bias=some.booleans(),
    seed=some.integers(0, 1000),
    masks=some.sampled_from(["shared", "per_sample"]),
    unused=some.sets(some.integers(0, 35), max_size=20),
)
def test_kernels_equal_the_formulas_in_torch(activation, law, n, d, m, o, bias, seed, masks, unused):
    problem = built(activation, law, n, d, m, o, bias, seed=seed, masks=masks, unused=unused)
    assert problem.kernels
    assert_equal_to_torch(problem, 1e-13)


@compiled
@settings(max_examples=20, deadline=None)
@given(
    law=some.sampled_from(sorted(LAWS)),
    n=some.integers(1, 40),
    m=some.integers(1, 21),
    o=some.integers(1, 4),
    bias=some.booleans(),
    masks=some.sampled_from(["shared", "per_sample"]),
)
def test_kernels_of_the_readout_equal_the_formulas_in_torch(law, n, m, o, bias, masks):
    problem = with_features(law, n, 2, m, o, bias, masks=masks)
    assert problem.readout_kernels
    assert_equal_to_torch(problem, 1e-13)


@compiled
@settings(max_examples=20, deadline=None)
@given(
    law=some.sampled_from(sorted(LAWS)),
    n=some.integers(1, 40),
    m=some.integers(1, 21),
    o=some.integers(1, 4),
    masks=some.sampled_from(["shared", "per_sample"]),
)
def test_kernels_of_linear_models_equal_the_formulas_in_torch(law, n, m, o, masks):
    torch.manual_seed(0)
    problem = on_data(sme.LinearNetwork(m, o), n, m, o, law, torch.float64, masks)
    assert problem.kernels
    assert_equal_to_torch(problem, 1e-13)
    theta, first, second = (torch.randn(3, problem.dim, dtype=torch.float64) for _ in range(3))
    assert torch.equal(problem.third_derivative(theta, first, second), torch.zeros_like(theta))


@compiled
@settings(max_examples=25, deadline=None)
@given(
    activation=some.sampled_from(sorted(ACTIVATIONS)),
    law=some.sampled_from(sorted(LAWS)),
    n=some.integers(1, 40),
    d=some.integers(1, 20),
    m=some.integers(1, 12),
    o=some.integers(1, 4),
    bias=some.booleans(),
    unused=some.sets(some.integers(0, 19), max_size=10),
)
def test_third_derivatives_are_those_of_hessian_products(activation, law, n, d, m, o, bias, unused):
    problem = built(activation, law, n, d, m, o, bias, unused=unused)
    theta, first, second = (torch.randn(3, problem.dim, dtype=torch.float64) for _ in range(3))
    found, expected = (one.third_derivative(theta, first, second) for one in (problem, in_torch(problem)))
    assert (found - expected).abs().max() <= 1e-13 * expected.abs().max()


@compiled
def test_an_activation_of_ones_own_has_the_kernels_of_the_readout():
    network = sme.TwoLayerNetwork(2, 5, 2, activation=torch.sin, bias=True)
    problem = on_data(network, 9, 2, 2, "dropout", torch.float64, "shared")
    assert problem.kernels is None and problem.readout_kernels
    assert_equal_to_torch(problem, 1e-13)


@compiled
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_do_in_float32(activation, masks):
    assert_equal_to_torch(built(activation, "uniform", 61, 5, 13, 3, True, torch.float32, masks=masks), 3e-5)


@compiled
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does(variant, monkeypatch):
    choose_variant(monkeypatch, variant)
    for activation in ("tanh", "gelu", "softplus"):
        for masks in ("shared", "per_sample"):
            assert_equal_to_torch(built(activation, "three values", 37, 9, 6, 2, True, masks=masks), 1e-13)
    for d, unused in ((26, (0, 3)), (20, (1,)), (5, range(5))):  # three, two and no vectors of inputs
        assert_equal_to_torch(built("tanh", "three values", 37, d, 9, 6, True, unused=unused), 1e-13)
    assert_equal_to_torch(with_features("three values", 37, 9, 6, 2, True), 1e-13)


@compiled
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-8, 1.0, 30.0, 1e3, 1e100])
def test_activations_are_those_of_torch_at_every_size(activation, size):
    """Readout 1, one neuron, one sample x = 1 with target 0: the gradient is (h sigma'(x), h^2)."""
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    network = sme.TwoLayerNetwork(1, 1, 1, activation)
    problem = sme.DropoutProblem(network, x.new_ones(1, 1), x.new_zeros(1, 1), keep_prob=1.0)
    theta = torch.stack([size * x, torch.ones_like(x)], -1)
    found, expected = problem.mean_gradient(theta), in_torch(problem).mean_gradient(theta)
    same = torch.isclose(found, expected, rtol=1e-13, atol=1e-15) | (found == expected)
    assert same.all(), theta[~same.all(-1)]


@compiled
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(activation):
    """NaN in one path leaves the other paths unchanged."""
    problem = make_problem(width=4, samples=9, activation=activation, bias=True)
    theta, z = problem.initial().repeat(2, 1), torch.ones(2, problem.noise_dim, dtype=torch.float64)
    theta[0, 0] = float("nan")
    at = problem.linearize(theta)
    for found in (at.mean_gradient(), at.noise_product(z), at.hessian_product(theta)):
        assert found[0].isnan().any() and found[1].isfinite().all()


@compiled
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_infinite_weights_saturate(activation):
    problem = make_problem(width=4, samples=9, activation=activation)
    theta = problem.initial()
    theta[0] = float("inf")
    assert torch.allclose(problem.mean_gradient(theta), in_torch(problem).mean_gradient(theta), rtol=1e-12, atol=1e-14)


@compiled
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", ["fused", "readout"])
def test_leading_dimensions_of_draws_broadcast(kind, masks):
    if kind == "fused":
        problem = built("tanh", "uniform", 5, 2, 4, 2, True, masks=masks)
    else:
        problem = with_features("uniform", 5, 2, 4, 2, True, masks=masks)
    theta = torch.randn(3, 1, problem.dim, dtype=torch.float64)
    for lead in ((6,), (), (2, 1, 6), *([(0,)] if kind == "fused" else [])):
        draw = problem.draw(torch.rand(*lead, problem.draw_dim))
        z = torch.randn(*lead, problem.noise_dim, dtype=torch.float64)
        for method, drawn in (("gradient", draw), ("noise_product", z)):
            found, expected = (getattr(one, method)(theta, drawn) for one in (problem, in_torch(problem)))
            assert found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


@compiled
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", [built, with_features])
def test_one_theta_stands_for_all_paths(kind, masks):
    """Its features are computed once, with the same numbers as for each path."""
    problem = kind(*(["tanh"] if kind is built else []), "uniform", 35, 3, 5, 2, True, masks=masks)
    theta, first, second = (torch.randn(*lead, problem.dim, dtype=torch.float64) for lead in ((), (2, 3), (2, 3)))
    repeated, draw = theta.repeat(2, 3, 1), problem.draw(torch.rand(2, 3, problem.draw_dim))
    z = torch.randn(2, 3, problem.noise_dim, dtype=torch.float64)
    for method, *drawn in (
        ("gradient", draw),
        ("noise_product", z),
        ("hessian_product", first),
        ("third_derivative", first, second),
        ("hessian_product", theta.expand(2, 3, -1)),
    ):
        of_one, of_all = (getattr(problem, method)(at, *drawn) for at in (theta, repeated))
        assert torch.equal(of_one, of_all)


@compiled
def test_parameters_may_lie_in_memory_in_any_way():
    problem = make_problem(width=4, out_features=2, bias=True)
    one, spaced = problem.initial(), torch.randn(4, 2 * problem.dim, dtype=torch.float64)[:, ::2]
    for at in (one, one.expand(6, -1), spaced, spaced.mT.contiguous().mT, spaced[:0]):
        assert torch.allclose(problem.mean_gradient(at), in_torch(problem).mean_gradient(at), rtol=1e-12, atol=1e-14)


@compiled
def test_derivatives_go_through_the_formulas_in_torch():
    problem = make_problem(width=4)
    theta, vector = problem.initial(), torch.randn(problem.dim, dtype=torch.float64)
    curvature = in_torch(problem).hessian_product(theta, vector)
    jvp = torch.func.jvp(problem.mean_gradient, (theta,), (vector,))[1]
    vjp = torch.func.vjp(problem.mean_gradient, theta)[1](vector)[0]
    batched = torch.func.vmap(problem.mean_gradient)(theta.repeat(2, 1))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(problem.mean_gradient(forward_ad.make_dual(theta, vector))).tangent
    with torch.enable_grad():
        leaf = theta.clone().requires_grad_()
        (backward,) = torch.autograd.grad(problem.mean_gradient(leaf) @ vector, leaf)
    for found in (jvp, vjp, dual, backward):
        assert torch.allclose(found, curvature, rtol=1e-12, atol=1e-14)
    assert torch.allclose(batched[1], problem.mean_gradient(theta), rtol=1e-12, atol=1e-14)
    along_normals = torch.func.jacrev(lambda z: problem.noise_product(theta, z))(theta.new_zeros(problem.noise_dim))
    assert torch.allclose(along_normals, problem.noise_factor(theta), rtol=1e-12, atol=1e-14)


@compiled
def test_parameters_that_are_not_trained_here_are_taken():
    problem = make_problem(width=4)
    parameter = torch.nn.Parameter(problem.initial())
    with torch.no_grad():
        assert torch.equal(problem.mean_gradient(parameter), problem.mean_gradient(problem.initial()))


@compiled
def test_copies_pickles_and_problems_of_one_sample_have_their_own_data():
    problem = make_problem(width=4, samples=6)
    theta = problem.initial()
    expected = problem.mean_gradient(theta)
    for other in (pickle.loads(pickle.dumps(problem)), copy.deepcopy(problem), copy.copy(problem)):
        assert torch.equal(other.mean_gradient(theta), expected)
    parts = torch.stack([problem.of_sample(i).mean_gradient(theta) for i in range(6)])
    assert torch.allclose(parts.mean(0), expected, rtol=1e-12, atol=1e-14)
    wider = problem.with_keep_prob(0.5)
    assert torch.allclose(wider.mean_gradient(theta), in_torch(wider).mean_gradient(theta), rtol=1e-12, atol=1e-14)


@compiled
def test_threads_compute_the_same_to_the_last_digit():
    problem = make_problem(width=13, samples=61).with_weak_noise()
    theta = torch.randn(32, 64, problem.dim, dtype=torch.float64)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(problem.mean_gradient, theta))
    assert all(torch.equal(one, problem.mean_gradient(at)) for one, at in zip(together, theta, strict=True))


@compiled
def test_laws_of_ones_own_need_no_hash():
    @dataclass
    class Own(sme.MaskLaw):
        keep: float

        def central_moment(self, j):
            return sme.BernoulliMasks(self.keep).central_moment(j)

        def quantile(self, uniforms):
            return sme.BernoulliMasks(self.keep).quantile(uniforms)

    x = torch.randn(5, 2, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, x[:, :1], law=Own(0.7))
    for keep in (0.7, 0.4):  # one that changes is seen
        problem.law.keep = keep
        expected = in_torch(problem).mean_gradient(problem.initial())
        assert torch.allclose(problem.mean_gradient(problem.initial()), expected, rtol=1e-12, atol=1e-14)


def test_every_scheme_takes_the_linearization_of_a_subclass():
    class Shifted(sme.DropoutProblem):
        def linearize(self, theta):
            return super().linearize(theta + 1)

    x = torch.randn(5, 2, dtype=torch.float64)
    given = (sme.TwoLayerNetwork(2, 3), x, x[:, :1])
    plain, shifted = sme.DropoutProblem(*given, keep_prob=0.8), Shifted(*given, keep_prob=0.8)
    for scheme in ("euler", "small_noise_heun", "small_noise_rk4"):
        ends = [
            sme.solve(sme.ModifiedEquation(problem, 0.1), start, [0.0, 0.2], scheme, dt=0.05, paths=3)[-1]
            for problem, start in ((plain, plain.initial() + 1), (shifted, plain.initial()))
        ]
        assert torch.allclose(ends[0], ends[1] + 1, rtol=1e-12, atol=1e-14), scheme


@compiled
def test_other_networks_are_computed_in_torch():
    class Shifted(sme.TwoLayerNetwork):
        def linearize(self, theta, x):
            return super().linearize(theta + 1, x)

    x = torch.randn(5, 2, dtype=torch.float64)
    shifted = sme.DropoutProblem(Shifted(2, 3), x, x[:, :1], keep_prob=0.8)
    plain = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, x[:, :1], keep_prob=0.8)
    theta = plain.initial()
    assert torch.allclose(shifted.mean_gradient(theta), plain.mean_gradient(theta + 1), rtol=1e-12, atol=1e-14)
    own = sme.TwoLayerNetwork(2, 3, activation=torch.sin)
    assert sme.DropoutProblem(own, x, x[:, :1], keep_prob=0.8).kernels is None


@compiled
@pytest.mark.parametrize("kind", ["fused", "readout"])
def test_derivatives_in_keep_prob_go_through_the_formulas_in_torch(kind):
    make = built if kind == "fused" else lambda activation, *sizes: with_features(*sizes)
    problem = make("tanh", "dropout", 5, 2, 4, 1, True)
    theta, z = problem.initial(), torch.ones(problem.noise_dim, dtype=torch.float64)
    keep_prob = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        other = with_differentiable_keep_prob(problem, keep_prob)
        values = other.mean_gradient(theta).sum() + other.noise_product(theta, z).sum() + other.modified_loss(theta)
        (slope,) = torch.autograd.grad(values, keep_prob)

    def value(p):
        one = problem.with_keep_prob(p)
        return float(one.mean_gradient(theta).sum() + one.noise_product(theta, z).sum() + one.modified_loss(theta))

    assert float(slope) == pytest.approx((value(0.7 + 1e-6) - value(0.7 - 1e-6)) / 2e-6, rel=1e-6)
