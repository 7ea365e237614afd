"""Flatness of solutions, and which half of dropout makes them flat.

- trace and largest eigenvalue of Hess R_S,
- width along random filter-normalised directions (Li, Xu, Taylor, Studer, Goldstein, NeurIPS 2018): the distance over
  which R_S stays below its value at the solution plus a given rise; 1 is the length of the filters themselves,
- R_S on the segment between two solutions.

Dropout is a drift (the penalty R_1) and a noise, each in or out: a two-by-two design. With y_dn the logarithm of a
measure for drift d and noise n, from the same initial point and with the same masks, there are paired contrasts,

    drift        (y_10 - y_00 + y_11 - y_01) / 2
    noise        (y_01 - y_00 + y_11 - y_10) / 2
    interaction   y_11 - y_10 - y_01 + y_00,

one value for each initial point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.arguments import Parameters, checked
from smesolve.errors import SmesolveError
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.interval_flatness import interval_width
from smesolve.landscape.operators import loss_hessian_operator
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.landscape.traces import trace
from smesolve.landscape.training import HALVES
from smesolve.problem.problem import Problem

__all__ = [
    "FlatnessStudy",
    "filter_normalised_directions",
    "flatness",
    "half_effects",
    "interpolation",
    "logarithms",
    "loss_along",
]


@dataclass(frozen=True)
class FlatnessStudy:
    """Flatness of the solutions of several trainings."""

    table: pd.DataFrame
    """training, run, loss, trace, top_eigenvalue, width: mean over directions, NaN where R_S never rises that far along
    one of them."""
    curves: pd.DataFrame
    """training, run, distance, loss: mean of R_S over the directions at that distance."""
    interpolations: pd.DataFrame
    """first, second, run, alpha, loss: R_S at (1 - alpha) first + alpha second."""


@checked
def filter_normalised_directions(problem: Problem, theta: Tensor, count: int, seed: int = 0) -> Tensor:
    """(k, D): random directions in which each filter has the norm of theta's filter; theta (D,).

    A filter is a row of a parameter with two dimensions or more, so all that enters one neuron. Parameters with one
    dimension, such as biases, stay as they are (their entries are 0), as in the source.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    pieces = []
    sizes = [parameter.numel() for parameter in problem.network.parameters()]
    for parameter, part in zip(problem.network.parameters(), theta.split(sizes), strict=True):
        if parameter.ndim < 2:
            pieces.append(theta.new_zeros(count, parameter.numel()))
            continue
        filters = part.reshape(len(parameter), -1)
        random = torch.from_numpy(generator.standard_normal((count, *filters.shape))).to(theta)
        scale = filters.norm(dim=1) / random.norm(dim=2)
        pieces.append((scale[..., None] * random).flatten(1))
    return torch.cat(pieces, dim=1)


@checked(directions=Parameters(("k",)))
def loss_along(problem: Problem, theta: Tensor, directions: Tensor, distances: Sequence[float]) -> Tensor:
    """R_S(theta + t d) (k, T) for directions d (k, D) and distances t. Cost: k T forward passes."""
    rows = [problem.loss(theta + t * directions) for t in distances]
    return torch.stack(rows, dim=-1)


@checked(first=Parameters(None), second=Parameters(None))
def interpolation(problem: Problem, first: Tensor, second: Tensor, alphas: Sequence[float]) -> Tensor:
    """R_S((1 - alpha) first + alpha second) (..., A) for solutions (..., D)."""
    return torch.stack([problem.loss((1 - alpha) * first + alpha * second) for alpha in alphas], dim=-1)


def check_curvature(problem: Problem, starts: Tensor) -> None:
    """Refuse a loss R_S that is constant around initial points (B, D): it stays so, and has no flatness to compare."""
    for theta in starts:
        probe = np.random.default_rng(0).standard_normal(len(theta))
        if not (loss_hessian_operator(problem, theta) @ probe).any():
            raise SmesolveError(
                f"data must give the loss curvature, got a Hessian of 0 at an initial point, inputs of size up to "
                f"{float(problem.x.abs().max()):g}: take other inputs, or leave out the section flatness."
            )


