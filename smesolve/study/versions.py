"""The versions on which the numbers of a study depend."""

from __future__ import annotations

import platform
from importlib.metadata import version

from smesolve.version import __version__

__all__ = ["PACKAGES", "versions"]

PACKAGES = ("torch", "torchsde", "numpy", "scipy", "pandas", "sympy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python, of smesolve and of the `PACKAGES`, without importing any of them."""
    return {
        "python": platform.python_version(),
        "smesolve": __version__,
        **{package: version(package) for package in PACKAGES},
    }
