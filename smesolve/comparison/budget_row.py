"""What is known of one error: its interval, whether it is resolved, and what keeps it from that.

error = E g(Theta_t) - E g(theta_k)  +-  Monte Carlo  +-  bias of the scheme  +-  rounding  +-  tolerance

- Monte Carlo: Student's quantile times the standard error s of the difference of the two means, plus what the
  skewness and kurtosis of each add (`Estimate.correction`) times (s_i/s)^2, as their third cumulants add up.
- Bias of the scheme: its estimate, and the interval of that.
- Rounding: eps sqrt(steps) (|g| + sum_i |theta_i d_i g|), about. Each step rounds every parameter, which moves g by the
  sum at most, and the roundings of different steps add up like independent ones.
- Tolerance: of the ordinary differential equation that the bias is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.confidence import student_quantile
from smesolve.comparison.estimate import Estimate
from smesolve.comparison.observables import Observable
from smesolve.sampling.ensemble import Process

__all__ = ["HEAVY_TAILS", "NOT_FINITE", "TOO_WIDE", "NoiseFreeValues", "budget_row", "tells", "unusable"]

ROUNDING = 2.0
"""Rounding error in the units above, a bound: 0.2 was seen for float32 (`benchmarks/device.py`), most of it common to
both means."""

DIVERGED, HEAVY_TAILS, NOT_FINITE = "diverged", "heavy tails", "the observable is not finite"
"""How reasons begin of errors whose interval says nothing."""

TOO_WIDE = "rel_tol not reached at max_paths"
"""Reason of an error that is resolved, but not as well as asked for."""


class NoiseFreeValues:
    """Observables along the noise-free path of a process, and how far rounding moves them.

    Args:
        process: the iteration.
        theta0: (D,), the start.
        saved: step numbers of the observations.
        observables: by name.

    Cost: as many steps as the last of `saved`, of one path, without noise.
    """

    def __init__(
        self, process: Process, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
    ) -> None:
        state, values, sizes = theta0[None], [], []
        for step in range(saved[-1]):
            state, _ = process.noise_free_step(state, step)
            if step + 1 in saved:
                found = [torch.func.grad_and_value(g)(state[0]) for g in observables.values()]
                values.append([float(value) for _, value in found])
                sizes.append([float((slope * state[0]).abs().sum() + value.abs()) for slope, value in found])
        self.values = np.array(values)
        """(T, O)."""
        self._sizes = np.nan_to_num(np.array(sizes), posinf=0.0)
        self._unit = ROUNDING * float(torch.finfo(theta0.dtype).eps) * np.sqrt(saved)[:, None]

    def rounding(self, *means: np.ndarray) -> np.ndarray:
        """Bound on the rounding error of these means (T, O)."""
        return self._unit * np.maximum(self._sizes, np.abs(means).max(0))


def unusable(reason: str) -> bool:
    """Whether an error has no interval that can be believed, by the reason of its row."""
    return reason.startswith((DIVERGED, HEAVY_TAILS, NOT_FINITE))


def tells(side: Estimate, rounding: np.ndarray) -> np.ndarray:
    """Where the noise of this side is more than rounding (T, O).

    However small it is beside that of the other side: where no path shows the mean, the spread of the sample is small.
    """
    return side.half_width > rounding


def budget_row(
    at: tuple[int, int],
    dropout: Estimate,
    equation: Estimate,
    pairs: Estimate,
    bias: np.ndarray,
    noise_free: NoiseFreeValues,
    tolerance: float,
    polynomial: bool,
    dtype: torch.dtype,
    rel_tol: float | None,
) -> dict[str, object]:
    """The columns of one error, as `WeakErrorStudy` lists them.

    Args:
        at: time and observable.
        dropout, equation, pairs: estimates of both sides, and of the difference between dt and dt/2.
        bias: of the scheme.
        noise_free: of the iteration.
        tolerance: bound on the error of the ordinary differential equation.
        polynomial: whether the observable grows like a polynomial at most.
        dtype: of the paths.
        rel_tol: where the error is held to one.
    """
    error = equation.mean[at] - dropout.mean[at]
    stderr = float(np.hypot(equation.stderr[at], dropout.stderr[at]))
    rounding = noise_free.rounding(equation.mean, dropout.mean)
    freedom = min(equation.freedom, dropout.freedom)
    sampling = float(student_quantile(freedom)) * stderr
    if stderr > 0:
        sampling += sum(side.correction[at] * (side.stderr[at] / stderr) ** 2 for side in (dropout, equation))
    half = sampling + abs(bias[at]) + 2 * pairs.half_width[at] + rounding[at] + tolerance
    # those of the pairs at dt are among the paths of the equation
    sde_diverged = max(equation.diverged[at], pairs.diverged[at])
    diverged = dropout.diverged[at] + sde_diverged
    undefined = dropout.undefined[at] + max(equation.undefined[at], pairs.undefined[at])
    limits = [
        (sampling, "inside its Monte Carlo interval"),
        (rounding[at], f"inside the rounding of {dtype}".replace("torch.", "")),
        (half, "inside the solver bias"),
    ]
    tails = _tails(at, dropout, equation, noise_free, rounding, polynomial)
    reason = ""
    if diverged:
        reason = DIVERGED
    elif undefined:
        reason = f"{NOT_FINITE} on {undefined} paths"
    elif tails:
        reason = tails
    elif inside := [name for limit, name in limits if not abs(error) > limit]:
        reason = inside[0]
    elif rel_tol is not None and sampling > 1.05 * rel_tol * abs(error):
        reason = TOO_WIDE

    def spread(of_dropout: np.ndarray, of_equation: np.ndarray) -> float:
        return float(np.hypot(of_dropout[at] * dropout.paths**0.5, of_equation[at] * equation.paths**0.5))

    left = spread(dropout.stderr, equation.stderr)
    return {
        "discrete": dropout.mean[at],
        "sde": equation.mean[at],
        "error": error,
        "stderr": stderr,
        "freedom": freedom,
        "half_width": sampling,
        "low": error - half,
        "high": error + half,
        "solver_bias": bias[at],
        "solver_bias_stderr": 2 * pairs.stderr[at],
        "solver_bias_half_width": 2 * pairs.half_width[at],
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
        "gain": spread(dropout.plain_stderr, equation.plain_stderr) / left if left else np.nan,
        "diverged": diverged,
        "discrete_diverged": dropout.diverged[at],
        "sde_diverged": sde_diverged,
        "resolved": reason in ("", TOO_WIDE),
        "reason": reason,
    }


def _tails(
    at: tuple[int, int],
    dropout: Estimate,
    equation: Estimate,
    noise_free: NoiseFreeValues,
    rounding: np.ndarray,
    polynomial: bool,
) -> str:
    """What these samples cannot see, or nothing.

    Two things no sample shows. Draws of the iteration are discrete: where the rare ones matter, all paths of a sample
    may be equal, and then they are equal to the noise-free path only if there is no noise. And the noise of a modified
    equation grows with theta, so that its solution has the tails of a lognormal law: the mean of what outgrows every
    polynomial is infinite, and the theorem of weak order leaves it out.
    """
    if any((side.heavy_tailed & tells(side, rounding))[at] for side in (dropout, equation)):
        return HEAVY_TAILS
    spread = dropout.plain_stderr[at] * dropout.paths**0.5
    if spread <= rounding[at] and abs(dropout.mean[at] - noise_free.values[at]) > 2 * rounding[at]:
        return f"{HEAVY_TAILS}: all paths of the iteration are equal, but not to its path without noise"
    if not polynomial and equation.plain_stderr[at] * equation.paths**0.5 > rounding[at]:
        return f"{HEAVY_TAILS}: the observable outgrows every polynomial"
    return ""
