"""Problems whose steps are fused by torch.compile."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.problem.derived_problem import DerivedProblem
from smesolve.problem.linearization import Linearization, PointwiseLinearization
from smesolve.problem.problem import Problem

__all__ = ["CompiledProblem", "NotCompiledWarning"]

T = TypeVar("T")


class NotCompiledWarning(UserWarning):
    """There is no compiler, so that nothing is compiled."""


class CompiledProblem(DerivedProblem):
    """A problem whose steps on whole blocks of paths are fused by `torch.compile`; values agree up to rounding.

    Other numbers of paths (the noise-free path, tests) are not compiled, nor are steps through which gradients go. The
    first step of each kind takes some 5 to 30 seconds to compile, less if torch finds its cache; each process compiles
    for itself. Later steps take 0.7 to 0.9 of the time without compilation at 64 to 256 samples, and nearly all of it
    at 16 and at 1,000 samples (`benchmarks/step_cost.py`): compilation pays from minutes of sampling on. A
    `DropoutProblem` with a `TwoLayerNetwork` is faster without it, because the compiled kernels of the installation
    compute its steps.

    Args:
        problem: the problem whose steps are compiled. Problems derived from it (`ScheduledProblem`, ...) must be made
            of the compiled one.

    Raises:
        SmesolveError: the problem has a schedule, or a step other than gradient descent.

    Warns:
        NotCompiledWarning: there is no compiler (C++ on the CPU, triton on a GPU); the problem then works uncompiled.
    """

    @entry_point
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        missing = _missing_compiler(self.device)
        if missing:
            warnings.warn(
                f"CompiledProblem found no {missing}, so nothing is compiled; install one to make steps faster.",
                NotCompiledWarning,
                stacklevel=3,  # past the guard of the constructor
            )
        self.compiles = not missing
        self._kernels: dict[Callable[..., Any], Callable[..., Any]] = {}

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta, compiled for a whole block of paths."""
        differentiated = theta.requires_grad and torch.is_grad_enabled()
        if not self.compiles or differentiated or tuple(theta.shape) != (self.block_size, self.dim):
            return self.problem.linearize(theta)
        return _Compiled(self, theta)

    def kernel(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return the compiled function (theta, *tensors) -> function(linearization at theta, *tensors)."""
        if function not in self._kernels:

            def whole(theta: Tensor, *tensors: Any) -> T:
                return function(self.problem.linearize(theta), *tensors)

            self._kernels[function] = _subnormal_numbers_kept(torch.compile(whole, dynamic=False))
        return self._kernels[function]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled code in its process."""
        return self.__dict__ | {"_kernels": {}}


def _subnormal_numbers_kept(function: Callable[..., T]) -> Callable[..., T]:
    """Keep subnormal numbers, which become 0 when code is loaded that torch 2.4 has compiled with -ffast-math."""

    @functools.wraps(function)
    def kept(*arguments: Any) -> T:
        before = sys.float_info.min / 2 > 0
        try:
            return function(*arguments)
        finally:
            if before and not sys.float_info.min / 2 > 0:
                torch.set_flush_denormal(False)

    return kept


class _Compiled(PointwiseLinearization):
    """Gradients, noise, and functions of them by `evaluate`: one compiled kernel each, forward pass included."""

    def __init__(self, compiled: CompiledProblem, theta: Tensor) -> None:
        super().__init__(compiled.problem, theta)
        self._kernel = compiled.kernel

    def gradient(self, draw: Any) -> Tensor:
        return self.evaluate(_gradient, draw)

    def mean_gradient(self) -> Tensor:
        return self.evaluate(_mean_gradient)

    def noise_product(self, normals: Tensor) -> Tensor:
        return self.evaluate(_noise_product, normals)

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        # a tensor, as torch.compile would make new code for every number
        return self.evaluate(_noisy_mean_gradient, normals, self.theta.new_tensor(weight))

    def evaluate(self, function: Callable[..., T], *tensors: Any) -> T:
        return self._kernel(function)(self.theta, *tensors)


def _gradient(at: Linearization, draw: Any) -> Tensor:
    return at.gradient(draw)


def _mean_gradient(at: Linearization) -> Tensor:
    return at.mean_gradient()


def _noise_product(at: Linearization, normals: Tensor) -> Tensor:
    return at.noise_product(normals)


def _noisy_mean_gradient(at: Linearization, normals: Tensor, weight: float) -> Tensor:
    return at.noisy_mean_gradient(normals, weight)


def _missing_compiler(device: torch.device) -> str | None:
    """Return the name of what torch.compile lacks on a device, or None."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"C++ compiler {compiler!r}"
    return None if find_spec("triton") else "package triton"
