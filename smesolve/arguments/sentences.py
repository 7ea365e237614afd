"""What is said of a bad value: one sentence that names the argument, says what it must be, and shows what was given."""

from __future__ import annotations

import opcode
import os
import reprlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["evaluated", "is_own_sentence", "is_tensor", "refuse", "shown"]


def shown(value: Any) -> str:
    """A value in one short line, however large, deep or odd it is."""
    if is_tensor(value) and value.is_nested:
        return f"a nested {value.dtype} tensor"
    if is_tensor(value):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, found out without importing torch, which takes a second."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def refuse(name: str, must: str, value: Any, remedy: str = "") -> ValueError:
    """`name` must be what it is not; what can be done about it."""
    return ValueError(f"{name} must {must.rstrip(',')}, got {shown(value)}{'; ' if remedy else ''}{remedy}.")


def evaluated(what: str, function: Callable[..., Any], *values: Any) -> Any:
    """function(*values), where the function is the user's: whatever it raises becomes one sentence.

    Raises:
        ValueError: `what` failed, and how.
    """
    try:
        return function(*values)
    except Exception as error:
        if is_own_sentence(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{what} must work on what it is given here, but a trial call failed ({type(error).__name__}: {reason})."
        ) from error


def is_own_sentence(error: BaseException) -> bool:
    """Whether a `raise` statement of this package raised the error: its messages are sentences for users.

    What a library raises is a defect here, also where it is written in C and leaves no frame of its own.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    inside = os.path.dirname(code.co_filename).startswith(_PACKAGE)
    return inside and code.co_code[trace.tb_lasti] == _RAISE


_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_RAISE = opcode.opmap["RAISE_VARARGS"]
