"""The library of compiled kernels for this processor. Without one, formulas in torch are used instead.

If the installation finds a compiler, it compiles the same C++ once for each level of x86-64 (v2, v3, v4), or once on
other processors. The library does not depend on Python, whose lock is released during every call.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from smesolve.errors import SmesolveError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHOICE", "TORCH", "VARIANTS", "Features", "Rows", "kernels_in_use", "library"]

VARIANTS = {"x86-64-v4": 4, "x86-64-v3": 3, "x86-64-v2": 2, "generic": 0}
"""Names of the variants, and the level of x86-64 that each of them needs."""

TORCH = "torch"
"""Name of the formulas in torch."""

CHOICE = "SMESOLVE_KERNELS"
"""Environment variable that names the kernels to use, a variant or "torch". Default: the best for the processor."""

INTERFACE = 4
"""Version of the functions' signatures. A library with another number was left behind by another installation."""


class Rows(ctypes.Structure):
    """The rows of a matrix: the address of its first number, and the stride from one row to the next in numbers."""

    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64))

    @classmethod
    def of(cls, rows: Tensor) -> Rows:
        """Return the rows of a matrix whose rows are contiguous. It must outlive them."""
        return cls(rows.data_ptr(), rows.stride(0))


class Features(ctypes.Structure):
    """Features (paths, m, n) that the caller has computed and the address of their cotangents, or null pointers."""

    _fields_ = (("values", Rows), ("cotangents", ctypes.c_void_p))


_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "make": ([_I] * 8 + [_P] * 2, _P),
    "release": ([_P], None),
    "loss": ([_P, _F, _I, Rows, _P], None),
    "gradient": ([_P, _I, _I, Rows, Rows, Features, _P], None),
    "mean_gradient": ([_P, _P, _I, Rows, Features, _P], None),
    "gradient_and_mean": ([_P, _P, _I, _I, Rows, Rows, _P, _P], None),
    "noise": ([_P, _P, _I, _F, _F, _I, _I, Rows, Rows, Features, _P], None),
    "hessian_product": ([_P, _P, _I, Rows, Rows, _P], None),
    "third_derivative": ([_P, _P, _I, Rows, Rows, Rows, _P], None),
    "parts": ([_P, _P, _I, _I, Rows, Rows, _P, _P, _P], None),
    "rk4": ([_P, _P, _I, _I, _F, _F, _I, Rows, Rows, _P, _P, _P], None),
    "lanes": ([_I], _I),
    "bilinear": ([_I, _I, _I, _I, _P, _P, _I, Rows, _P, Rows, _P], None),
}
"""Types of the arguments and of the result of each function, by its name without the prefix."""


def kernels_in_use() -> str:
    """Return the name of the kernels that this process computes with: a variant, or "torch".

    Raises:
        SmesolveError: the environment names kernels that this installation or this processor does not have.
    """
    return _chosen(os.environ.get(CHOICE, ""))[0]


def library() -> ctypes.CDLL | None:
    """Return the library of the kernels in use, or None for the formulas in torch."""
    return _chosen(os.environ.get(CHOICE, ""))[1]


@cache
def _chosen(wanted: str) -> tuple[str, ctypes.CDLL | None]:
    found = _usable()
    if wanted and wanted not in (TORCH, *found):
        raise SmesolveError(
            f"{CHOICE} must name kernels that are installed and suit this processor, {', '.join([*found, TORCH])}, got "
            f"{wanted!r}; name one of them, or unset it."
        )
    if not found or wanted == TORCH:
        return TORCH, None
    name = wanted or next(iter(found))
    loaded = found[name]
    for function, (arguments, result) in _SIGNATURES.items():
        called = getattr(loaded, f"smesolve_{function}")
        called.argtypes, called.restype = arguments, result
    return name, loaded


def _usable() -> dict[str, ctypes.CDLL]:
    """Return the libraries that are installed and suit the processor, the best one first."""
    loaded: dict[str, ctypes.CDLL] = {}
    level = 0
    for name, least in reversed(VARIANTS.items()):
        if loaded and least > level:
            break
        try:
            one = ctypes.CDLL(str(Path(__file__).with_name(f"{name}.kernels")))
            if one.smesolve_interface() != INTERFACE:
                continue
            level = one.smesolve_level()  # the first library, which needs the least of the processor, tells its level
        except (OSError, AttributeError):  # missing, built for another machine, or of another version
            continue
        loaded[name] = one
    return dict(reversed(loaded.items()))
