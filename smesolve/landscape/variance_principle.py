"""Variance principle: is the noise larger along sharper directions of the loss?

Two data sets (Zhang, Zhou, Xu, arXiv 2111.01022; Zhang, Li, Luo, Xu, ICLR 2024, first version):

    random trajectory   the parameters of N consecutive dropout steps late in training
    random gradients    N dropout gradients at one theta; they have no drift, so any phase of training will do

and two relations on each:

    flatness    along the principal directions v_i of the data, variances T_i:   F_{v_i} falls as T_i grows
    projection  along the leading eigenvectors u_i of the Hessian:  Var(u_i . data) grows with the eigenvalue H_i

with the interval flatness F_v of `smesolve.landscape.interval_flatness`.

Both relations are summed up by the slope of a straight line through (log x, log y) and by Spearman's rank correlation.
The points of one data set depend on each other, so neither has an interval of its own: independent data sets give one.
Under the null, eigenvectors that know nothing of the other quantity, all pairings of the two are equally likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from smesolve.arguments import Number, checked
from smesolve.errors import SmesolveError
from smesolve.landscape.interval_flatness import interval_flatness
from smesolve.landscape.operators import hessian_operator, loss_hessian_operator
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.landscape.training import HalfIteration, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.problem import Problem

__all__ = [
    "VariancePrinciple",
    "principal_directions",
    "random_gradients",
    "random_trajectories",
    "variance_principle",
]


@dataclass(frozen=True)
class VariancePrinciple:
    """Both relations on both data sets, for several runs."""

    points: pd.DataFrame
    """run, data, relation, factor (NaN for projections), index, x, y: T_i and F_{v_i}, or H_i and variance. H_i is NaN
    where it cannot be told from 0; directions without variance are left out."""
    slopes: pd.DataFrame
    """run, data, relation, factor, slope, rank_correlation, p_value (Spearman's, two-sided), points: one row a run."""


@checked
def random_gradients(problem: Problem, theta: Tensor, draws: int, seed: int = 0) -> Tensor:
    """(N, D): noisy gradients at theta (D,) for N = `draws` independent draws. Cost: one gradient a draw."""
    size = problem.block_size
    blocks = [problem.gradient(theta, problem.sample(size, seed, block)) for block in range(-(-draws // size))]
    return torch.cat(blocks)[:draws]


@checked
def random_trajectories(problem: DropoutProblem, starts: Tensor, lr: float, steps: int, seed: int = 0) -> Tensor:
    """(steps, B, D): the parameters after each of `steps` dropout steps from starts (B, D). Memory as the result."""
    return train(HalfIteration(problem, lr, seed, runs=len(starts)), starts, range(1, steps + 1))


@checked
def principal_directions(data: Tensor, count: int) -> tuple[np.ndarray, Tensor]:
    """Variances T (k,), decreasing, and principal directions (k, D) of data (N, D); k is `count`, or less.

    Directions in which the data vary by rounding alone are left out. Cost N D min(N, D), memory N D.

    Raises:
        SmesolveError: the data do not vary.
    """
    centred = data - data.mean(0)
    _, spreads, directions = torch.linalg.svd(centred, full_matrices=False)
    rounding = max(data.shape) * torch.finfo(data.dtype).eps * float(data.abs().max())
    kept = int((spreads[:count] > rounding).sum())
    if not kept:
        raise SmesolveError(f"data must vary, got {len(data)} points that are equal up to rounding: there is no noise.")
    return (spreads[:kept].square() / (len(data) - 1)).cpu().numpy(), directions[:kept]


def check_options(problem: DropoutProblem, draws: int, directions: int, loss: str) -> None:
    """Refuse options of `variance_principle` that do not fit each other or the problem."""
    if loss not in ("loss", "modified_loss"):
        raise SmesolveError(f"loss must be 'loss' or 'modified_loss', got {loss!r}.")
    if draws <= directions:
        raise SmesolveError(
            f"draws must exceed directions, got {draws} and {directions}: the data span fewer directions."
        )
    if directions >= problem.dim:
        raise SmesolveError(f"directions must be below the number of parameters D = {problem.dim}, got {directions}.")


@checked(factors=Number(1.0))
@torch.no_grad()
def variance_principle(
    problem: DropoutProblem,
    starts: Tensor,
    lr: float,
    draws: int = 1000,
    directions: int = 30,
    factors: Sequence[float] = (1.5, 2.0, 4.0),
    loss: str = "loss",
    seed: int = 0,
) -> VariancePrinciple:
    """Measure both relations on both data sets, at trained networks.

    Args:
        problem: the dropout problem.
        starts: (B, D), B trained networks; each gives a run of its own.
        lr: learning rate of the trajectories.
        draws: N, points of each data set.
        directions: k, principal directions and Hessian eigenvectors.
        factors: thresholds of the interval flatness, in units of the loss at the centre.
        loss: "loss" (R_S, as in the papers) or "modified_loss" (L_S): whose flatness and Hessian.
        seed: of the masks.

    Raises:
        SmesolveError: an unknown loss, or fewer draws than directions.
    """
    check_options(problem, draws, directions, loss)
    function = getattr(problem, loss)
    operator = loss_hessian_operator if loss == "loss" else hessian_operator
    trajectories = random_trajectories(problem, starts, lr, draws, seed)
    points = []
    for run, start in enumerate(starts):
        sets = {
            "random trajectory": (trajectories[-1, run], trajectories[:, run]),
            "random gradients": (start, random_gradients(problem, start, draws, seed + run)),
        }
        for name, (centre, data) in sets.items():
            variances, vectors = principal_directions(data, directions)
            for factor in factors:
                flatness = interval_flatness(function, centre, vectors, factor)
                points.append(_points(run, name, "flatness", factor, variances, flatness))
            pairs = leading_eigenpairs(operator(problem, centre), directions)
            projections = (data - data.mean(0)) @ torch.from_numpy(pairs.vectors).to(data)
            variance = projections.square().sum(0) / (len(data) - 1)
            # Zero eigenvalues have a sign, and a logarithm, by rounding alone.
            resolved = np.where(np.abs(pairs.values) > pairs.residuals, pairs.values, np.nan)
            points.append(_points(run, name, "projection", np.nan, resolved, variance.cpu().numpy()))
    table = pd.concat(points, ignore_index=True)
    keys = ["run", "data", "relation", "factor"]
    rows = [
        dict(zip(keys, values, strict=True)) | _relation(group.x.to_numpy(), group.y.to_numpy())
        for values, group in table.groupby(keys, sort=False, dropna=False)
    ]
    return VariancePrinciple(table, pd.DataFrame(rows))


def _points(run: int, data: str, relation: str, factor: float, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    fixed = {"run": run, "data": data, "relation": relation, "factor": factor}
    return pd.DataFrame(fixed | {"index": np.arange(len(x)), "x": x, "y": y})


def _relation(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Slope of log y on log x, and Spearman's correlation, over the points where both are positive."""
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[usable], y[usable]
    if len(x) < 3:
        return {"slope": np.nan, "rank_correlation": np.nan, "p_value": np.nan, "points": len(x)}
    ranks = stats.spearmanr(x, y)
    slope = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    return {
        "slope": slope,
        "rank_correlation": float(ranks.statistic),
        "p_value": float(ranks.pvalue),
        "points": len(x),
    }
