"""What the machine can hold."""

from __future__ import annotations

import functools
import math
import os

from smesolve.errors import SmesolveError

__all__ = ["check_numbers_fit", "machine_memory"]


@functools.cache
def machine_memory() -> float:
    """Bytes of this machine's memory; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_numbers_fit(what: str, numbers: float, remedy: str) -> None:
    """Refuse arrays of more numbers (8 bytes each) than this machine's memory holds.

    Raises:
        SmesolveError: they do not fit.
    """
    if 8 * numbers > machine_memory():
        raise SmesolveError(
            f"{what} would take {8 * numbers:.2g} bytes, but this machine has {machine_memory():.2g}; {remedy}."
        )
