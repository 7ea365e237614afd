"""The versions and the compiled kernels on which the numbers of a study depend."""

from __future__ import annotations

import platform
from importlib.metadata import version

from smesolve.problem.kernels.library import kernels_in_use
from smesolve.version import __version__

__all__ = ["PACKAGES", "versions"]

PACKAGES = ("torch", "torchsde", "numpy", "scipy", "pandas", "sympy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python, smesolve and the `PACKAGES`, none of them imported, and the kernels in use."""
    return {
        "python": platform.python_version(),
        "smesolve": __version__,
        "kernels": kernels_in_use(),
        **{package: version(package) for package in PACKAGES},
    }
