"""What a study says of an error, of a fit, and of a point that a fit leaves out; tables hold these words."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["LeftOut", "Status", "Verdict", "status_of"]


class Status(StrEnum):
    """Whether an error is resolved, and if not, why; the column `reason` of a table of weak errors."""

    RESOLVED = ""
    TOO_WIDE = "rel_tol not reached at max_paths"
    """Resolved, but not as precisely as asked for."""
    WITHIN_MONTE_CARLO = "inside its Monte Carlo interval"
    WITHIN_ROUNDING = "inside the rounding of its two means"
    WITHIN_SOLVER_BIAS = "inside the solver bias"
    WITHIN_DEFECT_BIAS = "inside the bias of the defects"
    OUTSIDE_ASYMPTOTICS = "the bias of the defects is not small; take smaller learning rates"
    """The estimate by defects says no more than the order of magnitude."""
    DIVERGED = "diverged"
    NOT_FINITE = "the observable is not finite on some paths"
    HEAVY_TAILS = "heavy tails"
    """So few paths carry a mean that a sample cannot tell it."""
    UNSEEN_NOISE = "heavy tails: all paths of the iteration are equal, but not to its path without noise"
    FAST_GROWTH = "heavy tails: the observable outgrows every polynomial"

    @property
    def resolved(self) -> bool:
        """Whether 0 lies outside an interval that can be believed."""
        return self in (Status.RESOLVED, Status.TOO_WIDE)

    @property
    def heavy_tailed(self) -> bool:
        """Whether a sample does not show the mean."""
        return self in (Status.HEAVY_TAILS, Status.UNSEEN_NOISE, Status.FAST_GROWTH)

    @property
    def has_interval(self) -> bool:
        """Whether the interval of the error can be believed."""
        return not (self.heavy_tailed or self in (Status.DIVERGED, Status.NOT_FINITE))


def status_of(
    error: float,
    monte_carlo: float,
    rounding: float,
    *,
    diverged: bool,
    undefined: bool,
    tails: Status | None,
    biased: Status | None,
    too_wide: bool,
) -> Status:
    """Return the first that applies of all that can be said of an error.

    Args:
        error: the estimate.
        monte_carlo, rounding: half-widths of these parts of its interval.
        diverged, undefined: whether some paths diverged, or the observable is not finite on some.
        tails: what the sample cannot show, or None.
        biased: that the error lies inside a bias, or None.
        too_wide: whether the interval is wider than asked for.
    """
    if diverged:
        return Status.DIVERGED
    if undefined:
        return Status.NOT_FINITE
    if tails is not None:
        return tails
    if not abs(error) > monte_carlo:
        return Status.WITHIN_MONTE_CARLO
    if not abs(error) > rounding:
        return Status.WITHIN_ROUNDING
    if biased is not None:
        return biased
    return Status.TOO_WIDE if too_wide else Status.RESOLVED


class Verdict(StrEnum):
    """What a fit says of the weak order."""

    NOT_RESOLVED = "not resolved"
    """Fewer than two points are usable."""
    LOCAL_SLOPE = "local slope"
    """There are two points, and the slope is the one between them."""
    CERTIFIED = "certified"
    """The interval of the slope holds the order and neither of its neighbours."""
    TOO_WIDE = "too wide"
    """The interval holds a neighbour of the order as well."""
    ANOTHER_ORDER = "another order"
    """The interval does not hold the order."""
    NOT_ASYMPTOTIC = "not asymptotic"
    """The interval of the constant has the other sign than the predicted constant."""


class LeftOut(StrEnum):
    """Why a fit does not use a point."""

    UNRESOLVED = "unresolved"
    OTHER_SIGN = "error has the other sign, outside the asymptotic range"
    """Its error has another sign than that of the smallest learning rate."""
    NOT_ASYMPTOTIC = "outside the asymptotic range"
    """With it the fit is rejected."""
