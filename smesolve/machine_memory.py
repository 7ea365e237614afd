"""The machine's memory, and the refusal of arrays that do not fit into it."""

from __future__ import annotations

import functools
import math
import os

from smesolve.errors import SmesolveError

__all__ = ["check_numbers_fit", "free_memory", "machine_memory"]


@functools.cache
def machine_memory() -> float:
    """Return the bytes of this machine's memory, or infinity where the system does not report them."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def free_memory() -> float:
    """Return the bytes that the system could give to a process now.

    Linux reports them; elsewhere the result is the machine's memory.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(sizes["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return machine_memory()


def check_numbers_fit(what: str, numbers: float, remedy: str) -> None:
    """Refuse arrays of more numbers (8 bytes each) than this machine's memory holds.

    Raises:
        SmesolveError: they do not fit.
    """
    if 8 * numbers > machine_memory():
        raise SmesolveError(
            f"{what} would take {8 * numbers:.2g} bytes, but this machine has {machine_memory():.2g}; {remedy}."
        )
