"""Checks of the numbers that methods take at every call: learning rates, times, factors and step numbers.

Inner loops call these methods, so that the check of a valid number is one comparison, of about 0.1 microseconds. The
validators of `smesolve.validation` answer what fails it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.errors import invalid
from smesolve.validation import LARGEST_INTEGER, check_integer, check_number

__all__ = ["check_call_number", "check_place", "check_rate", "check_term_count"]

MOST_TERMS = 16
"""Largest number of terms of the expansion of a step in the learning rate."""


def check_call_number(name: str, value: Any, least: float = -math.inf, remedy: str = "") -> None:
    """Refuse what is neither a finite number of at least `least` nor a real tensor of dimension 0.

    The value of a tensor is not looked at, as it may be part of a derivative.
    """
    if isinstance(value, float) and least <= value < math.inf and value > -math.inf:
        return
    if not isinstance(value, Tensor):
        check_number(name, value, least, low_allowed=True, remedy=remedy)
    elif value.ndim or value.is_complex() or value.dtype == torch.bool or value.layout != torch.strided:
        raise invalid(name, "be a number, or a real tensor of dimension 0", value, remedy)


def check_rate(lr: Any) -> float | Tensor:
    """Return a learning rate: a finite number of at least 0, or a real tensor of dimension 0.

    A number of numpy is returned as a float: numpy would compute 1 - lr, for example, in the precision of lr.
    """
    check_call_number("lr", lr, 0.0, "it is the learning rate of this step, such as 0.1")
    return float(lr) if isinstance(lr, np.generic) else lr


def check_term_count(count: Any) -> None:
    """Refuse what is not a number of terms of a step, an integer from 1 to `MOST_TERMS`."""
    if type(count) is not int or not 0 < count <= MOST_TERMS:
        check_integer("count", count, 1, MOST_TERMS, "the cost doubles with every term")


def check_place(block: Any, step: Any) -> None:
    """Refuse what is not the number of a block of paths and that of a step, integers of at least 0."""
    if not (type(block) is type(step) is int and 0 <= block < LARGEST_INTEGER and 0 <= step < LARGEST_INTEGER):
        check_integer("block", block, 0)
        check_integer("step", step, 0)
