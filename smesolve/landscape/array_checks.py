"""The check of an argument that is an array of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from smesolve.errors import invalid
from smesolve.validation import check_instance

__all__ = ["check_array"]


def check_array(name: str, value: Any, shape: str) -> np.ndarray:
    """Return an array of finite real numbers with as many dimensions as a shape such as "(m, d)" has names."""
    words = f"an array {shape} of finite real numbers"
    array = check_instance(name, value, np.ndarray, words)
    dimensions = len(shape.strip("(),").split(","))
    if array.ndim != dimensions or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise invalid(name, f"be {words}", value)
    return array
