"""Flatness of the loss: its width along directions, its values on a line through two solutions, and effects on them.

The interval flatness along a unit vector v is the width

    F_v = |right - left|                                                                                             (1)

between the nearest points on both sides of theta where the loss is `factor` times the loss at theta; the factor is 2 in
Zhang, Zhou, Xu (arXiv 2111.01022).

Dropout is a drift (the penalty R_1) and a noise, each in or out: a two-by-two factorial design. With y_dn the logarithm
of a measure for drift d and noise n, from the same initial point and with the same masks, the paired contrasts are

    drift        (y_10 - y_00 + y_11 - y_01) / 2                                                                     (2)
    noise        (y_01 - y_00 + y_11 - y_10) / 2                                                                     (3)
    interaction   y_11 - y_10 - y_01 + y_00,                                                                         (4)

one value for each initial point.

On the line through two solutions, l(alpha) = R_S((1 - alpha) first + alpha second) has

    barrier     max_{0 <= alpha <= 1} l(alpha) - max(l(0), l(1))                                                     (5)
    asymmetry   ln l(1 + s) - ln l(-s),      s the largest distance on both sides                                    (6)

The asymmetry is negative where the valley is wider on the side of the second solution: the loss at distance s behind it
is lower than at distance s behind the first. Zhang, Xu (TPAMI 2024, arXiv 2207.05952, figure 13) show l with s = 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, invalid
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.operators import conservative_problem, loss_hessian_operator
from smesolve.landscape.training import ABLATIONS
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.parameters import trainable
from smesolve.problem.problem import Problem
from smesolve.validation import (
    check_callable,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_parameters,
    check_seed,
    check_tensor,
)

__all__ = [
    "LossProfile",
    "check_curvature",
    "factorial_effects",
    "filter_normalised_directions",
    "interpolation",
    "interval_flatness",
    "interval_width",
    "logarithms",
    "loss_along",
    "loss_profile",
]


BISECTIONS = 40
"""Bisection steps in the search for a crossing."""
GROWTH = 1.3
"""Factor between the trial distances on the way to the first crossing."""
REACH = 1e3
"""Distance, in units of the norm of theta, beyond which the loss is assumed never to cross the threshold."""
CHUNK = 16
"""Points whose loss is computed together."""


@entry_point
def filter_normalised_directions(problem: Problem, theta: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return random directions (k, D) in which each filter has the norm of the same filter in theta (D,).

    Source: Li, Xu, Taylor, Studer, Goldstein (NeurIPS 2018). A filter is a row of a parameter with two or more
    dimensions: all weights that enter one neuron. Entries of parameters with one dimension, such as biases, are 0, as
    in the source.
    """
    theta = check_parameters("theta", theta, conservative_problem(problem))
    check_integer("count", count)
    check_seed("seed", seed)
    check_numbers_fit(f"count={count}", count * len(theta), "take fewer")
    if problem.network is None:
        raise SmesolveError(f"problem must have a network, whose filters are normalised, got {problem!r}.")
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    pieces = []
    trained = [*trainable(problem.network).values()]
    for parameter, part in zip(trained, theta.split([one.numel() for one in trained]), strict=True):
        if parameter.ndim < 2:
            pieces.append(theta.new_zeros(count, parameter.numel()))
            continue
        filters = part.reshape(len(parameter), -1)
        random = torch.from_numpy(generator.standard_normal((count, *filters.shape))).to(theta)
        scale = filters.norm(dim=1) / random.norm(dim=2)
        pieces.append((scale[..., None] * random).flatten(1))
    return torch.cat(pieces, dim=1)


@entry_point
def loss_along(problem: Problem, theta: Tensor, directions: Tensor, distances: Sequence[float]) -> Tensor:
    """Return R_S(theta + t d), (k, T), for directions d (k, D) and distances t. Cost: k T forward passes."""
    theta = check_parameters("theta", theta, problem)
    directions = check_parameters("directions", directions, problem, ("k",))
    distances = check_list("distances", distances, check_number)
    rows = [problem.loss(theta + t * directions) for t in distances]
    return torch.stack(rows, dim=-1)


@entry_point
def interpolation(problem: Problem, first: Tensor, second: Tensor, alphas: Sequence[float]) -> Tensor:
    """Return R_S((1 - alpha) first + alpha second), (..., A), for solutions (..., D)."""
    first = check_parameters("first", first, problem, None)
    second = check_parameters("second", second, problem, None)
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        shape = f"go with first, of shape {tuple(first.shape)}"
        raise invalid("second", shape, second, "give as many solutions, or one (D,)") from None
    alphas = check_list("alphas", alphas, check_number)
    return torch.stack([problem.loss((1 - alpha) * first + alpha * second) for alpha in alphas], dim=-1)


