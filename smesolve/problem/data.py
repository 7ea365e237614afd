"""The data of a problem: inputs and targets as tensors of finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import is_masked_tensor
from torch.utils.data import Dataset

from smesolve.errors import SmesolveError, shown

__all__ = ["check_samples", "check_table", "finite_data", "hidden_values"]


def finite_data(
    name: str,
    values: Tensor | np.ndarray,
    dtype: torch.dtype,
    device: torch.device,
    keep_integers: bool = False,
) -> Tensor:
    """Return data as a tensor of the given dtype and device. `keep_integers` leaves integers as they are.

    Raises:
        SmesolveError: the data are empty, hide values (masks, other layouts), are not finite, or do not fit `dtype`:
            integers beyond its digits, or values whose sum of squares overflows.
    """
    data = _as_tensor(name, values)
    if data.ndim == 0 or data.numel() == 0:
        raise SmesolveError(f"{name} holds no sample, got {shown(values)}; give at least one.")
    if torch.device(device).type == "meta":
        raise SmesolveError(f"{name} cannot go to the meta device, which holds no values; give a network with values.")
    if not data.isfinite().all():
        bad = int((~data.isfinite()).sum())
        raise SmesolveError(f"{name} has {bad} values that are NaN or infinite; remove those samples or fill them in.")
    if keep_integers and not data.is_floating_point():
        return data.to(device)
    largest, limits = float(data.to(torch.float64).abs().max()), torch.finfo(dtype)
    if not data.is_floating_point() and largest >= 2 / limits.eps:
        raise SmesolveError(
            f"{name} has integers up to {largest:g}, which {dtype} rounds from {2 / limits.eps:g} on; scale them, or "
            "leave them out where they are identifiers."
        )
    if largest > math.sqrt(limits.max / data.numel()):
        raise SmesolveError(f"{name} has values up to {largest:g}, whose squares overflow in {dtype}; scale them.")
    return data.to(device=device, dtype=dtype)


def check_table(name: str, data: Tensor) -> None:
    """Check that data are samples by inputs, or samples by outputs."""
    if data.ndim != 2:
        raise SmesolveError(
            f"{name} must have two dimensions, samples by {'inputs' if name == 'x' else 'outputs'}, got shape "
            f"{tuple(data.shape)}; a vector becomes one column by {name}.reshape(-1, 1)."
        )


def check_samples(x: Tensor, y: Tensor) -> None:
    """Check that inputs and targets have the same number of samples."""
    if x.shape[0] != y.shape[0]:
        raise SmesolveError(
            f"x and y must hold the same number of samples, got shapes {tuple(x.shape)} and {tuple(y.shape)}; leave "
            "out samples without a target."
        )


def _as_tensor(name: str, values: Any) -> Tensor:
    """Return a copy of numbers as a strided tensor without a graph."""
    if isinstance(values, Tensor):
        hidden = hidden_values(values)
        if hidden is not None:
            raise SmesolveError(f"{name} must be a tensor of plain values, got {hidden}.")
        # A copy: what the caller does to it later changes no problem, and derivatives can be taken of it.
        data = values.detach().as_subclass(Tensor).resolve_neg().clone()
    elif count := _masked_values(values):
        raise SmesolveError(f"{name} has {count} masked values; remove those samples, or use .filled(value).")
    else:
        try:
            array = np.array(values)
            real = array.dtype.kind in "fiub"
            wide = array.dtype.kind == "f" and array.dtype.itemsize > 8  # torch has no longer floats
            data = torch.as_tensor(
                array.astype("f8" if wide else array.dtype.newbyteorder("=")) if real else None, device="cpu"
            )
        except (ValueError, TypeError, RuntimeError, RecursionError, MemoryError):
            data = None
    if data is None or data.is_complex():
        remedy = "; a TensorDataset has them in .tensors" if isinstance(values, Dataset) else ""
        raise SmesolveError(f"{name} must hold real numbers, as a tensor or an array, got {shown(values)}{remedy}.")
    return data


def _masked_values(values: Any) -> int:
    """Return how many values a numpy masked array, or a sequence of them, hides."""
    parts = values if isinstance(values, (list, tuple)) else [values]
    return sum([int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray)])


def hidden_values(values: Tensor) -> str | None:
    """Return why the values of a tensor cannot be read directly, with the remedy, or None."""
    return next((words for hides, words in _HIDING if hides(values)), None)


_HIDING: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (lambda tensor: tensor.is_nested, "a nested one; pad it by torch.nested.to_padded_tensor, or leave samples out"),
    (is_masked_tensor, "a masked one; remove those samples or fill them in"),
    (lambda tensor: tensor.is_meta, "one on the meta device; give one with values"),
    (lambda tensor: tensor.is_quantized, "a quantized one; convert it by .dequantize()"),
    (lambda tensor: tensor.layout != torch.strided, "a sparse one; convert it by .to_dense()"),
)
"""Tensors whose values cannot be read directly, with the remedy."""
