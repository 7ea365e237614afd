"""The seconds that a piece of work takes on an idle machine, for dry runs."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["idle_seconds"]


def idle_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a call, without those in which other processes had the processor.

    Processor time counts every thread of this process, and time on the clock counts other processes too; the work alone
    takes no more than the smaller one.
    """
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - clock, time.process_time() - processor)
