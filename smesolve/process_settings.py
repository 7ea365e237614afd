"""Settings of the process that save time. The command line applies them; an import does not.

Steps that take some microseconds depend on the first two.

- Idle OpenMP threads sleep. Spinning threads slow every step where other programs run on the machine. The user's own
  OMP_WAIT_POLICY takes precedence.
- Freed memory is kept. The arrays of a block take a megabyte; returning each to the system and requesting it again
  causes page faults that take longer than the arithmetic. Where the C library is not glibc, nothing is changed.
- The end of the process collects no garbage, which would go through all objects of torch.

Worker processes inherit the first two as environment variables. A program of your own may apply them, before torch is
imported.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys

__all__ = ["apply_process_settings"]

_KEEP_MEMORY = (
    (-1, "MALLOC_TRIM_THRESHOLD_", 2**31 - 1),
    (-2, "MALLOC_TOP_PAD_", 2**26),
    (-3, "MALLOC_MMAP_THRESHOLD_", 2**25),
)
"""Parameters of glibc's mallopt(3), the environment variables that set them in new processes, and their values."""


def apply_process_settings() -> None:
    """Let idle threads sleep and keep freed memory, in this process and in the processes that it starts.

    When this process ends, objects in reference cycles are not finalized: close files, do not rely on their `__del__`.
    """
    atexit.unregister(gc.freeze)  # registered once, however often this is called
    atexit.register(gc.freeze)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, variable, value in _KEEP_MEMORY:
        if variable not in os.environ:
            os.environ[variable] = str(value)
            mallopt(parameter, value)
