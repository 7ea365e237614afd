"""Initial parameters: drawn as a network made with torch's generator at that seed, or the present values."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, parametrize

import smesolve as sme

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(8, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
DOUBLE = {"dtype": torch.float64}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **DOUBLE)
        self.head = nn.Linear(4, 1, **DOUBLE)

    def forward(self, x):
        tokens = x[:, None].expand(-1, 3, -1)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def perceptron():
    return nn.Sequential(nn.Linear(4, 6, **DOUBLE), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1, **DOUBLE))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **DOUBLE)
    return nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, 1, **DOUBLE))


def tied():
    """Torch draws the shared weight twice; the network that is compared is made the same way."""
    module = nn.Sequential(nn.Linear(4, 4, **DOUBLE), nn.Tanh(), nn.Linear(4, 4, **DOUBLE), nn.Linear(4, 1, **DOUBLE))
    with torch.no_grad():
        module[0].weight.copy_(module[2].weight)
    module[2].weight = module[0].weight
    return module


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(2, 3, batch_first=True, **DOUBLE), nn.Linear(3, 1, **DOUBLE)

    def forward(self, x):
        return self.head(self.cells(x.unflatten(1, (2, 2)))[0][:, -1])


@pytest.mark.parametrize("make", [perceptron, Attention, encoder, Recurrent])
def test_a_draw_is_that_of_a_new_network(make):
    problem = sme.ModuleProblem(make(), X, Y)
    for seed in (0, 7):
        torch.manual_seed(seed)
        assert torch.equal(problem.initial(seed), parameters_to_vector(make().parameters()).detach())


def test_shared_parameters_are_drawn_once():
    problem = sme.ModuleProblem(tied(), X, Y)
    torch.manual_seed(3)
    first, again = nn.Linear(4, 4, **DOUBLE), nn.Linear(4, 4, **DOUBLE)
    theta = problem.initial(3)
    assert torch.equal(theta[:16], again.weight.detach().flatten())
    assert torch.equal(theta[16:20], first.bias.detach())


def test_under_a_parametrization_the_weight_is_drawn():
    norms = [parametrizations.weight_norm, lambda layer: parametrizations.spectral_norm(layer).eval()]
    for norm in norms:
        module = nn.Sequential(norm(nn.Linear(4, 6, **DOUBLE)), nn.Tanh(), nn.Linear(6, 1, **DOUBLE))
        problem = sme.ModuleProblem(module, X, Y)
        theta = problem.initial(5)
        nn.utils.vector_to_parameters(theta, module.parameters())
        torch.manual_seed(5)
        expected = nn.Linear(4, 6, **DOUBLE).weight
        if norm is parametrizations.weight_norm:
            assert torch.allclose(module[0].weight, expected, rtol=1e-14)
        else:
            assert torch.equal(module[0].parametrizations.weight.original, expected)
        assert not torch.equal(theta, problem.initial(6))


class Bare(nn.Module):
    """A matrix without an initialiser, a constant, and a layer."""

    def __init__(self, spread=1.0):
        super().__init__()
        self.matrix = nn.Parameter(2 + spread * torch.randn(40, 4, dtype=torch.float64))
        self.scale, self.head = nn.Parameter(torch.ones((), dtype=torch.float64)), nn.Linear(40, 1, **DOUBLE)

    def forward(self, x):
        return self.scale * self.head(torch.tanh(x @ self.matrix.T))


def test_bare_parameters_are_drawn_by_the_moments_of_their_values_and_named():
    module = Bare()
    present = module.matrix.detach().clone()
    problem = sme.ModuleProblem(module, X, Y)
    words = "drew matrix as normals of their present mean and standard deviation and kept the constant scale"
    with pytest.warns(sme.MissingInitialiserWarning, match=words) as found:
        first = problem.initial(0)
    assert found[0].filename == __file__
    with pytest.warns(sme.MissingInitialiserWarning):
        second, again = problem.initial(1), problem.initial(0)
    assert torch.equal(first, again)
    size, spread = present.numel(), float(present.std())
    for theta in (first, second):
        matrix = theta[:size]
        assert not (matrix == present.flatten()).any()
        assert abs(float(matrix.mean() - present.mean())) < 4.5 * spread / size**0.5
        assert abs(float(matrix.std()) / spread - 1) < 4.5 / (2 * size) ** 0.5
        assert theta[size] == 1
    assert not (first == second)[:size].any()
    torch.manual_seed(0)
    assert torch.equal(first[size + 1 :], parameters_to_vector(nn.Linear(40, 1, **DOUBLE).parameters()).detach())


class Halved(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, original):
        return original / 2


def test_a_parametrization_without_an_inverse_is_named():
    module = nn.Sequential(nn.Linear(4, 6, **DOUBLE), nn.Linear(6, 1, **DOUBLE))
    parametrize.register_parametrization(module[0], "weight", Halved())
    problem = sme.ModuleProblem(module, X, Y)
    with pytest.warns(sme.MissingInitialiserWarning, match=r"drew 0\.parametrizations\.weight\.original as normals"):
        first = problem.initial(0)
    with pytest.warns(sme.MissingInitialiserWarning):
        assert not (problem.initial(1) == first).any()


def test_a_parametrization_that_keeps_its_value_in_a_buffer_is_named():
    module = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4, **DOUBLE)), nn.Linear(4, 1, **DOUBLE))
    problem = sme.ModuleProblem(module, X, Y)
    base = module[0].parametrizations.weight[0].base.clone()
    with pytest.warns(sme.MissingInitialiserWarning, match=r"0\.parametrizations\.weight\.original"):
        problem.initial(0)
    assert torch.equal(base, module[0].parametrizations.weight[0].base)


def feature_problem():
    network = sme.FeatureNetwork(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 1)).double()
    return sme.DropoutProblem(network, X, Y, keep_prob=0.8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sme.ModuleProblem(perceptron(), X, Y),
        lambda: sme.DropoutProblem(sme.TwoLayerNetwork(4, 3), X, Y, keep_prob=0.8),
        feature_problem,
    ],
)
def test_without_a_seed_the_present_values_are_kept(make):
    problem = make()
    loaded = torch.linspace(-1, 1, problem.dim, dtype=torch.float64)
    nn.utils.vector_to_parameters(loaded.clone(), problem.network.parameters())
    assert torch.equal(problem.initial(None), loaded)
    assert torch.equal(problem.initial(seed=None), loaded)
    generator = torch.get_rng_state()
    assert not torch.equal(problem.initial(0), loaded)
    assert torch.equal(parameters_to_vector(problem.network.parameters()), loaded)  # the network stays
    assert torch.equal(torch.get_rng_state(), generator)
    problem.initial(None).zero_()  # a copy
    assert torch.equal(problem.initial(None), loaded)


def test_an_initialiser_that_fails_is_named():
    class Asks(nn.Linear):
        def reset_parameters(self, gain=None):
            super().reset_parameters()
            if gain is None and self.out_features == 1 and getattr(self, "made", False):
                raise TypeError("gain is missing")

    module = nn.Sequential(nn.Linear(4, 6, **DOUBLE), Asks(6, 1, **DOUBLE))
    problem = sme.ModuleProblem(module, X, Y)
    module[1].made = True
    with pytest.raises(ValueError, match=r"initial could not draw the parameters of layer '1' \(Asks\): its reset"):
        problem.initial(0)
    assert problem.initial(None).shape == (problem.dim,)
