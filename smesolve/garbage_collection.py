"""Modules load faster without collections of garbage, which go through all objects of torch and scipy each time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused_collections"]


@contextmanager
def paused_collections() -> Iterator[None]:
    """A context without collections of garbage; afterwards they are as they were before."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
