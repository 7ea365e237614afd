"""The problem of an experiment from its settings (network, data and noise), and its description in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from smesolve.comparison.exact.affine_gradient import MAX_DIM
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.markdown import counted, plain
from smesolve.experiments.shared.own_module import made_module
from smesolve.experiments.shared.settings import NetworkSettings, TrainingSettings
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.feature_network import FeatureNetwork
from smesolve.problem.kinks import jumps, kinks
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.networks import DropoutNetwork, TwoLayerNetwork
from smesolve.problem.problem import Problem
from smesolve.problem.shuffled_epochs import ShuffledEpochs

__all__ = ["build_problem", "check_exact_readout", "described", "described_data", "outside_theorems"]

P = TypeVar("P", bound=Problem)

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
    "these learning rates and are not covered by a theorem. The drift of order 2 misses the jumps of the gradient "
    "where a neuron switches, an error of order lr: as lr falls, order 2 falls back to order 1. Errors scatter about "
    "their power law, as individual steps cross kinks, and the interval of a slope does not contain this scatter. "
    "Monte Carlo intervals are valid nonetheless, as control variates have mean zero for any network; that the "
    "solver's bias falls at least like dt is not guaranteed."
)

JUMPING = (
    "values that jump. Training follows the gradient between the jumps, which jumps as well, and no theorem of weak "
    "order covers it: orders found here are measurements at these learning rates. Errors of the loss are differences "
    "of means, without a predicted constant, because derivatives leave jumps out."
)


def build_problem(
    x: np.ndarray,
    y: np.ndarray,
    network: NetworkSettings,
    training: TrainingSettings,
    keep_prob: float,
    dtype: str = "float64",
    device: str = "cpu",
    held_out: np.ndarray | None = None,
) -> DropoutProblem | ModuleProblem:
    """Return a `DropoutProblem` if its closed forms apply, otherwise a `ModuleProblem`.

    The samples `held_out` are its test data.
    """
    sizes, outputs = [x.shape[1], *network.widths], y.shape[1]
    if training.loss == "cross_entropy" and outputs == 1:
        y, outputs = _class_labels(y[:, 0])
    kind, place = getattr(torch, dtype), torch.device(device)
    if network.module is not None:
        arguments = {"in_features": sizes[0], "out_features": outputs, "keep_prob": keep_prob}
        own = made_module(network.module, arguments, network.seed).to(dtype=kind, device=place)
        if not isinstance(own, DropoutNetwork):
            return _split(_module_problem(own, training), x, y, held_out)
        if not training.has_closed_form:
            raise SmesolveError(
                f"network.module={network.module!r} returns a {type(own).__name__}, which has closed forms only "
                "for squared error without batches and other noise; return a torch module with dropout layers."
            )
        return _split(lambda x, y: DropoutProblem(own, x, y, keep_prob, training.masks), x, y, held_out)
    weights = sum(a * b for a, b in itertools.pairwise([*sizes, outputs]))
    check_numbers_fit(f"the weights for network.width={network.width}", weights, "take a narrower network")
    bias, activation = network.bias, network.activation
    if training.has_closed_form:
        layers: DropoutNetwork
        if len(sizes) == 2:
            layers = TwoLayerNetwork(sizes[0], sizes[1], outputs, activation, bias, dtype=kind, device=place)
        else:
            readout = nn.Linear(sizes[-1], outputs, bias=bias)
            layers = FeatureNetwork(_hidden_layers(sizes, activation, bias), readout).to(dtype=kind, device=place)
        return _split(lambda x, y: DropoutProblem(layers, x, y, keep_prob, training.masks), x, y, held_out)
    hidden = _hidden_layers(sizes, activation, bias, 1 - keep_prob, training.dropout)
    module = hidden.append(nn.Linear(sizes[-1], outputs, bias=bias)).to(dtype=kind, device=place)
    return _split(_module_problem(module, training), x, y, held_out)


def _module_problem(
    module: nn.Module, training: TrainingSettings
) -> Callable[[np.ndarray, np.ndarray], DropoutProblem | ModuleProblem]:
    """Return a function (x, y) -> the problem of a module with the noise of the settings."""
    names = ("loss", "masks", "batch_size", "replacement", "label_noise", "parameter_noise")
    noises = {name: getattr(training, name) for name in names} | {"weight_decay": training.decay_of_loss}
    kind_of_problem: type[ModuleProblem] = ModuleProblem
    if training.shuffle:
        del noises["replacement"]
        kind_of_problem = ShuffledEpochs
    return lambda x, y: kind_of_problem(module, x, y, **noises)


def _split(make: Callable[[np.ndarray, np.ndarray], P], x: np.ndarray, y: np.ndarray, held_out: np.ndarray | None) -> P:
    """Return the problem of the samples that are not held out, with the held-out samples as its test data."""
    if held_out is None or not len(held_out):
        return make(x, y)
    kept = np.setdiff1d(np.arange(len(x)), held_out)
    return make(x[kept], y[kept]).with_test_data(x[held_out], y[held_out])


def _class_labels(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the indices of the classes (n,), numbered as their labels increase, and the number of classes."""
    names, indices = np.unique(labels, return_inverse=True)
    if (names != names.round()).any() or len(names) < 2:
        raise SmesolveError(
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


def described_data(name: str, samples: int, inputs: int) -> str:
    """Return name and size of the data in words."""
    return f"Data {plain(name)}: {counted(samples, 'sample')}, {counted(inputs, 'input')}."


def described(
    data: str,
    problem: DropoutProblem | ModuleProblem,
    training_problem: Problem,
    network: NetworkSettings,
    training: TrainingSettings,
    keep_probs: Sequence[float],
) -> str:
    """Return data, network and noise in words.

    Args:
        data: name of the data.
        problem: the problem whose parameters are trained.
        training_problem: the same problem over the optimiser's state.
        network: settings of the network.
        training: settings of the training.
        keep_probs: probabilities that a neuron is kept.
    """
    outputs = problem.y.shape[1] if problem.y.ndim > 1 else int(problem.y.max()) + 1  # columns, or classes
    sizes = "-".join(map(str, [problem.x.shape[1], *network.widths, outputs]))
    what = f"Network {sizes}, {network.activation}{' with biases' if network.bias else ''}"
    where = "after every hidden layer" if training.dropout == "every" else "on the last hidden layer"
    whose = "one mask per step for all samples" if training.masks == "shared" else "one mask for each sample"
    kept = ", ".join(f"{keep_prob:g}" for keep_prob in keep_probs)
    noises = [f"Dropout {where}, keep_prob {kept}, {whose}"] if min(keep_probs) < 1 else ["No dropout"]
    if network.module is not None:
        what = f"Network made by {plain(network.module)}"
        if not isinstance(problem, DropoutProblem):
            noises = [f"Dropout where the network has it, {whose}"]
    if training.shuffle:
        noises.append(f"shuffled batches of {training.batch_size}, every sample once in an epoch, which is a step")
    elif training.batch_size:
        noises.append(f"mini-batches of {training.batch_size} with{'' if training.replacement else 'out'} replacement")
    added = {name: getattr(training, name) for name in ("label_noise", "parameter_noise")}
    for name, value in (added | {"weight_decay": training.decay_of_loss}).items():
        if value:
            noises.append(f"{name.replace('_', ' ')} {value:g}")
    held_out = "" if problem.test is None else f" Held out: {counted(problem.test.samples, 'test sample')}."
    known = (
        f"{training_problem.noise_dim} normals per noise product"
        if training_problem.has_closed_form
        else "mean gradient and covariance are known only by sampling"
    )
    return (
        f"{described_data(data, *problem.x.shape)}{held_out} {what}: "
        f"{problem.dim} parameters; loss {training.loss.replace('_', ' ')}. {', '.join(noises)}: {known}."
    )


def check_exact_readout(problem: DropoutProblem) -> None:
    """Refuse a network whose readout has more weights than exact moments are known for.

    Raises:
        SmesolveError: with the keys of the settings to change.
    """
    width, outputs = problem.width, problem.out_features
    if width * outputs > MAX_DIM:
        raise SmesolveError(
            f"network.width={width} with {counted(outputs, 'output')} of the data makes a readout of {width * outputs} "
            f"weights, and this study needs its exact moments, which are known up to {MAX_DIM} weights; take a smaller "
            "network.width and data with fewer outputs, such as --network.width 4 --data.name random --data.samples 8 "
            "--data.in_features 2."
        )


def outside_theorems(problem: Problem, theta0: Tensor) -> str:
    """Return what the theorems do not cover, or "" if they apply."""
    jumping = jumps(problem.loss, theta0)
    kinked = [name for name in kinks(problem, theta0) if name not in jumping]
    return " ".join(f"{_have(names)} {words}" for names, words in ((kinked, OUTSIDE), (jumping, JUMPING)) if names)


def _have(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'}"
