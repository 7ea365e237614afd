"""Problems on which the tests agree, and gradients computed the plain way."""

import torch

import smesolve as sme
from smesolve.comparison.exact import all_masks


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


def make_problem(width=3, out_features=1, activation="tanh", keep_prob=0.8, bias=False, samples=5, seed=0, law=None):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, out_features, generator=generator, dtype=torch.float64)
    network = sme.TwoLayerNetwork(2, width, out_features, activation, bias=bias)
    if law is not None:
        return sme.DropoutProblem(network, x, y, masks=law)
    return sme.DropoutProblem(network, x, y, keep_prob=keep_prob)


def plain_gradient(problem, theta, mask):
    """grad R_S(theta; eta) by reverse differentiation of the loss as it is written down; theta (D,), mask (m,)."""
    network = problem.network

    def loss(vector):
        parts, start = {}, 0
        for name, parameter in network.named_parameters():
            parts[name] = vector[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        hidden = network.activation(
            torch.nn.functional.linear(problem.x, parts["hidden.weight"], parts.get("hidden.bias"))
        )
        output = torch.nn.functional.linear(hidden * mask, parts["readout.weight"], parts.get("readout.bias"))
        return ((output - problem.y) ** 2).sum() / (2 * problem.samples)

    return torch.func.grad(loss)(theta)


def enumerated_moments(problem, theta):
    """Mean (D,) and covariance (D, D) of the dropout gradient over all masks, the plain way."""
    masks, weights = all_masks(problem.law, problem.width)
    gradients = torch.stack([plain_gradient(problem, theta, mask) for mask in masks])
    mean = weights @ gradients
    centred = gradients - mean
    return mean, centred.mT @ (weights[:, None] * centred)
