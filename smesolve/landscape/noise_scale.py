"""The noise scale, which is the ratio of the noise of the gradient to the gradient:

    B = tr Sigma / |grad L_S|^2.                                                                                   (1)

The average gradient over kappa draws has the covariance Sigma/kappa: up to kappa of about B, more draws reduce the
number of steps; beyond it they do not. From N independent gradients g_i, with A the mean of g_i . g_j over i != j and Q
the mean of |g_i|^2,

    |grad L_S|^2 ~ A,      tr Sigma ~ Q - A,                                                                       (2)

both without bias. The interval of B follows from a jackknife interval of its inverse A / (Q - A), whose denominator is
well known. Where the gradient is not resolved from 0, the upper end of B is infinite.

Source: McCandlish, Kaplan, Amodei (arXiv 1812.06162), appendix A.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smesolve.confidence import with_interval
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.landscape.estimates import Estimate, Interval
from smesolve.landscape.jackknife import LeftOut, jackknife, pairs_of
from smesolve.landscape.noise_samples import random_gradients
from smesolve.problem.problem import Problem
from smesolve.validation import check_integer, check_parameters, check_seed

__all__ = ["NoiseScale", "noise_scale"]

PAIRS_AT_ONCE = 2**12
"""Number of pairs of gradients whose products are formed at once."""

ROUNDINGS = 64
"""Units of rounding of Q up to which Q - A counts as 0."""


@dataclass(frozen=True)
class NoiseScale:
    """Noise and gradient at one point, each with its 95% interval."""

    trace: Estimate
    """tr Sigma."""
    squared_gradient: Estimate
    """|grad L_S|^2."""
    scale: Interval
    """B of (1); its upper end is infinite where the gradient is not resolved from 0. B is 0 where the noise is not
    above rounding, and NaN where there is no gradient either."""

    def __str__(self) -> str:
        one = self.scale
        return f"noise scale {with_interval(one.value, one.low, one.high)}: {self.trace} / {self.squared_gradient}"


@entry_point
@torch.no_grad()
def noise_scale(problem: Problem, theta: Tensor, draws: int = 1024, seed: int = 0) -> NoiseScale:
    """Estimate (1) for the noise of a problem: of its masks, of its batches, or of other draws of a step.

    Args:
        problem: a problem with dropout for the noise of masks, a `ModuleProblem` with batch_size for the noise of
            batches (batch_size=1 for one sample), or both.
        theta: (D,), the point.
        draws: N, at least 4. If the problem has at most N different draws (`Problem.draw_count`: masks, batches,
            sequences of batches, and both), all of them are taken with their probabilities in place of a sample: the
            values are exact, and the intervals have length 0.
        seed: seed of the draws.

    Raises:
        SmesolveError: bad arguments, or the state of an optimiser in place of parameters.

    Cost: N gradients, N D floats of memory, and 50 N products of gradients.
    """
    theta = check_parameters("theta", theta, problem)
    draws, seed = check_integer("draws", draws, 4), check_seed("seed", seed)
    if problem.trained is not problem:
        raise SmesolveError(f"problem must be the one that is trained, got {problem!r}; take its `trained`.")
    if problem.draw_count <= draws:
        return _enumerated(problem, theta)
    gradients = _finite(random_gradients(problem, theta, draws, seed))
    values, left_out = _statistics(gradients)
    rounding = _rounding(gradients, values[0])
    if not values[0] - values[1] > rounding:  # no noise
        return NoiseScale(Estimate(0.0), Estimate(float(values[1])), _without_noise(values[1] > rounding))
    trace, square, inverse = (
        jackknife(function, values, [left_out])[0]
        for function in (
            lambda s: s[..., 0] - s[..., 1],
            lambda s: s[..., 1],
            lambda s: s[..., 1] / (s[..., 0] - s[..., 1]),
        )
    )
    return NoiseScale(trace, square, Interval(*(_inverse(v) for v in (inverse.value, inverse.high, inverse.low))))


def _enumerated(problem: Problem, theta: Tensor) -> NoiseScale:
    """Return the exact values from all draws."""
    every, weights = problem.all_draws()
    gradients = _finite(problem.gradient(theta.expand(len(weights), -1), every))
    values, weights = gradients.double(), weights.to(gradients.device, torch.float64)
    mean = weights @ values
    trace, square = float(weights @ (values - mean).square().sum(-1)), float(mean.square().sum())
    rounding = _rounding(gradients, trace + square)
    if not trace > rounding:
        return NoiseScale(Estimate(0.0), Estimate(square), _without_noise(square > rounding))
    scale = _inverse(square / trace if square > rounding else 0.0)
    return NoiseScale(Estimate(trace), Estimate(square), Interval(scale, scale, scale))


def _finite(gradients: Tensor) -> Tensor:
    """Return gradients that are all finite."""
    if not gradients.isfinite().all():
        raise SmesolveError("theta has gradients that are not finite; take smaller parameters.")
    return gradients


def _rounding(gradients: Tensor, mean_square: float) -> float:
    """Return the rounding of squares of gradients whose mean square is given."""
    return float(ROUNDINGS * torch.finfo(gradients.dtype).eps * mean_square)


def _without_noise(has_gradient: bool) -> Interval:
    """Return B without noise: 0, or NaN where there is no gradient either."""
    scale = 0.0 if has_gradient else np.nan
    return Interval(scale, scale, scale)


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else np.inf


def _statistics(gradients: Tensor) -> tuple[np.ndarray, LeftOut]:
    """Return (Q, A) of (2) from all gradients (N, D), and without one and without two of them."""
    count, total = len(gradients), gradients.sum(0)
    squares, along = (part.double().cpu().numpy() for part in (gradients.square().sum(-1), gradients @ total))
    first, second = pairs = pairs_of(count)
    products = np.concatenate(
        [
            (gradients[first[k : k + PAIRS_AT_ONCE]] * gradients[second[k : k + PAIRS_AT_ONCE]]).sum(-1).cpu().numpy()
            for k in range(0, len(first), PAIRS_AT_ONCE)
        ]
    )
    whole = float(total.square().sum())

    def both(left: int, sum_of_squares: np.ndarray, square_of_sum: np.ndarray) -> np.ndarray:
        return np.stack([sum_of_squares / left, (square_of_sum - sum_of_squares) / (left * (left - 1))], axis=-1)

    one = squares.sum() - squares, whole - 2 * along + squares
    two = (
        squares.sum() - squares[first] - squares[second],
        whole - 2 * (along[first] + along[second]) + squares[first] + squares[second] + 2 * products,
    )
    values = both(count, np.array(squares.sum()), np.array(whole))
    return values, LeftOut(both(count - 1, *one), both(count - 2, *two), pairs)
