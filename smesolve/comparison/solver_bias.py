"""The bias of a scheme with step dt, which is subtracted from the mean of its solution.

With V(dt) = E g of the scheme's solution and V_0(dt) its value without noise, the bias is split into

    V(dt) - V(0) = [V_0(dt) - V_0(0)] + [N(dt) - N(0)],      N = V - V_0.                              (1)

The first bracket is known without sampling, as V_0(0) solves an ordinary differential equation. For the second,
N(dt) - N(dt/2) is averaged over pairs of paths with common noise. If its leading term falls like dt^p, p >= 1,

    N(dt) - N(0) = c [N(dt) - N(dt/2)],      c = 2^p/(2^p - 1) in (1, 2].                              (2)

The order of N is that of the scheme only for small dt, as terms with lr and with dt compete. So p is not assumed:
c = 3/2 +- 1, which leaves room beyond (2) for terms of higher order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smesolve.comparison.mean_estimate import MeanEstimate

__all__ = ["NOISE_FACTOR", "SolverBias"]

NOISE_FACTOR, LEFT = 1.5, 1.0
"""Estimate of c in (2), and its largest error."""


class SolverBias(NamedTuple):
    """The bias V(dt) - V(0) of a scheme; NaN where paths diverged."""

    value: np.ndarray
    """Its estimate (T, O)."""
    stderr: np.ndarray
    """Standard error of the estimate (T, O)."""
    half_width: np.ndarray
    """95% half-width of its interval (T, O), which includes the uncertainty of c."""

    @classmethod
    def of(cls, pairs: MeanEstimate, noise_free_bias: np.ndarray, noise_free_difference: np.ndarray) -> SolverBias:
        """Return the bias.

        Args:
            pairs: mean of V(dt) - V(dt/2).
            noise_free_bias: V_0(dt) - V_0(0), (T, O).
            noise_free_difference: V_0(dt) - V_0(dt/2), (T, O).
        """
        noise_difference = pairs.mean - noise_free_difference  # N(dt) - N(dt/2)
        return cls(
            noise_free_bias + NOISE_FACTOR * noise_difference,  # (1) with (2)
            NOISE_FACTOR * pairs.stderr,
            NOISE_FACTOR * pairs.half_width + LEFT * np.abs(noise_difference),
        )
