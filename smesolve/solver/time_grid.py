"""Conversion of times to whole numbers of steps.

A time t lies on the grid {k step} if n = t/step is a whole number up to min(1e-9 max(n, 1), 1e-3), which allows for the
rounding of sums and products of float64 numbers. If t or the step was given in a lower precision, with machine epsilon
eps, n may be off by min(eps max(n, 1)^2, 0.1), which allows for the rounding of n additions of the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from smesolve.errors import SmesolveError
from smesolve.rounded_number import RoundedNumber
from smesolve.validation import check_positive

__all__ = ["even_grid", "grid_numbers", "grid_steps", "on_grid", "on_step"]

MOST_STEPS = 2**31
"""Largest number of steps of one path: days of computing."""

ROUNDING, LARGEST = 1e-9, 1e-3
"""Tolerance of n relative to n, and its upper bound."""

LARGEST_OF_LOW_PRECISION = 0.1
"""Upper bound of the tolerance for numbers of low precision."""


def grid_steps(duration: float, step: float, what: str, name: str = "dt", least: int = 1) -> int:
    """Return the number of steps in `duration`. Errors call the duration `what` and the step `name`.

    Raises:
        SmesolveError: the step is not positive, does not divide the duration, or fits into it less than `least` times.
    """
    check_positive(name, step)
    wanted, given = f"{what}={_shown(duration)}", f"{name}={_shown(step)}"
    if abs(duration) / step > MOST_STEPS:
        raise SmesolveError(
            f"{given} would take {duration / step:.2g} steps for {wanted}, but {MOST_STEPS:.2g} are the most; raise it."
        )
    exact = duration / step
    steps = round(exact)
    if steps < least and exact < least - ROUNDING:
        raise SmesolveError(f"{wanted} is shorter than {given}, the length of a step; take {name}={_shown(duration)}.")
    if abs(exact - steps) > _tolerance(duration, step):
        precise = ", or give both in float64" if max(_rounding(duration), _rounding(step)) else ""
        raise SmesolveError(
            f"{given} does not divide {wanted}; take for example {name}={_dividing(duration, step):.12g}{precise}."
        )
    return steps


def grid_numbers(times: Sequence[float], step: float, what: str, name: str = "dt", least: int = 1) -> list[int]:
    """Return the step numbers of increasing times. Errors call the list of times `what` and the step `name`.

    Raises:
        SmesolveError: as for `grid_steps`, or times do not increase, or two of them have the same step number.
    """
    for number, (earlier, later) in enumerate(pairwise(times)):
        if later <= earlier:
            raise SmesolveError(
                f"{what} must increase, but {what}[{number}]={_shown(earlier)} is followed by {_shown(later)}; sort "
                "them and leave out repeated ones."
            )
    steps = [grid_steps(time, step, f"{what}[{number}]", name, least) for number, time in enumerate(times)]
    for number, (earlier, later) in enumerate(pairwise(steps)):
        if later <= earlier:
            raise SmesolveError(
                f"{what}[{number}]={_shown(times[number])} and {what}[{number + 1}]={_shown(times[number + 1])} are "
                f"the same time up to rounding, step {later} of {name}={_shown(step)}; leave one of them out."
            )
    return steps


def on_grid(duration: float, step: float, what: str, name: str = "dt") -> float:
    """Return a duration in float64. If it was given in a lower precision, return the nearest multiple of the step."""
    steps = grid_steps(duration, step, what, name, least=0)
    return float(duration) if _is_near(duration, step, steps) else steps * float(step)


def on_step(duration: float, step: float, steps: int) -> float:
    """Return a step in float64. If it was given in a lower precision, return the nearest divisor of the duration."""
    return float(step) if _is_near(duration, step, steps) else float(duration) / steps


def even_grid(horizon: float, steps: Sequence[float], most: int) -> list[float] | None:
    """Return the finest even grid of at most `most` times up to the horizon that all steps divide, or None."""
    for parts in range(most, 0, -1):
        grid = [horizon * (k + 1) / parts for k in range(parts)]
        numbers = [time / step for step in steps for time in grid]
        if all(round(number) and abs(number - round(number)) <= _float64_tolerance(number) for number in numbers):
            return grid
    return None


def _is_near(duration: float, step: float, steps: int) -> bool:
    return abs(duration / step - steps) <= _float64_tolerance(duration / step)


def _float64_tolerance(steps: float) -> float:
    return min(ROUNDING * max(steps, 1.0), LARGEST)


def _rounding(number: float) -> float:
    return number.rounding if isinstance(number, RoundedNumber) else 0.0


def _tolerance(duration: float, step: float) -> float:
    """Return the tolerance of duration/step."""
    size, epsilon = max(duration / step, 1.0), max(_rounding(duration), _rounding(step))
    return max(_float64_tolerance(size), min(epsilon * size**2, LARGEST_OF_LOW_PRECISION))


def _shown(number: float) -> str:
    """Return a number with six digits if that is exact, else with all digits: different numbers look different."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def _dividing(duration: float, step: float) -> float:
    """Return a step that divides the duration: the largest one up to `step`, or a near one of three digits."""
    fewest = max(1, math.ceil(duration / step))
    candidates = [duration / count for count in range(fewest, fewest + min(fewest, 100) + 1)]
    return next((one for one in candidates if abs(float(f"{one:.3g}") - one) < 1e-12 * one), candidates[0])
