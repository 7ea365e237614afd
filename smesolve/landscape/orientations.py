"""Orientations of the input weights of a two-layer network, and measures of their diversity.

The input weight of neuron j is u_j = (w_j, b_j), bias included, its orientation u_j / |u_j|, its amplitude |A_j||u_j|.
Measures (Zhang, Xu, TPAMI 2024, arXiv 2207.05952):

    cosine map              cos_jk = u_j . u_k / (|u_j||u_k|)                                                        (1)
    participation           (sum_j p_j)^2 / sum_jk p_j p_k cos_jk^2,  p_j the amplitudes                             (2)

and the covering number of `smesolve.landscape.covering`, which does not depend on the amplitudes.

The participation is a smooth count of orientations weighted by amplitudes: it is m for orthogonal neurons of the same
amplitude, and 1 for neurons on one line. A neuron with an odd activation (tanh) computes the same function with -u_j
and -A_j, so that its orientation counts up to sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.landscape.array_checks import check_array, unit_rows
from smesolve.landscape.covering import covering
from smesolve.landscape.operators import dropout_problem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.validation import check_parameters

__all__ = ["ODD", "cosine_map", "input_weights", "orientations_along", "participation"]

ODD = ("tanh", "identity")
"""Odd activations, for which orientations are counted up to their sign."""


@entry_point
def input_weights(problem: DropoutProblem, theta: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return u (..., m, d or d + 1) with the bias as last entry, and amplitudes |A_j||u_j| (..., m).

    Args:
        problem: dropout on a `TwoLayerNetwork`.
        theta: parameters (..., D).
    """
    network = dropout_problem(problem).network
    if not isinstance(network, TwoLayerNetwork):
        raise SmesolveError(f"problem must have a TwoLayerNetwork for input weights, got {type(network).__name__}.")
    theta = check_parameters("theta", theta, problem, None)
    parts = dict(
        zip(
            (name for name, _ in network.named_parameters()),
            torch.split(theta, [parameter.numel() for parameter in network.parameters()], dim=-1),
            strict=True,
        )
    )
    weights = torch.unflatten(parts["hidden.weight"], -1, (problem.width, -1)).cpu().numpy()
    if "hidden.bias" in parts:
        weights = np.concatenate([weights, parts["hidden.bias"][..., None].cpu().numpy()], axis=-1)
    readout = torch.unflatten(parts["readout.weight"], -1, (problem.out_features, -1)).norm(dim=-2).cpu().numpy()
    return weights, readout * np.linalg.norm(weights, axis=-1)


@entry_point
def cosine_map(weights: np.ndarray) -> np.ndarray:
    """Return the cosines (1), (m, m), between rows (m, d); they are 0 for a row of zeros."""
    units = unit_rows(check_array("weights", weights, "(m, d)"))
    cosines: np.ndarray = units @ units.T
    return cosines


@entry_point
def participation(weights: np.ndarray, amplitudes: np.ndarray) -> float:
    """Return (2) from weights (m, d) and amplitudes p (m,): a number from 1 to m, or NaN if no neuron counts.

    A neuron whose weights are all zero has no orientation and does not count, whatever its amplitude.

    Raises:
        SmesolveError: the arrays do not fit together or are not finite, or an amplitude is negative.
    """
    weights = check_array("weights", weights, "(m, d)")
    amplitudes = check_array("amplitudes", amplitudes, "(m,)")
    if amplitudes.shape != weights.shape[:1]:
        raise invalid("amplitudes", f"have shape ({len(weights)},), one entry for each row of weights", amplitudes)
    if (amplitudes < 0).any():
        raise invalid("amplitudes", "not be negative", float(amplitudes.min()), "take their absolute values")
    p = np.where(weights.any(axis=1), amplitudes, 0.0)
    if not p.any():
        return np.nan
    p = np.ldexp(p, -np.frexp(p.max())[1])  # without rounding, so that no square overflows or vanishes
    return float(p.sum() ** 2 / (p @ cosine_map(weights) ** 2 @ p))  # (2)


def orientations_along(
    problem: DropoutProblem, states: Tensor, steps: Sequence[int], lines: bool
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the orientations of runs at some steps of a training, and the cosine map at the end of the first run.

    Args:
        problem: dropout on a `TwoLayerNetwork`.
        states: parameters (T, runs, D).
        steps: the T step numbers.
        lines: whether orientations are counted up to their sign.

    Returns:
        Columns run, step; orientations and least_orientations, the bounds on the covering number, and both relative to
        the width, effective_ratio and least_ratio; participation; loss. And the cosine map (m, m), neurons of one
        orientation side by side.
    """
    weights, amplitudes = input_weights(problem, states)
    rows = []
    for i, step in enumerate(steps):
        losses = problem.loss(states[i])
        for run in range(states.shape[1]):
            caps = covering(weights[i, run], lines)
            rows.append(
                {
                    "run": run,
                    "step": step,
                    "orientations": caps.upper,
                    "least_orientations": caps.lower,
                    "effective_ratio": caps.upper / problem.width,
                    "least_ratio": caps.lower / problem.width,
                    "participation": participation(weights[i, run], amplitudes[i, run]),
                    "loss": float(losses[run]),
                }
            )
    order = np.argsort(covering(weights[-1, 0], lines).groups, kind="stable")
    return pd.DataFrame(rows), cosine_map(weights[-1, 0][order])
