"""The outcomes for an error, for a fit, and for a point that a fit leaves out, in the words of the tables."""

from __future__ import annotations

from enum import StrEnum

from smesolve.sampling import heavy_tails

__all__ = ["LeftOut", "Status", "Verdict", "status_of"]


class Status(StrEnum):
    """Whether an error is resolved, and if not, why; the column `reason` of a table of weak errors."""

    RESOLVED = ""
    TOO_WIDE = "rel_tol not reached at max_paths"
    """Resolved, but less precisely than required."""
    WITHIN_MONTE_CARLO = "inside its Monte Carlo interval"
    WITHIN_ROUNDING = "inside the rounding of its two means"
    WITHIN_SOLVER_BIAS = "inside the solver bias"
    WITHIN_DEFECT_BIAS = "inside the bias of the defects"
    OUTSIDE_ASYMPTOTICS = "the bias of the defects is not small; take smaller learning rates"
    """The estimate by defects says no more than the order of magnitude."""
    DIVERGED = "diverged"
    NOT_FINITE = "the observable is not finite on some paths"
    HEAVY_TAILS = heavy_tails.HEAVY_TAILS
    """So few paths carry a mean that a sample does not determine it."""
    UNSEEN_NOISE = "heavy tails: all paths of the iteration are equal, but not to its path without noise"
    ALL_EQUAL = "all paths have the same value, which does not show how often others occur"
    """An observable that jumps, such as an accuracy, did so on no path."""
    FAST_GROWTH = "heavy tails: the observable outgrows every polynomial"

    @property
    def resolved(self) -> bool:
        """Whether 0 lies outside a reliable interval."""
        return self in (Status.RESOLVED, Status.TOO_WIDE)

    @property
    def heavy_tailed(self) -> bool:
        """Whether a sample does not determine the mean."""
        return self in (Status.HEAVY_TAILS, Status.UNSEEN_NOISE, Status.FAST_GROWTH)

    @property
    def has_interval(self) -> bool:
        """Whether the interval of the error is reliable."""
        return not (self.heavy_tailed or self in (Status.DIVERGED, Status.NOT_FINITE, Status.ALL_EQUAL))


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
    """Return the first status that applies to an error, given the half-widths of two parts of its interval.

    `diverged` and `undefined` say whether some paths diverged, or the observable is not finite on some of them; `tails`
    is the status of a sample that does not determine the mean, `biased` that of an error that its bias may explain; and
    `too_wide` says whether the interval is wider than required.
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
    """The verdict of a fit on the weak order."""

    NOT_RESOLVED = "not resolved"
    """Fewer than two points are usable."""
    LOCAL_SLOPE = "local slope"
    """There are two points, and the slope is the slope between them."""
    CERTIFIED = "certified"
    """The interval of the slope holds the order and neither of its neighbours."""
    TOO_WIDE = "too wide"
    """The interval holds a neighbour of the order as well."""
    ANOTHER_ORDER = "another order"
    """The interval does not hold the order."""
    NOT_ASYMPTOTIC = "not asymptotic"
    """The sign of the constant is opposite to that of the predicted constant."""


class LeftOut(StrEnum):
    """The reason why a fit does not use a point."""

    UNRESOLVED = "unresolved"
    OTHER_SIGN = "error has the other sign, outside the asymptotic range"
    """The error does not have the sign of the error at the smallest learning rate."""
    NOT_ASYMPTOTIC = "outside the asymptotic range"
    """The fit is rejected if it includes the point."""
