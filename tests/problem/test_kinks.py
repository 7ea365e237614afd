"""Operations whose first derivative jumps are found, however they are spelled, and no others."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import smesolve as sme
from smesolve.comparison.leading_constants import first_constants
from smesolve.problem.kinks import kinks

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
Y = X[:, :1]


class Applied(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.inner, self.outer, self.activation = nn.Linear(2, 4), nn.Linear(4, 1), activation

    def forward(self, x):
        return self.outer(self.activation(self.inner(x)))


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (functional.relu, "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.ReLU6(), "hardtanh"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.PReLU(), "prelu"),
        (nn.Hardswish(), "hardswish"),
        (nn.Hardsigmoid(), "hardtanh"),
        (nn.Softshrink(), "softshrink"),
        (nn.Hardshrink(), "hardshrink"),
        (nn.Threshold(0.0, 0.0), "threshold"),
        (torch.abs, "abs"),
        (lambda h: h.clamp(min=0), "clamp"),
        (lambda h: h.clamp_min(0), "clamp"),
        (lambda h: torch.maximum(h, torch.zeros_like(h)), "maximum"),
        (lambda h: functional.max_pool1d(h, 2).repeat(1, 2), "max_pool"),
        (lambda h: functional.adaptive_max_pool1d(h[:, None], 4)[:, 0], "max_pool"),
        (nn.SELU(), "elu"),
        (nn.ELU(alpha=2.0), "elu"),
        (lambda h: h - h.amax(1, keepdim=True), "max"),
        (lambda h: h - h.max(1, keepdim=True).values, "max"),
        (lambda h: h.sort(1).values, "sort"),
        (lambda h: torch.fmin(h, torch.zeros_like(h)), "minimum"),
        (lambda h: h - h.nanmedian(1, keepdim=True).values, "median"),
        (lambda h: h - h.mode(1, keepdim=True).values, "mode"),
        (lambda h: h * h.norm(p=1, dim=1, keepdim=True), "norm"),
        (lambda h: h * torch.linalg.vector_norm(h, ord=torch.inf, dim=1, keepdim=True), "norm"),
        (lambda h: h * torch.cdist(h[:, None], torch.zeros(1, 4).to(h), p=1.0)[:, 0], "norm"),
    ],
)
def test_operations_with_kinks_are_named(activation, name):
    problem = sme.ModuleProblem(Applied(activation).double(), X, Y)
    assert kinks(problem, problem.initial()) == [name]


@pytest.mark.parametrize(
    "activation",
    [
        torch.tanh,
        nn.GELU(),
        nn.SiLU(),
        nn.Softplus(),
        nn.Mish(),
        nn.Softmax(-1),
        nn.ELU(),
        nn.CELU(2.0),
        lambda h: h / torch.linalg.vector_norm(h, dim=1, keepdim=True),
    ],
)
def test_smooth_operations_are_not(activation):
    problem = sme.ModuleProblem(Applied(activation).double(), X, Y)
    assert kinks(problem, problem.initial()) == []


def test_losses_have_kinks_or_not():
    classes = torch.tensor([0, 1, 0, 1, 1, 0])
    problem = sme.ModuleProblem(nn.Linear(2, 2).double(), X, classes, loss="cross_entropy")
    assert kinks(problem, problem.initial()) == []
    problem = sme.ModuleProblem(nn.Linear(2, 1).double(), X, Y, loss=lambda f, y: (f - y).abs().sum(-1))
    assert kinks(problem, problem.initial()) == ["abs"]


@pytest.mark.parametrize("activation", sorted(sme.ACTIVATIONS))
def test_kinks_of_the_activations_known_by_name(activation):
    expected = ["relu"] if activation == "relu" else []
    shallow = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3, 1, activation=activation), X, Y, keep_prob=0.8)
    deep = sme.FeatureNetwork(Applied(sme.ACTIVATIONS[activation]).double(), nn.Linear(1, 1).double())
    for problem in (shallow, sme.DropoutProblem(deep, X, Y, keep_prob=0.8, masks="per_sample")):
        assert kinks(problem, problem.initial()) == expected
        assert kinks(sme.ScheduledProblem(problem, lr_factor=lambda t: 1 - t / 4), problem.initial()) == expected


class Refracted(sme.Problem):
    """One parameter that drifts at speed 2 below 0 and at speed 2 - jump above; noise of variance 1 in its gradient.

    Euler's method with step h meets 0 late by a time uniform on [0, h): it ends jump h/2 too far.
    """

    network, samples, dim, draw_dim, noise_dim, floats_per_path = None, 1, 1, 1, 1, 4
    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, jump):
        self.jump = jump

    def draw(self, uniforms):
        return 3**0.5 * (2 * uniforms - 1)

    def loss(self, theta):
        return -(2 * theta.clamp(max=0) + (2 - self.jump) * theta.clamp(min=0))[..., 0]

    modified_loss = loss

    def mean_gradient(self, theta):
        return torch.where(theta < 0, -2.0, self.jump - 2.0).to(theta)

    def gradient(self, theta, draw):
        return self.mean_gradient(theta) + draw

    def noise_product(self, theta, normals):
        return normals + 0 * theta


def test_the_constant_of_a_kink_is_that_of_eulers_method_with_calibrated_errors():
    starts = torch.linspace(-1.3, -0.4, 100, dtype=torch.float64)
    theta = {"theta": lambda at: at[..., 0]}
    found = [first_constants(Refracted(1.0), start[None], 1.0, theta, 0.05)["theta"] for start in starts]
    constants, stderrs = np.array(found).T
    assert stderrs.max() < 0.2
    scores = (constants + 0.5) / stderrs
    assert (np.abs(scores) < 1.96).sum() >= 90
    assert abs(scores.mean()) < 0.3


def test_noise_does_not_change_the_constant_of_a_kink_to_first_order_in_its_jump():
    start, lr = torch.tensor([-1.0], dtype=torch.float64), 0.1
    ratios, halves = [], []
    for jump in (0.25, 0.5):
        study = sme.weak_error(
            Refracted(jump),
            start,
            [lr],
            1.5,
            orders=(1,),
            observables=["theta[0]"],
            times=[1.5],
            paths=2**14,
            dt=lr / 8,
        )
        row, predicted = study.table.iloc[0], -jump / 2 * lr
        ratios.append(row.error / predicted)
        halves.append((row.high - row.low) / 2 / abs(predicted))
    half = np.hypot(2 * halves[0], halves[1])
    assert half < 0.1
    assert abs(2 * ratios[0] - ratios[1] - 1) < half