def check_curvature(problem: Problem, starts: Tensor) -> None:
    """Refuse a loss R_S that is constant around initial points (B, D), where training does not move and has no
    flatness."""
    for theta in starts:
        probe = np.random.default_rng(0).standard_normal(len(theta))
        if not (loss_hessian_operator(problem, theta) @ probe).any():
            size = "" if problem.x is None else f", inputs of size up to {float(problem.x.abs().max()):g}"
            raise SmesolveError(
                f"data must give the loss curvature, got a Hessian of 0 at an initial point{size}: take other inputs, "
                "or leave out the section flatness."
            )


def logarithms(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Return the table with the natural logarithm of each measure in its place.

    It is NaN in all runs of a training if the measure is not positive in one of them, because a mean over the other
    runs would be a mean over selected runs.
    """
    positive = table.groupby("training")[list(measures)].transform(lambda column: (column > 0).all())
    return table.assign(**{measure: np.log(table[measure].where(positive[measure])) for measure in measures})


def _check_measure(name: str, value: Any) -> str:
    """Return the name of a column of measured values."""
    check_instance(name, value, str, "a string")
    if value in ("training", "run"):
        raise invalid(name, "be a measure", value, "this column says which training was measured")
    return str(value)


@entry_point
def factorial_effects(
    table: pd.DataFrame, measures: Sequence[str] = ("trace", "top_eigenvalue", "width")
) -> pd.DataFrame:
    """Estimate the effects of drift and noise on the logarithm of each measure, with intervals over the runs.

    Args:
        table: a row for each training of `ABLATIONS` and each run, with columns `training`, `run` and the measures.
        measures: names of columns.

    Returns:
        A row for each measure and effect ("drift", "noise", "interaction"): `change` with `_low` and `_high`, the mean
        change of the natural logarithm (`logarithms`); NaN where the measure is not positive in one of the runs.

    Raises:
        SmesolveError: a training or a column is missing, a column does not hold numbers, or a training has several rows
            for one run.
    """
    check_instance("table", table, pd.DataFrame, "a table with columns training and run")
    measures = check_list("measures", measures, _check_measure, distinct=True)
    for name in ("training", "run", *measures):
        if list(table.columns).count(name) != 1:
            columns = ", ".join(map(str, table.columns))
            raise SmesolveError(
                f"table must have one column {name!r}, for training, run and each of the measures, got {columns}."
            )
        if name in measures and table[name].dtype.kind not in "fiu":
            raise SmesolveError(f"table must have numbers in the column {name!r}, got {table[name].dtype}.")
    missing = [name for name in ABLATIONS if name not in set(table.training)]
    if missing:
        raise SmesolveError(f"table lacks the training {missing[0]!r}; it must have all of {', '.join(ABLATIONS)}.")
    if (repeated := table[table.duplicated(["training", "run"])]).size:
        pair = f"training {repeated.training.iloc[0]!r} and run {repeated.run.iloc[0]}"
        raise SmesolveError(f"table must have one row for each training and run, got several for {pair}.")
    ablations, frames = logarithms(table[table.training.isin(ABLATIONS)], measures), []
    for measure in measures:
        y = ablations.pivot(index="run", columns="training", values=measure)
        drift = (y["drift only"] - y["gradient descent"] + y["dropout"] - y["noise only"]) / 2  # (2)
        noise = (y["noise only"] - y["gradient descent"] + y["dropout"] - y["drift only"]) / 2  # (3)
        interaction = y["dropout"] - y["drift only"] - y["noise only"] + y["gradient descent"]  # (4)
        for effect, values in (("drift", drift), ("noise", noise), ("interaction", interaction)):
            frames.append(pd.DataFrame({"measure": measure, "effect": effect, "change": values.to_numpy()}))
    return over_runs(pd.concat(frames), ["measure", "effect"], ["change"])


@entry_point
def interval_flatness(
    loss: Callable[[Tensor], Tensor], theta: Tensor, directions: Tensor, factor: float = 2.0
) -> np.ndarray:
    """Return F_v (k,) along unit vectors v (k, D): the width of the interval where loss < factor loss(theta).

    Args:
        loss: loss (B,) of parameters (B, D).
        theta: parameters (D,) at the centre.
        directions: unit vectors (k, D).
        factor: threshold in units of the loss at theta, above 1.

    Raises:
        SmesolveError: bad arguments, such as a loss that does not map (B, D) to (B,) or is not positive at theta, or
            directions of another length than 1.
    """
    check_callable("loss", loss)
    theta = check_tensor("theta", theta, "D")
    directions = check_tensor("directions", directions, len(theta), ("k",), dtype=theta.dtype)
    check_number("factor", factor, 1.0, remedy="the threshold is factor times the loss at theta")
    lengths = directions.norm(dim=-1)
    if not torch.allclose(lengths, torch.ones_like(lengths), rtol=0.0, atol=1e-5):
        farthest = float(lengths[(lengths - 1).abs().argmax()])
        raise invalid("directions", "have length 1", farthest, "divide each of them by its norm")
    values = call_of_user("loss", loss, theta.expand(2, -1))
    if not isinstance(values, Tensor) or values.shape != (2,):
        raise invalid("loss", "return a tensor (2,) for parameters (2, D)", values)
    lowest = values[0]
    if not 0 < float(lowest) < np.inf:
        remedy = "the threshold is factor times the loss at theta"
        raise invalid("loss", "be positive and finite at theta", float(lowest), remedy)
    return interval_width(loss, theta, directions, factor * lowest)  # (1)


def interval_width(
    loss: Callable[[Tensor], Tensor], theta: Tensor, directions: Tensor, threshold: Tensor
) -> np.ndarray:
    """Return the width (k,), in lengths of the directions (k, D), of the interval around theta where loss < threshold.

    Each side is searched in steps that grow by 30%, from 1e-4 |theta| to the first crossing, which bisection locates.
    The search misses a rise and fall of the loss within one step. The width is NaN where the loss does not cross the
    threshold on one of the sides.
    """
    sides = torch.cat([directions, -directions])
    norm = float(theta.norm()) or 1.0

    def crosses(distance: Tensor) -> Tensor:
        points = [
            loss(theta + part[:, None] * side)
            for part, side in zip(torch.split(distance, CHUNK), torch.split(sides, CHUNK), strict=True)
        ]
        values = torch.cat(points)
        return ~(values < threshold)  # a loss that is not finite has crossed

    low, high = sides.new_zeros(len(sides)), sides.new_full((len(sides),), 1e-4 * norm)
    found = crosses(high)
    while not found.all() and float(high.max()) < REACH * norm:
        low, high = torch.where(found, low, high), torch.where(found, high, GROWTH * high)
        found = found | crosses(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = crosses(middle)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    width = torch.where(found, high, torch.nan).reshape(2, -1).sum(0)
    return width.cpu().numpy()


@dataclass(frozen=True)
class LossProfile:
    """Barrier and asymmetry of the loss on a line."""

    peak: float
    """Largest loss between the solutions."""
    peak_alpha: float
    """Position of the peak, 0 at the first solution and 1 at the second."""
    barrier: float
    """(5), 0 where the loss nowhere exceeds both ends."""
    asymmetry: float
    """(6); NaN where the loss is 0 at one of the two points."""


@entry_point
def loss_profile(alphas: np.ndarray, losses: np.ndarray) -> LossProfile:
    """Return barrier and asymmetry of losses (A,) at increasing positions alphas (A,).

    Args:
        alphas: positions, with 0 and 1 among them up to 1e-9, which end at the same distance beyond both solutions.
        losses: the loss at each position, as `interpolation` computes it.

    Raises:
        SmesolveError: the positions do not increase, lack 0 or 1, or do not end at the same distances.
    """
    positions = np.array(check_list("alphas", alphas, check_number), dtype=float)
    values = np.array(check_list("losses", losses, check_number, size=len(positions)), dtype=float)
    ends = [np.flatnonzero(np.isclose(positions, end, rtol=0, atol=1e-9)) for end in (0.0, 1.0)]
    if (np.diff(positions) <= 0).any() or any(len(found) != 1 for found in ends):
        raise invalid("alphas", "increase, with 0 and 1 among them", alphas)
    if not np.isclose(-positions[0], positions[-1] - 1, rtol=0, atol=1e-9):
        raise invalid("alphas", "reach as far beyond 1 as beyond 0", alphas)
    first, second = (int(found[0]) for found in ends)
    peak = first + int(values[first : second + 1].argmax())
    with np.errstate(divide="ignore", invalid="ignore"):
        asymmetry = float(np.log(values[-1]) - np.log(values[0]))  # (6)
    return LossProfile(
        peak=float(values[peak]),
        peak_alpha=float(positions[peak]),
        barrier=float(values[peak] - max(values[first], values[second])),  # (5)
        asymmetry=asymmetry if np.isfinite(asymmetry) else np.nan,
    )
