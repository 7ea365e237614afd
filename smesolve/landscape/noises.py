"""Noises that training may have, on one network and one loss, and how each aligns with the Hessian.

Source: the comparison that reviewers of Zhang, Li, Luo, Xu (ICLR 2024) asked for: dropout, mini-batches, both, noise on
the parameters (arXiv 2206.04613) and on the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from smesolve.arguments import INDEX, Instance, checked
from smesolve.errors import SmesolveError
from smesolve.landscape.alignment import alignment, sampled_alignment
from smesolve.landscape.operators import covariance_operator, loss_hessian_operator
from smesolve.landscape.training import HalfIteration, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.problem.problem import Problem

__all__ = ["NOISES", "NoiseScales", "noise_alignment", "noisy_problem", "random_noise"]


@checked
@dataclass(frozen=True)
class NoiseScales:
    """How strong each noise is."""

    batch_size: int = 50
    label_noise: float = 0.5
    """Standard deviation of the normals added to the targets."""
    parameter_noise: float = 0.02
    """Standard deviation of the normals added to the parameters."""


class _Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def _module(problem: DropoutProblem, dropout: bool) -> nn.Module:
    """The two-layer network as a module; its parameters are in the same order with and without dropout."""
    network = problem.network
    if not isinstance(network, TwoLayerNetwork):
        raise SmesolveError(f"problem must have a TwoLayerNetwork for this comparison, got {type(network).__name__}.")
    layers: list[nn.Module] = [network.hidden, _Activation(network.activation)]
    if dropout:
        if not isinstance(problem.law, BernoulliMasks):
            raise SmesolveError(
                f"problem must have masks 0 or 1/keep_prob, as torch.nn.Dropout has them, got {problem.law!r}: give "
                "keep_prob in place of masks."
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
"""Noises by name, made from a dropout problem on a two-layer network: the same loss R_S without noise for all."""


@checked
def noisy_problem(problem: DropoutProblem, name: str, scales: NoiseScales | None = None) -> Problem:
    """The problem with another noise.

    Raises:
        SmesolveError: an unknown name, a network that is not a `TwoLayerNetwork`, or dropout with another mask law.
    """
    if name not in NOISES:
        raise SmesolveError(f"name must be one of {', '.join(NOISES)}, got {name!r}.")
    return NOISES[name](problem, scales or NoiseScales())


@checked
def random_noise(problem: Problem, theta: Tensor, draws: int, seed: int = 0) -> Tensor:
    """(N, D): independent draws of mean zero with the covariance of the noise at theta (D,): N noise products."""
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    blocks = []
    for first in range(0, draws, problem.block_size):
        normals = generator.standard_normal((min(problem.block_size, draws - first), problem.noise_dim))
        blocks.append(problem.noise_product(theta, torch.from_numpy(normals).to(theta)))
    return torch.cat(blocks)


@checked(steps=INDEX, problems=Instance((Problem,), "a Problem"))
def noise_alignment(
    problems: Mapping[str, Problem],
    starts: Tensor,
    lr: float,
    steps: Sequence[int],
    draws: int = 400,
    probes: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Alignment of Hess R_S with the covariance of each noise, at common points and along its own training.

    Common are the points of the first problem's runs: there the differences are those of the noises alone.

    Args:
        problems: by name; all with the same network and loss.
        starts: (B, D), a run each.
        lr: learning rate.
        steps: step numbers of the measurements.
        draws: N, draws of a noise whose covariance is not known in closed form.
        probes: vectors for the traces.
        seed: of draws and vectors.

    Returns:
        A row for each noise, run, step and `points` ("own" or "common"): columns of `alignment`, and the loss.
    """
    states = {
        name: train(HalfIteration(problem, lr, seed, runs=len(starts)), starts, steps)
        for name, problem in problems.items()
    }
    common = next(iter(problems))
    rows = []
    for name, problem in problems.items():
        for where in ("own", "common"):
            if where == "common" and name == common:
                continue
            path = states[name if where == "own" else common]
            for step, row in zip(steps, path, strict=True):
                for run, theta in enumerate(row):
                    fixed = {
                        "noise": name,
                        "points": where,
                        "run": run,
                        "step": step,
                        "loss": float(problem.loss(theta)),
                    }
                    rows.append(fixed | _alignment(problem, theta, draws, probes, seed + run))
    table = pd.DataFrame(rows)
    own = table[table.noise == common]
    return pd.concat([table, own.assign(points="common")], ignore_index=True)


def _alignment(problem: Problem, theta: Tensor, draws: int, probes: int, seed: int) -> dict[str, object]:
    hessian = loss_hessian_operator(problem, theta)
    if problem.linear_noise:
        table = alignment(hessian, {"noise": covariance_operator(problem, theta)}, probes, seed)
        return table.drop(columns="covariance").iloc[0].to_dict()
    return sampled_alignment(hessian, random_noise(problem, theta, draws, seed), probes, seed)
