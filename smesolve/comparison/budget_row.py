"""One error with its interval, and whether it is resolved.

    error = E g(Theta_t) - E g(theta_k)  +-  (Monte Carlo^2 + bias^2)^(1/2)  +-  rounding  +-  tolerance          (1)

where the mean of the equation is the mean of the scheme's solution minus the bias of the scheme.

- Monte Carlo: with the standard errors s_1 and s_2 of the two means and s of their difference, Student's quantile times
  s, plus the corrections for skewness and kurtosis of both sides (`MeanEstimate.correction`), weighted as their third
  cumulants add up:

    student s + sum_i correction_i (s_i/s)^2,      s^2 = s_1^2 + s_2^2.                                       (2)

- Bias: the half-width of the interval of the scheme's bias (`smesolve.comparison.solver_bias`).
- Rounding: each step rounds every parameter, which moves g by at most eps sum_i |theta_i d_i g|, and the roundings of
  different steps add up like independent errors,

    2 eps sqrt(steps) (|g| + sum_i |theta_i d_i g|).                                                          (3)

- Tolerance: the error bound of the ordinary differential equation from which the bias is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.outcomes import Status, status_of
from smesolve.comparison.solver_bias import SolverBias
from smesolve.confidence import student_quantile
from smesolve.problem.observables import Observable
from smesolve.problem.reverse_derivative import value_and_gradient
from smesolve.sampling.ensemble import Process

__all__ = ["NoiseFreeValues", "budget_row", "is_noisy"]

ROUNDING = 2.0
"""Bound on the rounding error in units of eps sqrt(steps) (|g| + sum_i |theta_i d_i g|). For float32 0.2 was seen
(`benchmarks/device.py`), most of it common to both means."""

REL_TOL_SLACK = 1.05
"""Factor of rel_tol up to which an error counts as precise enough, as paths come in whole blocks."""


class NoiseFreeValues:
    """Observables along the noise-free path of a process, and bounds on their rounding errors.

    Args:
        process: the iteration.
        theta0: (D,), the start.
        saved: step numbers of the observations.
        observables: by name.

    Cost: the steps of one path, up to the last of `saved`, without noise.
    """

    def __init__(
        self, process: Process, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
    ) -> None:
        state, values, sizes = theta0[None], [], []
        for step in range(saved[-1]):
            state, _ = process.noise_free_step(state, step)
            if step + 1 in saved:
                found = [value_and_gradient(g, state[0]) for g in observables.values()]
                values.append([float(value) for value, _ in found])
                sizes.append([float((slope * state[0]).abs().sum() + value.abs()) for value, slope in found])
        self.values = np.array(values)
        """(T, O)."""
        self._sizes = np.nan_to_num(np.array(sizes), posinf=0.0)
        self._unit = ROUNDING * float(torch.finfo(theta0.dtype).eps) * np.sqrt(saved)[:, None]

    def rounding(self, *means: np.ndarray) -> np.ndarray:
        """Return a bound on the rounding error of these means (T, O)."""
        return np.asarray(self._unit * np.maximum(self._sizes, np.abs(means).max(0)))  # (3)


def is_noisy(side: MeanEstimate, rounding: np.ndarray) -> np.ndarray:
    """Return where the noise of this side is larger than rounding (T, O).

    The noise of the other side does not matter: a sample that misses the rare paths that carry the mean has a small
    spread.
    """
    return np.asarray(side.half_width > rounding)


def budget_row(
    at: tuple[int, int],
    dropout: MeanEstimate,
    equation: MeanEstimate,
    pairs: MeanEstimate,
    bias: SolverBias,
    noise_free: NoiseFreeValues,
    tolerance: float,
    polynomial: bool,
    hiding: tuple[bool, bool],
    rel_tol: float | None,
) -> dict[str, object]:
    """Return the columns of one error, which `WeakErrorStudy` lists.

    Args:
        at: indices of time and observable.
        dropout, equation, pairs: estimates of both sides, and of the difference between dt and dt/2.
        bias: bias of the scheme, from these pairs.
        noise_free: values of the iteration without noise.
        tolerance: bound on the error of the ordinary differential equation.
        polynomial: whether the observable grows at most like a polynomial.
        hiding: for dropout and for the equation, whether the observable jumps and the side has noise, so that values
            may exist that no path shows.
        rel_tol: largest Monte Carlo half-width as a share of the error, or None for any.
    """
    sde = equation.mean[at] - bias.value[at]
    error = sde - dropout.mean[at]
    stderr = float(np.hypot(equation.stderr[at], dropout.stderr[at]))
    rounding = noise_free.rounding(equation.mean, dropout.mean)
    freedom = min(equation.freedom, dropout.freedom)
    monte_carlo = float(student_quantile(freedom)) * stderr
    if stderr > 0:
        monte_carlo += sum(side.correction[at] * (side.stderr[at] / stderr) ** 2 for side in (dropout, equation))  # (2)
    half = float(np.hypot(monte_carlo, bias.half_width[at])) + rounding[at] + tolerance  # (1)
    # The diverged paths of pairs at dt are among those of the equation.
    sde_diverged = max(equation.diverged[at], pairs.diverged[at])
    diverged = dropout.diverged[at] + sde_diverged
    undefined = dropout.undefined[at] + max(equation.undefined[at], pairs.undefined[at])
    status = status_of(
        error,
        monte_carlo,
        rounding[at],
        diverged=bool(diverged),
        undefined=bool(undefined),
        tails=_tails(at, dropout, equation, noise_free, rounding, polynomial, hiding),
        biased=None if abs(error) > half else Status.WITHIN_SOLVER_BIAS,
        too_wide=rel_tol is not None and monte_carlo > REL_TOL_SLACK * rel_tol * abs(error),
    )

    def spread(of_dropout: np.ndarray, of_equation: np.ndarray) -> float:
        return float(np.hypot(of_dropout[at] * dropout.paths**0.5, of_equation[at] * equation.paths**0.5))

    left = spread(dropout.stderr, equation.stderr)
    return {
        "discrete": dropout.mean[at],
        "sde": sde,
        "error": error,
        "stderr": stderr,
        "freedom": freedom,
        "half_width": monte_carlo,
        "low": error - half,
        "high": error + half,
        "solver_bias": bias.value[at],
        "solver_bias_stderr": bias.stderr[at],
        "solver_bias_half_width": bias.half_width[at],
        "rounding": rounding[at],
        "tolerance": tolerance,
        "paths": min(dropout.paths, equation.paths),
        "discrete_paths": dropout.paths,
        "sde_paths": equation.paths,
        "discrete_stderr": dropout.stderr[at],
        "sde_stderr": equation.stderr[at],
        "discrete_half_width": dropout.half_width[at],
        "sde_half_width": equation.half_width[at],
        "kurtosis": max(dropout.kurtosis[at], equation.kurtosis[at]),
        "stderr_reduction": spread(dropout.plain_stderr, equation.plain_stderr) / left if left else np.nan,
        "diverged": diverged,
        "discrete_diverged": dropout.diverged[at],
        "sde_diverged": sde_diverged,
        "resolved": status.resolved,
        "reason": status,
    }


def _tails(
    at: tuple[int, int],
    dropout: MeanEstimate,
    equation: MeanEstimate,
    noise_free: NoiseFreeValues,
    rounding: np.ndarray,
    polynomial: bool,
    hiding: tuple[bool, bool],
) -> Status | None:
    """Return the status of samples that cannot show the mean, or None.

    There are three cases beside heavy tails in a sample. Draws of the iteration are discrete: where rare draws matter,
    all paths of a sample may be equal, but they equal the noise-free path only if there is no noise. An observable that
    jumps, such as an accuracy, has one value on all paths of a sample that do not cross a jump. And the noise of a
    modified equation grows with theta, so that its solution has the tails of a lognormal law: the mean of an observable
    that outgrows every polynomial is infinite, and the theorem of weak order does not cover it.
    """
    if any((side.heavy_tailed & is_noisy(side, rounding))[at] for side in (dropout, equation)):
        return Status.HEAVY_TAILS
    spread = dropout.plain_stderr[at] * dropout.paths**0.5
    if spread <= rounding[at] and abs(dropout.mean[at] - noise_free.values[at]) > 2 * rounding[at]:
        return Status.UNSEEN_NOISE
    if any(may and not side.plain_stderr[at] for may, side in zip(hiding, (dropout, equation), strict=True)):
        return Status.ALL_EQUAL
    if not polynomial and equation.plain_stderr[at] * equation.paths**0.5 > rounding[at]:
        return Status.FAST_GROWTH
    return None
