"""The check of an argument that is an array of numbers, and the lengths of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from smesolve.errors import invalid
from smesolve.validation import check_instance

__all__ = ["check_array", "unit_rows"]


def check_array(name: str, value: Any, shape: str) -> np.ndarray:
    """Return an array of finite real numbers with as many dimensions as a shape such as "(m, d)" has names.

    The array is float64, or float32 if `value` is: sums and products of integers or of half precision would overflow.
    """
    words = f"an array {shape} of finite real numbers"
    array = check_instance(name, value, np.ndarray, words)
    dimensions = len(shape.strip("(),").split(","))
    if isinstance(array, np.ma.MaskedArray):
        raise invalid(name, f"be {words} without a mask", value, "fill or leave out what is masked")
    if array.ndim != dimensions or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise invalid(name, f"be {words}", value)
    return np.asarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (m, d) divided by their lengths; vectors of zeros stay zeros."""
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0))
    scaled = np.ldexp(vectors, -exponents)  # without rounding, so that no square overflows or vanishes
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    units: np.ndarray = scaled / np.where(lengths > 0, lengths, 1.0)
    return units
