"""Kernels fused by torch.compile."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.problem.derived_problem import DerivedProblem
from smesolve.problem.problem import Problem

__all__ = ["CompiledProblem", "NotCompiledWarning"]


class NotCompiledWarning(UserWarning):
    """There is nothing to compile with."""


class CompiledProblem(DerivedProblem):
    """A problem whose steps on whole blocks of paths are fused by `torch.compile`; values agree up to rounding.

    What is asked of other numbers of paths (the noise-free path, tests) is not compiled. The first step of each kind
    takes some 5 to 30 seconds, less where torch finds its cache; each process compiles for itself. Steps then take
    0.7 to 0.9 of their time at 64 to 256 samples and nearly all of it at 16 and at 1,000 (`benchmarks/step_cost.py`):
    worth it from minutes of sampling on.

    Args:
        problem: whose kernels are compiled; what is made from a problem (`ScheduledProblem`, ...) is made from it after
            that.

    Warns:
        NotCompiledWarning: there is no compiler (C++ on the CPU, triton on a GPU); everything works as without it.
    """

    @checked
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        missing = _missing_compiler(self.device)
        if missing:
            warnings.warn(
                f"CompiledProblem found no {missing}, so nothing is compiled; install one to make steps faster.",
                NotCompiledWarning,
                stacklevel=2,
            )
        self.compiles = not missing
        self._kernels: dict[str, Callable] = {}

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """As `problem`."""
        return self._run("gradient", theta, draw)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self._run("mean_gradient", theta)

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """As `problem`."""
        return self._run("noise_product", theta, normals)

    def gradient_and_mean_gradient(self, theta: Tensor, draw: Any) -> tuple[Tensor, Tensor]:
        """As `problem`."""
        return self._run("gradient_and_mean_gradient", theta, draw)

    def mean_gradient_and_noise_product(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """As `problem`."""
        return self._run("mean_gradient_and_noise_product", theta, normals)

    def mean_gradient_noise_product_and_bend(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `problem`."""
        return self._run("mean_gradient_noise_product_and_bend", theta, normals)

    def drift_and_noise(self, theta: Tensor, normals: Tensor, weight: float) -> Tensor:
        """As `problem`."""
        # a tensor, as torch.compile would make code of its own for every number
        return self._run("drift_and_noise", theta, normals, theta.new_tensor(weight))

    def _run(self, name: str, theta: Tensor, *arguments: Any) -> Any:
        eager = getattr(self.problem, name)
        if not self.compiles or tuple(theta.shape) != (self.block_size, self.dim):
            return eager(theta, *arguments)
        if name in self._kernels:
            return self._kernels[name](theta, *arguments)
        self._kernels[name] = torch.compile(eager, dynamic=False)
        with _subnormal_numbers_kept():
            return self._kernels[name](theta, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Compiled code stays in its process."""
        return self.__dict__ | {"_kernels": {}}


@contextmanager
def _subnormal_numbers_kept() -> Iterator[None]:
    """Undo what code compiled with -ffast-math, by torch 2.4, does when it is loaded: subnormal numbers become 0."""
    kept = sys.float_info.min / 2 > 0
    try:
        yield
    finally:
        if kept:
            torch.set_flush_denormal(False)


def _missing_compiler(device: torch.device) -> str | None:
    """What torch.compile would look for in vain on a device."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"C++ compiler {compiler!r}"
    return None if find_spec("triton") else "package triton"
