"""Inputs and targets from a .npz file, which is checked before it is used and never unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np

from smesolve.errors import SmesolveError
from smesolve.machine_memory import check_numbers_fit

__all__ = ["read_npz"]

HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""Header readers by version of numpy's format; later versions are for records only."""


def read_npz(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays x and y of real numbers, (n, ...) each; a vector is one column.

    Raises:
        SmesolveError: x or y is missing, or is not a table of real numbers.
    """
    with zipfile.ZipFile(path) as archive:
        x, y = (_array(archive, path, name) for name in ("x", "y"))
    return x, y


def _array(archive: zipfile.ZipFile, path: str, name: str) -> np.ndarray:
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise SmesolveError(f"data.name={path!r} has no array {name!r}; save it by numpy.savez(path, x=x, y=y).")
    if archive.namelist().count(member) > 1:
        raise SmesolveError(f"data.name={path!r} has two arrays {name!r}; save it by numpy.savez(path, x=x, y=y).")
    what = f"array {name!r} of data.name={path!r}"
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = HEADERS[version](file) if version in HEADERS else ((), False, np.dtype(object))
        if dtype.kind not in "fiub":
            raise SmesolveError(f"{what} must hold real numbers, got {dtype}; save real numbers of one type.")
        if len(shape) not in (1, 2):
            raise SmesolveError(f"{what} must have shape (samples,) or (samples, columns), got {shape}; reshape it.")
        check_numbers_fit(what, math.prod(shape) * dtype.itemsize / 8, "save fewer samples")
        left = archive.getinfo(member).file_size - file.tell()
        if math.prod(shape) * dtype.itemsize != left:
            raise SmesolveError(f"{what} says it has shape {shape} and holds {left} bytes; save it anew.")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return array[:, None] if array.ndim == 1 else array
