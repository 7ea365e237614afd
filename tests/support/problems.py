"""Problems on which the tests agree, and gradients computed the plain way."""

from dataclasses import dataclass

import torch

import smesolve as sme


class ThreeValuedMasks(sme.MaskLaw):
    """A law of mean 1 on three values: it has a chi part, which dropout has not."""

    support = ([0.0, 1.0, 2.5], [0.3, 0.45, 0.22 + 0.03])

    def __init__(self):
        values, weights = (torch.tensor(part, dtype=torch.float64) for part in self.support)
        self.values, self.weights = values / (values @ weights), weights
        self.support = (self.values.tolist(), self.weights.tolist())

    def central_moment(self, j):
        return float(((self.values - 1) ** j) @ self.weights)

    def quantile(self, uniforms):
        return self.values[torch.searchsorted(self.weights.cumsum(0)[:-1], uniforms, right=True)]


@dataclass(frozen=True)
class Quadratic(sme.Problem):
    """R_S = |theta|^2 / 2, whose gradient is off by -1 or 1, in a class that cannot be written to."""

    factor: float = 1.0
    dim = draw_dim = noise_dim = 1

    def draw(self, uniforms):
        return 2.0 * (uniforms < 0.5) - 1

    def loss(self, theta):
        return self.factor * theta.square().sum(-1) / 2

    modified_loss = loss

    def gradient(self, theta, draw=0.0):
        return self.factor * theta + draw

    mean_gradient = gradient

    def noise_product(self, theta, normals):
        return normals + 0 * theta


def make_problem(
    width=3,
    out_features=1,
    activation="tanh",
    keep_prob=0.8,
    bias=False,
    samples=5,
    seed=0,
    law=None,
    masks="shared",
    depth=1,
):
    """A small problem; with depth above 1 a FeatureNetwork of that many hidden layers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, out_features, generator=generator, dtype=torch.float64)
    if depth == 1:
        network = sme.TwoLayerNetwork(2, width, out_features, activation, bias=bias)
    else:
        network = feature_network(depth, width, out_features, bias)
    return sme.DropoutProblem(network, x, y, None if law is not None else keep_prob, masks, law)


def linear_problem(keep_prob=0.7, in_features=2, samples=6):
    """Return dropout on a linear model: gradients are affine in theta, so moments are known at any learning rate."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, in_features, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    return sme.DropoutProblem(sme.LinearNetwork(in_features), x, y, keep_prob=keep_prob)


def feature_network(depth, width, out_features=1, bias=False):
    """2 inputs, depth hidden tanh layers, the last one of the given width."""
    layers = []
    for inputs, outputs in zip([2, *[4] * (depth - 1)], [*[4] * (depth - 1), width], strict=True):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    readout = torch.nn.Linear(width, out_features, bias=bias)
    return sme.FeatureNetwork(torch.nn.Sequential(*layers).double(), readout.double())


def half_square(f, y):
    return (f - y) ** 2 / 2


def plain_gradient(problem, theta, mask, loss=half_square):
    """grad R_S(theta; eta) by reverse differentiation of the loss as it is written down; theta (D,), one mask."""
    network = problem.network

    def risk(vector):
        parts, start = {}, 0
        for name, parameter in network.named_parameters():
            parts[name] = vector[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        if isinstance(network, sme.FeatureNetwork):
            inner = {name.removeprefix("features."): part for name, part in parts.items() if "features." in name}
            hidden = torch.func.functional_call(network.features, inner, (problem.x,))
        else:
            hidden = network.activation(
                torch.nn.functional.linear(problem.x, parts["hidden.weight"], parts.get("hidden.bias"))
            )
        output = torch.nn.functional.linear(hidden * mask, parts["readout.weight"], parts.get("readout.bias"))
        return loss(output, problem.y).sum() / problem.samples

    return torch.func.grad(risk)(theta)


def enumerated_moments(problem, theta):
    """Mean (D,) and covariance (D, D) of the dropout gradient over all masks, the plain way."""
    masks, weights = problem.all_draws()
    gradients = torch.stack([plain_gradient(problem, theta, mask) for mask in masks])
    mean = weights @ gradients
    centred = gradients - mean
    return mean, centred.mT @ (weights[:, None] * centred)
