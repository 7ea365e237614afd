"""The problem of a study: network, data, noise, from its configuration."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.feature_network import FeatureNetwork
from smesolve.problem.kinks import kinks
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.problem.problem import Problem
from smesolve.study.configuration import StudyConfig
from smesolve.study.configuration_errors import ConfigError
from smesolve.study.datasets import load_data
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.markdown import counted, plain
from smesolve.study.scaling_configuration import ScalingConfig

__all__ = ["build_problem", "configured_problem", "described", "outside_theorems"]

ACTIVATION_LAYERS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

OUTSIDE = (
    "kinks, and the theorems of weak order 1 and 2 are for smooth gradients: orders found here are measurements at "
    "these learning rates and instances of no theorem. The drift of order 2 leaves out what happens where a neuron "
    "switches, an error of order lr: as lr falls, order 2 falls back to order 1. Errors scatter about their power law"
    " as a step meets a switch here or there, which the interval of a slope does not contain. Monte Carlo intervals "
    "hold nonetheless, as control variates have mean zero for any network; that the solver's bias falls at least like"
    " dt is not guaranteed."
)


def configured_problem(config: StudyConfig | LandscapeConfig) -> Problem:
    """The problem of a configuration on its data, with torch's threads set."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return build_problem(config, *load_data(config.data))


def build_problem(config: StudyConfig, x: np.ndarray, y: np.ndarray) -> Problem:
    """A `DropoutProblem` wherever its closed forms hold, otherwise a `ModuleProblem`."""
    training, sizes, outputs = config.training, [x.shape[1], *config.network.widths], y.shape[1]
    if training.loss == "cross_entropy" and outputs == 1:
        y, outputs = _class_labels(y[:, 0])
    weights = sum(a * b for a, b in itertools.pairwise([*sizes, outputs]))
    check_numbers_fit(f"the weights for network.width={config.network.width}", weights, "take a narrower network")
    bias, activation = config.network.bias, config.network.activation
    place = {"dtype": getattr(torch, config.dtype), "device": torch.device(config.device)}
    if training.closed_form:
        if len(sizes) == 2:
            network = TwoLayerNetwork(*sizes, outputs, activation, bias, **place)
        else:
            readout = nn.Linear(sizes[-1], outputs, bias=bias)
            network = FeatureNetwork(_hidden_layers(sizes, activation, bias), readout).to(**place)
        return DropoutProblem(network, x, y, keep_prob=config.keep_prob, masks=training.masks)
    layers = _hidden_layers(sizes, activation, bias, 1 - config.keep_prob, training.dropout)
    module = layers.append(nn.Linear(sizes[-1], outputs, bias=bias)).to(**place)
    noises = ("loss", "masks", "batch_size", "replacement", "weight_decay", "label_noise", "parameter_noise")
    return ModuleProblem(module, x, y, **{name: getattr(training, name) for name in noises})


def _class_labels(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Indices of the classes (n,), numbered as their labels increase, and how many classes there are."""
    names, indices = np.unique(labels, return_inverse=True)
    if (names != names.round()).any() or len(names) < 2:
        raise ConfigError(
            f"y must hold whole numbers for training.loss=cross_entropy, the labels of at least two classes, got "
            f"{len(names)} different values such as {names[-1]:g}; take training.loss=squared_error for regression."
        )
    return indices, len(names)


def _hidden_layers(
    sizes: list[int], activation: str, bias: bool, drop_prob: float = 0.0, dropout: str = "last"
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for depth, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=2):
        layers += [nn.Linear(inputs, outputs, bias=bias), ACTIVATION_LAYERS[activation]()]
        if drop_prob and (dropout == "every" or depth == len(sizes)):
            layers.append(nn.Dropout(drop_prob))
    return nn.Sequential(*layers)


def described(config: StudyConfig, problem: Problem) -> str:
    """Data, network and noise in words; data alone where the study has networks of its own."""
    training = config.training
    inputs = problem.x.shape[1]
    outputs = problem.y.shape[1] if problem.y.ndim > 1 else int(problem.y.max()) + 1  # columns, or classes
    data = f"Data {plain(config.data.name)}: {counted(problem.samples, 'sample')}, {counted(inputs, 'input')}."
    scaling = config.study if isinstance(config, ScalingConfig) else None
    if scaling == "width":
        return data
    keep_probs = config.keep_probs if scaling == "map" else [config.keep_prob]
    sizes = "-".join(map(str, [inputs, *config.network.widths, outputs]))
    bias = " with biases" if config.network.bias else ""
    where = "after every hidden layer" if training.dropout == "every" else "on the last hidden layer"
    whose = "one mask a step for all samples" if training.masks == "shared" else "one mask for each sample"
    kept = ", ".join(f"{keep_prob:g}" for keep_prob in keep_probs)
    noises = [f"Dropout {where}, keep_prob {kept}, {whose}"] if min(keep_probs) < 1 else ["No dropout"]
    if training.batch_size:
        noises.append(f"mini-batches of {training.batch_size} with{'' if training.replacement else 'out'} replacement")
    for name in ("label_noise", "parameter_noise", "weight_decay"):
        if getattr(training, name):
            noises.append(f"{name.replace('_', ' ')} {getattr(training, name):g}")
    known = (
        f"{problem.noise_dim} normals a noise product"
        if problem.has_closed_form
        else "mean gradient and covariance are known by sampling alone"
    )
    return (
        f"{data} Network {sizes}, {config.network.activation}{bias}: {problem.dim} parameters; "
        f"loss {training.loss.replace('_', ' ')}. "
        f"{', '.join(noises)}: {known}."
    )


def outside_theorems(config: StudyConfig, problem: Problem) -> str:
    """What the theorems do not cover, or nothing where they hold."""
    names = kinks(problem, problem.initial(config.network.seed))
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} {OUTSIDE}" if names else ""
