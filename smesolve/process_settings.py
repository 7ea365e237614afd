"""Settings of the process, made on import, before torch is loaded: steps of some microseconds depend on them.

- Idle OpenMP threads sleep instead of spinning, which slows every step where anything else runs on the machine; a
  setting of the user's own (OMP_WAIT_POLICY) comes first.
- Freed memory is kept. The arrays of a block are a megabyte; handing each back to the system and asking for it again
  costs page faults that take longer than the arithmetic. Where the C library is not glibc nothing is changed.
- A process that is forked (`os.fork`, multiprocessing's "fork") computes on one thread.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's mallopt(3) and their values: trim threshold, top pad, mmap threshold.
_KEEP_MEMORY = ((-1, 2**31 - 1), (-2, 2**26), (-3, 2**25))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if sys.platform == "linux":
    _mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if _mallopt is not None:
        for _parameter, _value in _KEEP_MEMORY:
            _mallopt(_parameter, _value)


def _one_thread() -> None:
    """In a forked process, where the parent's threads are not: OpenMP would wait for them without end."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)
