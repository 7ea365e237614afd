"""The numbers of paths, and the step of the scheme, that the errors at a horizon require.

For a given variance s_1^2/n_1 + s_2^2/n_2 = v of the error, the work n_1 c_1 + n_2 c_2 of n_i paths at cost c_i is
least for

    n_i = s_i / sqrt(c_i) (s_1 sqrt(c_1) + s_2 sqrt(c_2)) / v.                                             (1)

s_i is the standard deviation of a normal law with the same interval, so that the paths suffice for the interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smesolve.comparison.budget_row import is_noisy
from smesolve.comparison.cost import ITERATION_STEP_COST
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.solver_bias import NOISE_FACTOR, SolverBias
from smesolve.confidence import NORMAL_QUANTILE

__all__ = ["Estimates", "Wanted", "bias_is_large", "further_work", "next_paths", "wanted_paths"]

BIAS_SHARE = 0.1
"""Share of the error below which the bias of the scheme is reduced, where dt is not given."""

GROWTH = 4
"""Largest factor by which a round multiplies the paths, as the estimates behind it are uncertain themselves."""

HALVING_SHARE = 0.05
"""Work that is expected of rounds with a smaller step of the scheme, in units of that of the first round."""

MOST_WANTED = 2.0**40
"""Bound on the number of paths that an error requires; max_paths is less."""


class Estimates(NamedTuple):
    """Estimates of both sides of an error, and of the difference between dt and dt/2."""

    dropout: MeanEstimate
    equation: MeanEstimate
    pairs: MeanEstimate


class Wanted(NamedTuple):
    """Numbers of paths of the iteration and of the equation, and of pairs."""

    dropout: int
    equation: int
    pairs: int


def bias_is_large(estimates: Estimates, bias: SolverBias, rounding: np.ndarray, tolerance: np.ndarray) -> bool:
    """Return whether the bias at the last time is significant and more than a tenth of the error.

    `rounding` and `tolerance` are bounds on the errors of the means and of the noise-free solution, each (T, O).
    """
    size = np.abs(bias.value)
    error = estimates.equation.mean - bias.value - estimates.dropout.mean
    large = (size > BIAS_SHARE * np.abs(error)) & (size > bias.half_width + rounding + tolerance)
    return bool(large[-1].any())


def wanted_paths(
    estimates: Estimates, rounding: np.ndarray, equation_cost: float, rel_tol: float, max_paths: int
) -> Wanted:
    """Return the numbers of paths that meet the tolerance at the last time.

    The pairs must give the bias a 95% half-width of a tenth of the error, or of rel_tol if that is less. No paths are
    required where a mean is not finite, or its noise is within the bound `rounding` (T, O) on its rounding error. Where
    few values carry a mean, more paths are required if max_paths may be enough. `equation_cost` is the work of a path
    of the equation over one lr, in gradients.
    """
    dropout, equation, _ = estimates
    error = np.abs(equation.mean - dropout.mean)[-1]
    s_1, s_2, s_pairs = (
        np.where(part.half_width > rounding, part.half_width / NORMAL_QUANTILE, 0.0)[-1] * part.paths**0.5
        for part in estimates
    )
    root_1, root_2 = ITERATION_STEP_COST**0.5, equation_cost**0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        work = (s_1 * root_1 + s_2 * root_2) / (rel_tol * error / NORMAL_QUANTILE) ** 2
        share = min(BIAS_SHARE, rel_tol)
        asked = (
            s_1 / root_1 * work,  # (1)
            s_2 / root_2 * work,
            (NOISE_FACTOR * s_pairs / (share * error / NORMAL_QUANTILE)) ** 2,
        )
    # A spread of zero divided by an error of zero, where there is no noise at all, requires no paths.
    finite = [np.minimum(np.nan_to_num(count, posinf=MOST_WANTED), MOST_WANTED) for count in asked]
    of_dropout, of_equation, of_pairs = (int(np.ceil(count.max())) for count in finite)
    of_dropout = max(of_dropout, _wanted_for_tails(dropout, rounding, max_paths))
    of_equation = max(of_equation, _wanted_for_tails(equation, rounding, max_paths))
    return Wanted(of_dropout, of_equation, min(of_pairs, max(of_equation, equation.paths)))


def _wanted_for_tails(side: MeanEstimate, rounding: np.ndarray, max_paths: int) -> int:
    """Return the number of paths that reliable means at the last time require, or 0 where it exceeds max_paths."""
    shortage = np.fmax(side.shortage, side.plain_shortage)
    wanted = np.where((shortage > 1) & is_noisy(side, rounding), shortage, 0.0)[-1].max() * side.paths
    return int(wanted) if wanted <= max_paths else 0


def further_work(work: float, rel_tol: float | None, halves: bool = False) -> float:
    """Return the work that a progress bar expects of further rounds, while nobody knows whether there are any.

    It is as much as that of the first round where a tolerance may ask for more paths, and a twentieth of it where only
    the step of the scheme may be halved, which is rare. So no bar is full before it is known that nothing is left.
    """
    return work if rel_tol is not None else HALVING_SHARE * work if halves else 0.0


def next_paths(paths: int, wanted: int, max_paths: int) -> int:
    """Return the number of paths of the next round from the present and the wanted number."""
    return max(paths, min(wanted, GROWTH * paths, max_paths))
