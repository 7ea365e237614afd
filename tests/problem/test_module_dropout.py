"""Dropout in a module, against a plain loop of torch's own dropout: the same masks give the same gradients."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import smesolve as sme

SAMPLES = 8
X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(SAMPLES, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Dropping(nn.Module):
    """A hidden layer of as many units as there are samples, and dropout on it by a function of its values."""

    def __init__(self, drop, units=SAMPLES):
        super().__init__()
        self.hidden, self.head, self.drop = nn.Linear(4, units), nn.Linear(units, 1), drop

    def forward(self, x):
        return self.head(torch.tanh(self.drop(self.hidden(x))))


class WeightDropping(Dropping):
    """Dropout on the weight matrix of the hidden layer (weight drop, DropConnect)."""

    def forward(self, x):
        weight = self.drop(self.hidden.weight)
        return self.head(torch.tanh(functional.linear(x, weight, self.hidden.bias)))


def written(values):
    """Dropout in place whose result is not used."""
    functional.dropout(values, 0.3, True, inplace=True)
    return values


def channels(layer):
    """Dropout of pairs of units."""
    return lambda values: layer(values.unflatten(-1, (4, 2))).flatten(1)


def images(values):
    return nn.Dropout2d(0.3)(values.unflatten(-1, (2, 2, 2))).flatten(1)


def volumes(values):
    return nn.Dropout3d(0.3)(values.unflatten(-1, (2, 2, 2, 1))).flatten(1)


def twice(values):
    return nn.Dropout(0.5)(written(values))


CASES = {
    "layer": (Dropping, nn.Dropout(0.3), [((SAMPLES, SAMPLES), 0.3)]),
    "layer in place": (Dropping, nn.Dropout(0.3, inplace=True), [((SAMPLES, SAMPLES), 0.3)]),
    "in place, not assigned": (Dropping, written, [((SAMPLES, SAMPLES), 0.3)]),
    "torch.dropout": (Dropping, lambda h: torch.dropout(h, 0.3, True), [((SAMPLES, SAMPLES), 0.3)]),
    "torch.dropout_": (Dropping, lambda h: torch.dropout_(h, p=0.3, train=True), [((SAMPLES, SAMPLES), 0.3)]),
    "two": (Dropping, twice, [((SAMPLES, SAMPLES), 0.3), ((SAMPLES, SAMPLES), 0.5)]),
    "channels": (Dropping, channels(nn.Dropout1d(0.3)), [((SAMPLES, 4, 1), 0.3)]),
    "images": (Dropping, images, [((SAMPLES, 2, 1, 1), 0.3)]),
    "volumes": (Dropping, volumes, [((SAMPLES, 2, 1, 1, 1), 0.3)]),
    "weight": (WeightDropping, nn.Dropout(0.3), [((SAMPLES, 4), 0.3)]),
}


def torchs_gradient(module, theta, seed):
    nn.utils.vector_to_parameters(theta.clone(), module.parameters())
    module.zero_grad()
    torch.manual_seed(seed)
    ((module(X) - Y).square().sum() / (2 * SAMPLES)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_torchs_own_dropout(case):
    kind, drop, shapes = CASES[case]
    module = kind(drop).double()
    problem = sme.ModuleProblem(module, X, Y)
    theta = problem.initial(1)
    for seed in range(3):
        torch.manual_seed(seed)  # torch's own draws, which the module repeats with this seed
        masks = [functional.dropout(torch.ones(shape, dtype=torch.float64), p) for shape, p in shapes]
        draw = {f"mask {number}": mask for number, mask in enumerate(masks)}
        expected = torchs_gradient(module, theta, seed)
        assert torch.allclose(problem.gradient(theta, draw), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_masks_have_the_law_and_the_sharing_of_torch(case, masks):
    kind, drop, shapes = CASES[case]
    problem = sme.ModuleProblem(kind(drop).double(), X, Y, masks=masks, batch_size=3)
    draw = problem.sample(400, seed=0)
    for number, (shape, p) in enumerate(shapes):
        mask = draw[f"mask {number}"]
        rows = shape[0] if kind is WeightDropping else 1 if masks == "shared" else 3
        assert tuple(mask.shape[1:]) == (rows, *shape[1:])
        assert set(mask.unique().tolist()) == {0.0, 1 / (1 - p)}
        dropped = (mask == 0).double().mean()
        assert abs(float(dropped) - p) < 4.5 * (p * (1 - p) / mask.numel()) ** 0.5
    theta = problem.initial(0)
    assert problem.gradient(theta, draw).shape == (400, problem.dim)
    assert problem.modified_loss(theta).isfinite()


@pytest.mark.parametrize("units", [2, SAMPLES])
@pytest.mark.parametrize("masks", ["shared", "per_sample"])
def test_a_dropped_weight_has_one_mask_for_all_samples(units, masks):
    module = WeightDropping(nn.Dropout(0.3), units).double()
    whole, batched = (sme.ModuleProblem(module, X, Y, masks=masks, batch_size=size) for size in (None, 3))
    theta, direction = whole.initial(0), whole.initial(1)
    draw = batched.sample(6, seed=0)
    masked = {"mask 0": draw["mask 0"]}
    assert draw["mask 0"].shape == (6, units, 4)
    first_order = whole.noise_along(whole.noise_coefficients(theta, direction), masked)

    def scaled(t):  # the masks' noise shrunk to t
        return whole.gradient(theta, {"mask 0": 1 + t * (draw["mask 0"] - 1)}) @ direction

    assert torch.allclose(first_order, (scaled(1e-5) - scaled(-1e-5)) / 2e-5, rtol=1e-7)
    coefficients = batched.noise_coefficients(theta, direction)
    chosen = batched.noise_along(coefficients, {"indices": draw["indices"]})
    assert torch.allclose(batched.noise_along(coefficients, draw) - chosen, first_order, rtol=1e-10)


def test_the_noise_of_a_dropped_weight_has_the_covariance_of_all_masks():
    x, y = X[:2, :2].contiguous(), Y[:2]  # as many samples as units
    module = WeightDropping(nn.Dropout(0.4), 2)
    module.hidden = nn.Linear(2, 2)
    problem = sme.ModuleProblem(module.double(), x, y)
    theta = problem.initial(3)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    weights = (0.6 * bits + 0.4 * (1 - bits)).prod(1)
    gradients = problem.gradient(theta, {"mask 0": bits.reshape(-1, 2, 2) / 0.6})
    mean = weights @ gradients
    covariance = (weights * (gradients - mean).T) @ (gradients - mean)
    normals = torch.randn(20000, problem.noise_dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = problem.noise_product(theta, normals)
    products = noise[:, :, None] * noise[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / 20000**0.5 + 1e-14).all()


@pytest.mark.parametrize("samples", [5, 8, 9])
def test_what_is_dropped_does_not_depend_on_the_number_of_samples(samples):
    x, y = torch.ones(samples, 4, dtype=torch.float64), torch.ones(samples, 1, dtype=torch.float64)
    for masks in ("shared", "per_sample"):
        weight = sme.ModuleProblem(WeightDropping(nn.Dropout(0.3)).double(), x, y, masks=masks)
        assert weight.draw_dim == 8 * 4
    assert sme.ModuleProblem(Dropping(nn.Dropout(0.3)).double(), x, y).draw_dim == samples * 8


class Misplaced(nn.Module):
    """Dropout on what has the samples in its second dimension, or on rows one by one."""

    def __init__(self, rows):
        super().__init__()
        self.hidden, self.head, self.drop, self.rows = nn.Linear(4, 4), nn.Linear(4, 1), nn.Dropout(0.2), rows

    def forward(self, x):
        hidden = self.hidden(x)
        hidden = torch.stack([self.drop(row) for row in hidden]) if self.rows else self.drop(hidden.T).T
        return self.head(hidden)


@pytest.mark.parametrize("samples", [4, 6])
def test_dropout_that_is_not_samples_first_has_masks_that_are(samples):
    module = Misplaced(rows=False).double()
    problem = sme.ModuleProblem(module, X[:samples], Y[:samples])
    theta, draw = problem.initial(), problem.sample(1, seed=0)
    assert draw["mask 0"].shape == (1, samples, 4)
    first = sme.ModuleProblem(nn.Sequential(module.hidden, module.drop, module.head), X[:samples], Y[:samples])
    assert torch.allclose(problem.gradient(theta, draw), first.gradient(theta, draw), rtol=1e-12)


@pytest.mark.parametrize("samples", [4, 6])
def test_dropout_of_rows_one_by_one_is_refused(samples):
    with pytest.raises(ValueError, match=f"module calls dropout {samples} times on {samples} samples and 2 times on 2"):
        sme.ModuleProblem(Misplaced(rows=True).double(), X[:samples], Y[:samples])


@pytest.mark.parametrize("p", [1.0, 1.5, -0.5])
def test_dropout_of_everything_is_refused(p):
    module = Dropping(lambda values: functional.dropout(values, p)).double()
    with pytest.raises(ValueError, match=f"module drops with p={p:g} in its top level"):
        sme.ModuleProblem(module, X, Y)


CHANNELS = [(functional.dropout1d, 2), (functional.dropout1d, 3), (functional.dropout2d, 2), (functional.dropout2d, 3)]
CHANNELS += [(functional.dropout2d, 4), (functional.dropout3d, 4), (functional.dropout3d, 5)]


@pytest.mark.filterwarnings("ignore:dropout2d")  # torch says that it will take three dimensions otherwise
@pytest.mark.parametrize(("drop", "dims"), CHANNELS)
def test_masks_of_channels_have_the_shape_that_torch_drops(drop, dims):
    """torch takes the first dimension for samples in some of these cases, and for channels in others."""
    sizes = (4, 3, 2, 2, 2)[:dims]
    torch.manual_seed(0)
    dropped = torch.stack([drop(torch.ones(sizes), 0.5) for _ in range(32)])
    own = [bool((dropped != dropped.narrow(axis + 1, 0, 1)).any()) for axis in range(dims)]

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(sizes[1:], dtype=torch.float64))

        def forward(self, x):
            return drop(self.weight * x.view(-1, *[1] * (dims - 1)), 0.5).flatten(1)

    problem = sme.ModuleProblem(Module(), X[:4, :1], torch.zeros(4, math.prod(sizes[1:])))
    mask = problem.sample(1, seed=0)["mask 0"][0]
    assert mask.shape == tuple(size if each else 1 for size, each in zip(sizes, own, strict=True))


@pytest.mark.parametrize(("drop", "dims"), [(functional.dropout1d, 4), (functional.dropout2d, 5)])
def test_channels_of_other_numbers_of_dimensions_are_refused(drop, dims):
    layers = nn.Linear(4, 4), nn.Unflatten(1, (4, *[1] * (dims - 2))), Plain(drop), nn.Flatten()
    with pytest.raises(ValueError, match=f"module gives {drop.__name__} a tensor of {dims} dimensions"):
        sme.ModuleProblem(nn.Sequential(*layers).double(), X, X)


class Plain(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        return self.drop(x, 0.5)
