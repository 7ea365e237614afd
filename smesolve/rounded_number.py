"""Python's numbers in place of numpy's, and numbers that were given in a lower precision than float64.

A float32 number stands for the shortest decimal number that rounds to it: 0.2 in float32 is 0.2, and not the float64
number 0.20000000298 of the same value. A number that was computed in float32 may differ by a few roundings from the
decimal number that was meant, so the number carries its relative rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from smesolve.errors import is_tensor

__all__ = ["RoundedNumber", "as_numbers", "is_real", "plain_number"]


class RoundedNumber(float):
    """A float64 number with the relative rounding of the precision that it was given in."""

    rounding: float
    """The machine epsilon of that precision."""

    def __new__(cls, value: float, rounding: float) -> RoundedNumber:
        """Make the shortest decimal number that is less than half a unit in the last place from `value`."""
        half_unit = rounding * 2.0 ** (math.frexp(value)[1] - 2)
        shortest = (float(f"{value:.{digits}g}") for digits in range(1, 17))
        close = (number for number in shortest if abs(number - value) < half_unit)
        made = super().__new__(cls, next(close, value) if math.isfinite(value) else value)
        made.rounding = rounding
        return made

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        """Return the arguments of `__new__`, for copies and pickles."""
        return float(self), self.rounding


def is_real(value: Any) -> bool:
    """Return whether a value is a real number of Python or numpy, which neither True nor a duration is."""
    numbers, others = (int, float, np.integer, np.floating), (bool, np.timedelta64)
    return isinstance(value, numbers) and not isinstance(value, others)


def plain_number(value: Any) -> Any:
    """Return Python's number in place of a real number of numpy, and any other value as it is."""
    is_number = isinstance(value, np.generic) and value.dtype.kind in "iuf"
    return as_numbers(value.reshape(1))[0] if is_number else value


def as_numbers(values: Any) -> list[Any]:
    """Return the entries of a one-dimensional array, tensor or column; in low precision each is a `RoundedNumber`."""
    if is_tensor(values):
        import torch  # here, as configurations and --help do without it

        rounding = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    else:
        dtype = getattr(values, "dtype", None)
        rounding = float(np.finfo(dtype).eps) if isinstance(dtype, np.dtype) and dtype.kind == "f" else 0.0
    numbers = values.tolist()
    return [RoundedNumber(number, rounding) for number in numbers] if rounding > np.finfo(float).eps else numbers
