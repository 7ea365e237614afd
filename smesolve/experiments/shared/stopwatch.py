"""Seconds of a computation on an idle machine, for dry runs."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["idle_seconds"]


def idle_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a call, without the time in which other processes used the processor.

    Processor time counts every thread of this process, and wall time includes other processes. On an idle machine the
    call takes at most the smaller one.
    """
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - clock, time.process_time() - processor)
