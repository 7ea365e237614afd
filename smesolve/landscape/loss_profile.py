"""The loss on the line through two solutions: the barrier between them, and the asymmetry of the valley around them.

With l(alpha) = R_S((1 - alpha) first + alpha second),

    barrier     max_{0 <= alpha <= 1} l(alpha) - max(l(0), l(1))                                                     (1)
    asymmetry   ln l(1 + s) - ln l(-s),      s the largest distance on both sides                                    (2)

The asymmetry is negative where the valley is wider on the side of the second solution: the loss at distance s behind it
is lower than at distance s behind the first. Zhang, Xu (TPAMI 2024, arXiv 2207.05952, figure 13) show l with s = 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.validation import check_list, check_number

__all__ = ["LossProfile", "loss_profile"]


@dataclass(frozen=True)
class LossProfile:
    """Barrier and asymmetry of the loss on a line."""

    peak: float
    """Largest loss between the solutions."""
    peak_alpha: float
    """Position of the peak, 0 at the first solution and 1 at the second."""
    barrier: float
    """(1), 0 where the loss nowhere exceeds both ends."""
    asymmetry: float
    """(2); NaN where the loss is 0 at one of the two points."""


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
        asymmetry = float(np.log(values[-1]) - np.log(values[0]))  # (2)
    return LossProfile(
        peak=float(values[peak]),
        peak_alpha=float(positions[peak]),
        barrier=float(values[peak] - max(values[first], values[second])),  # (1)
        asymmetry=asymmetry if np.isfinite(asymmetry) else np.nan,
    )
