"""Condensation: do the input weights of a two-layer network gather on few orientations?

The input weight of neuron j is u_j = (w_j, b_j), bias included, its orientation u_j / |u_j|, its amplitude |A_j||u_j|.
Measures (Zhang, Xu, TPAMI 2024, arXiv 2207.05952):

    cosine map               u_j . u_k / (|u_j||u_k|)
    effective orientations   number of groups in which all cosines exceed 0.95 (complete linkage); "effective ratio" is
                             that number over m
    participation            (sum_j p_j)^2 / sum_jk p_j p_k cos_jk^2,  p_j the amplitude: orientations that matter,
                             counted smoothly; m for orthogonal neurons of one amplitude, 1 for one line

A neuron of an odd activation (tanh) does the same with -u_j and -A_j: there orientations count up to their sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from smesolve.arguments import INDEX, Number, Parameters, checked
from smesolve.errors import SmesolveError
from smesolve.landscape.training import HALVES, HalfIteration, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.sampling.ensemble import Process
from smesolve.solver.integration import Integration
from smesolve.solver.modified_equation import ModifiedEquation

__all__ = [
    "CondensationStudy",
    "condensation",
    "cosine_map",
    "effective_orientations",
    "input_weights",
    "participation",
]

THRESHOLD = 0.95
"""Cosine from which two orientations are one."""

EQUATION = "SME order 2"

TRAININGS = (*HALVES, EQUATION)
"""Dropout, its halves (drift only is descent on R_S + R_1 = L_S), and its modified equation."""


@dataclass(frozen=True)
class CondensationStudy:
    """Orientations along training."""

    table: pd.DataFrame
    """training, run, step, orientations, effective_ratio, participation, loss."""
    maps: Mapping[str, np.ndarray]
    """Training -> cosine map (m, m) of the first run's last state, neurons in the order of their groups."""


@checked(theta=Parameters(None))
def input_weights(problem: DropoutProblem, theta: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """u (..., m, d or d + 1) with the bias as last entry, and amplitudes |A_j||u_j| (..., m), from theta (..., D).

    Raises:
        SmesolveError: the network is not a `TwoLayerNetwork`.
    """
    network = problem.network
    if not isinstance(network, TwoLayerNetwork):
        raise SmesolveError(f"problem must have a TwoLayerNetwork for input weights, got {type(network).__name__}.")
    parts = dict(
        zip(
            (name for name, _ in network.named_parameters()),
            theta.split([parameter.numel() for parameter in network.parameters()], dim=-1),
            strict=True,
        )
    )
    weights = parts["hidden.weight"].unflatten(-1, (problem.width, -1)).cpu().numpy()
    if "hidden.bias" in parts:
        weights = np.concatenate([weights, parts["hidden.bias"][..., None].cpu().numpy()], axis=-1)
    readout = parts["readout.weight"].unflatten(-1, (problem.out_features, -1)).norm(dim=-2).cpu().numpy()
    return weights, readout * np.linalg.norm(weights, axis=-1)


@checked
def cosine_map(weights: np.ndarray) -> np.ndarray:
    """Cosines (m, m) between rows (m, d); 0 with a row of zeros."""
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    units = weights / np.where(norms > 0, norms, 1.0)
    return units @ units.T


@checked(threshold=Number(0.0, 1.0))
def effective_orientations(weights: np.ndarray, lines: bool = False, threshold: float = THRESHOLD) -> np.ndarray:
    """Group (m,) of each row of weights (m, d), numbered from 1: within a group all cosines exceed the threshold.

    Complete linkage; orientations up to sign where `lines`.
    """
    cosines = cosine_map(weights)
    distances = 1 - (np.abs(cosines) if lines else cosines)
    np.fill_diagonal(distances, 0.0)
    if len(weights) == 1:
        return np.ones(1, dtype=int)
    tree = linkage(squareform(np.maximum(distances, 0.0), checks=False), "complete")
    return fcluster(tree, 1 - threshold, "distance")


@checked
def participation(weights: np.ndarray, amplitudes: np.ndarray) -> float:
    """(sum_j p_j)^2 / sum_jk p_j p_k cos_jk^2 from weights (m, d) and amplitudes p (m,): from 1 to m.

    NaN where all amplitudes are 0.
    """
    if not amplitudes.any():
        return np.nan
    return float(amplitudes.sum() ** 2 / (amplitudes @ cosine_map(weights) ** 2 @ amplitudes))


@checked(steps=INDEX)
def condensation(
    problem: DropoutProblem,
    starts: Tensor,
    lr: float,
    steps: Sequence[int],
    trainings: Sequence[str] = ("gradient descent", "drift only", "dropout", EQUATION),
    lines: bool = False,
    seed: int = 0,
) -> CondensationStudy:
    """Orientations along training by gradient descent, by descent on R_S + R_1, by dropout and by its SME.

    Args:
        problem: dropout on a `TwoLayerNetwork`.
        starts: (B, D), a run each.
        lr: learning rate; the SME is integrated by small_noise_heun with dt = lr.
        steps: increasing step numbers of the measurements.
        trainings: names in `TRAININGS`.
        lines: orientations count up to their sign, for odd activations.
        seed: of the masks and of the Brownian motion.
    """
    rows, maps = [], {}
    for name in trainings:
        states = train(_process(problem, name, starts, lr, seed), starts, steps)
        weights, amplitudes = input_weights(problem, states)
        for i, step in enumerate(steps):
            losses = problem.loss(states[i])
            for run in range(len(starts)):
                groups = effective_orientations(weights[i, run], lines)
                rows.append(
                    {
                        "training": name,
                        "run": run,
                        "step": step,
                        "orientations": int(groups.max()),
                        "effective_ratio": groups.max() / problem.width,
                        "participation": participation(weights[i, run], amplitudes[i, run]),
                        "loss": float(losses[run]),
                    }
                )
        order = np.argsort(effective_orientations(weights[-1, 0], lines), kind="stable")
        maps[name] = cosine_map(weights[-1, 0][order])
    return CondensationStudy(pd.DataFrame(rows), maps)


def _process(problem: DropoutProblem, name: str, starts: Tensor, lr: float, seed: int) -> Process:
    if name not in TRAININGS:
        raise SmesolveError(f"training must be one of {', '.join(TRAININGS)}, got {name!r}.")
    if name == EQUATION:
        return Integration(ModifiedEquation(problem, lr, order=2), starts[0], "small_noise_heun", lr, seed)
    return HalfIteration(problem, lr, seed, name, len(starts))
