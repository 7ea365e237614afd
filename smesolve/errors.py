"""The error that users see: one sentence that names the argument, the value and the remedy."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["SmesolveError", "call_of_user", "invalid", "is_tensor", "shown"]


class SmesolveError(ValueError):
    """An input that cannot be used. The message is one sentence that says which input, why, and what to do about it."""


def invalid(name: str, must: str, value: Any, remedy: str = "") -> SmesolveError:
    """Return the error "`name` must `must`, got `value`; `remedy`."."""
    return SmesolveError(f"{name} must {must}, got {shown(value)}{'; ' if remedy else ''}{remedy}.")


def call_of_user(what: str, function: Callable[..., Any], *values: Any) -> Any:
    """Return function(*values) for a function that the user wrote.

    Raises:
        SmesolveError: the function raised an error, which the message quotes.
    """
    try:
        return function(*values)
    except SmesolveError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise SmesolveError(
            f"{what} must work on what it is given here, but a trial call failed ({type(error).__name__}: {reason})."
        ) from error


def shown(value: Any) -> str:
    """Return a value in one short line, however large, deep or odd it is."""
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
    """Return whether a value is a torch tensor, without importing torch, which takes a second."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
