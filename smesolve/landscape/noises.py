"""The noises of training, on one network and one loss.

The reviewers of Zhang, Li, Luo, Xu (ICLR 2024) asked for a comparison of dropout, mini-batches, both together, noise on
the parameters (arXiv 2206.04613) and noise on the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.landscape.operators import dropout_problem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.problem.problem import Problem
from smesolve.validation import check_choice, check_instance, check_integer, check_not_negative

__all__ = ["NOISES", "NoiseScales", "noisy_problem"]


@dataclass(frozen=True)
class NoiseScales:
    """Scales of the noises.

    Args:
        batch_size: samples of a mini-batch.
        label_noise: standard deviation of the normals added to the targets.
        parameter_noise: standard deviation of the normals added to the parameters.
    """

    batch_size: int = 50
    label_noise: float = 0.5
    parameter_noise: float = 0.02

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", check_integer("batch_size", self.batch_size))
        for name in ("label_noise", "parameter_noise"):
            object.__setattr__(self, name, check_not_negative(name, getattr(self, name)))


class _Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def _module(problem: DropoutProblem, dropout: bool) -> nn.Module:
    """Return the two-layer network as a module, whose parameters are in the same order with and without dropout."""
    network = problem.network
    if not isinstance(network, TwoLayerNetwork):
        raise SmesolveError(f"problem must have a TwoLayerNetwork for this comparison, got {type(network).__name__}.")
    layers: list[nn.Module] = [network.hidden, _Activation(network.activation)]
    if dropout:
        if not isinstance(problem.law, BernoulliMasks):
            raise SmesolveError(
                f"problem must have the masks of torch.nn.Dropout, 0 or 1/keep_prob, got {problem.law!r}; give "
                "keep_prob instead of another mask law."
            )
        layers.append(nn.Dropout(1 - problem.law.keep_prob))
    return nn.Sequential(*layers, network.readout)


def _noisy(problem: DropoutProblem, dropout: bool, **noise: Any) -> ModuleProblem:
    masks = "per_sample" if problem.per_sample or noise.get("batch_size") == 1 else "shared"
    return ModuleProblem(_module(problem, dropout), problem.x, problem.y, "squared_error", masks, **noise)


NOISES: dict[str, Callable[[DropoutProblem, NoiseScales], Problem]] = {
    "dropout": lambda problem, scales: problem,
    "mini-batch": lambda problem, scales: _noisy(problem, False, batch_size=scales.batch_size),
    "dropout and mini-batch": lambda problem, scales: _noisy(problem, True, batch_size=scales.batch_size),
    "parameter noise": lambda problem, scales: _noisy(problem, False, parameter_noise=scales.parameter_noise),
    "label noise": lambda problem, scales: _noisy(problem, False, label_noise=scales.label_noise),
    "dropout, batch of one": lambda problem, scales: _noisy(problem, True, batch_size=1),
}
"""Noises by name, as functions of a dropout problem on a two-layer network; the loss R_S without noise is the same."""


@entry_point
def noisy_problem(problem: DropoutProblem, name: str, scales: NoiseScales | None = None) -> Problem:
    """Return the problem with another noise.

    Args:
        problem: dropout on a `TwoLayerNetwork`, with the masks of torch.nn.Dropout.
        name: a name in `NOISES`.
        scales: scales of the noises. Default: `NoiseScales()`.
    """
    dropout_problem(problem)
    check_choice("name", name, NOISES)
    if scales is not None:
        check_instance("scales", scales, NoiseScales, "a NoiseScales")
    return NOISES[name](problem, scales or NoiseScales())
