"""Values of symmetric bilinear forms of low rank by a compiled kernel.

A product of matrices would write the images of all vectors to memory and read them again. The kernel keeps those of a
few vectors in the first cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smesolve.problem.kernels.fused import rows_of, usable
from smesolve.problem.kernels.library import Rows, library

__all__ = ["bilinear"]


def bilinear(factors: Tensor, values: Tensor, left: Tensor, right: Tensor, origin: Tensor | None) -> Tensor | None:
    """Return (left - origin)^T F diag(s) F^T right for each pair of vectors and each form.

    Args:
        factors: F of each form, (..., N, r), contiguous.
        values: s of each form, (..., r), contiguous.
        left: (B, N).
        right: (B, N).
        origin: (N,), contiguous, or None for 0.

    Returns:
        (B, ...), or None where the kernel cannot take these tensors. Cost for each: 2 r N operations, half of it where
        left is right.
    """
    compiled, given = library(), [factors, values, left, right, *([] if origin is None else [origin])]
    single, (*lead, length, rank) = factors.dtype == torch.float32, factors.shape
    if compiled is None or not usable(*given) or any(one.dtype != factors.dtype for one in given):
        return None
    if not (single or factors.dtype == torch.float64) or rank % compiled.smesolve_lanes(single):
        return None
    _, pairs, first, second = rows_of(left, right)
    out = left.new_empty(pairs, *lead)
    arrays = factors.data_ptr(), values.data_ptr(), pairs, Rows.of(first)
    point = None if origin is None else origin.data_ptr()
    compiled.smesolve_bilinear(single, math.prod(lead), length, rank, *arrays, point, Rows.of(second), out.data_ptr())
    return out