@checked(solutions=Parameters(("B",)))
@torch.no_grad()
def flatness(
    problem: Problem,
    solutions: Mapping[str, Tensor],
    directions: int = 20,
    rise: float = 0.05,
    distances: Sequence[float] = tuple(np.linspace(-1, 1, 21)),
    alphas: Sequence[float] = tuple(np.linspace(-0.5, 1.5, 21)),
    probes: int = 100,
    seed: int = 0,
) -> FlatnessStudy:
    """Flatness of R_S at solutions.

    Args:
        problem: whose loss R_S; the same for all solutions.
        solutions: training -> (B, D), run b from the same initial point in every training.
        directions: random filter-normalised directions a solution.
        rise: of R_S that ends the width.
        distances: of the curves.
        alphas: of the interpolation, from the first training to each other one.
        probes: vectors for the trace.
        seed: of directions and vectors; run b has the same directions up to their filter norms in every training.
    """
    rows, curves, segments = [], [], []
    reference = next(iter(solutions))
    for name, states in solutions.items():
        for run, theta in enumerate(states):
            rays = filter_normalised_directions(problem, theta, directions, seed + run)
            base = problem.loss(theta)
            width = interval_width(problem.loss, theta, rays, base + rise)
            hessian = loss_hessian_operator(problem, theta)
            fixed = {"training": name, "run": run}
            rows.append(
                fixed
                | {
                    "loss": float(base),
                    "trace": trace(hessian, probes, seed + run).value,
                    "top_eigenvalue": float(leading_eigenpairs(hessian, 1, tol=1e-4).values[0]),
                    "width": float(width.mean()),
                }
            )
            values = loss_along(problem, theta, rays, distances).mean(0).cpu().numpy()
            curves.append(pd.DataFrame(fixed | {"distance": distances, "loss": values}))
        if name != reference:
            values = interpolation(problem, solutions[reference], states, alphas).cpu().numpy()
            for run, line in enumerate(values):
                fixed = {"first": reference, "second": name, "run": run}
                segments.append(pd.DataFrame(fixed | {"alpha": alphas, "loss": line}))
    return FlatnessStudy(pd.DataFrame(rows), pd.concat(curves), pd.concat(segments) if segments else pd.DataFrame())


def logarithms(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """The table with the natural logarithm of each measure in its place.

    It is NaN in all runs of a training where the measure is not positive in one of them: a mean over the other runs
    would be one over chosen runs.
    """
    positive = table.groupby("training")[list(measures)].transform(lambda column: (column > 0).all())
    return table.assign(**{measure: np.log(table[measure].where(positive[measure])) for measure in measures})


@checked
def half_effects(table: pd.DataFrame, measures: Sequence[str] = ("trace", "top_eigenvalue", "width")) -> pd.DataFrame:
    """Effects of drift and noise on the logarithm of each measure, with intervals over the runs.

    Args:
        table: of a `FlatnessStudy` with all four trainings of `HALVES`.
        measures: columns.

    Returns:
        A row for each measure and effect ("drift", "noise", "interaction"): `change` with `_low` and `_high`, the mean
        change of the natural logarithm (`logarithms`); NaN where the measure is not positive in one of the runs.

    Raises:
        SmesolveError: a training is missing.
    """
    missing = [name for name in HALVES if name not in set(table.training)]
    if missing:
        raise SmesolveError(f"table lacks the training {missing[0]!r}; all of {', '.join(HALVES)} are needed.")
    halves, frames = logarithms(table[table.training.isin(HALVES)], measures), []
    for measure in measures:
        y = halves.pivot(index="run", columns="training", values=measure)
        drift = (y["drift only"] - y["gradient descent"] + y["dropout"] - y["noise only"]) / 2
        noise = (y["noise only"] - y["gradient descent"] + y["dropout"] - y["drift only"]) / 2
        interaction = y["dropout"] - y["drift only"] - y["noise only"] + y["gradient descent"]
        for effect, values in (("drift", drift), ("noise", noise), ("interaction", interaction)):
            frames.append(pd.DataFrame({"measure": measure, "effect": effect, "change": values.to_numpy()}))
    return over_runs(pd.concat(frames), ["measure", "effect"], ["change"])
