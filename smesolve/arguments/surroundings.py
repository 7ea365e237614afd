"""What the process around a call may have switched on, and what must not reach into its numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

__all__ = ["plain_surroundings"]

_RAISING = ("raise", "call")


@contextmanager
def plain_surroundings() -> Iterator[None]:
    """Within it numpy does not raise where floats overflow or divide by zero, and tensors can be differentiated.

    A path that diverges, or a quotient 0/0 that means "nothing is known", is no error here; `torch.inference_mode`
    makes tensors that no derivative can be taken of.
    """
    with ExitStack() as stack:
        if any(kind in _RAISING for kind in np.geterr().values()):
            stack.enter_context(np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"))
        torch = sys.modules.get("torch")  # not imported for this: configurations do without it
        if torch is not None and torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield
