"""The discrete iteration theta_{k+1} = step(theta_k, draw_{k+1}, lr), with a fresh draw (mask) in each step.

The step of gradient descent is theta - lr gradient(theta, draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import pandas as pd
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, shown
from smesolve.problem.linearization import Linearization
from smesolve.problem.observables import Observables, check_nothing_kept, measured_observables
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Step, collect_paths
from smesolve.sampling.observed_paths import observed_paths
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import (
    check_integer,
    check_list,
    check_optional,
    check_parameters,
    check_positive,
    check_seed,
    check_workers,
)

__all__ = ["DropoutIteration", "SampledStep", "iterate"]


@dataclass(frozen=True)
class DropoutIteration:
    """The iteration as a process on blocks of paths; its time is t = k lr."""

    problem: Problem
    lr: float
    seed: int = 0

    noise_time = 1.0
    antithetic = False

    @property
    def autonomous(self) -> bool:
        """Whether every step has the same law."""
        return self.problem.autonomous

    @property
    def in_threads(self) -> bool:
        """Whether compiled kernels compute its steps."""
        return self.problem.in_threads

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.problem.block_size

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of every path of a block. Cost: one gradient per path."""
        problem = self.problem.at(step * self.lr)
        return problem.step(theta, self._draw(problem, block, step), self.lr)

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step | SampledStep:
        """Return the step, split into its mean, theta - lr grad L_S, and its noise, -lr (gradient - grad L_S).

        If the mean step is not known, return it as a `SampledStep`. Cost: one and a half gradients per path.
        """
        problem = self.problem.at(step * self.lr)
        draw = self._draw(problem, block, step)
        if not (problem.has_closed_form and problem.has_mean_step):
            weight = theta.new_full((self.block_size, 1), self.lr)
            return SampledStep(problem.step(theta, draw, self.lr), [(weight, draw)])
        if not problem.linear_step:
            state, prediction = problem.step(theta, draw, self.lr), problem.mean_step(theta, self.lr)
            return Step(state, prediction, state - prediction, problem.noise_coordinates(draw))
        gradient, mean = problem.linearize(theta).evaluate(_gradient_and_mean, draw)
        noise = problem.noise_coordinates(draw)
        return Step(theta - self.lr * gradient, theta - self.lr * mean, -self.lr * (gradient - mean), noise)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the mean step, twice: it is its own prediction."""
        state = self.problem.at(step * self.lr).reference_step(theta, self.lr)
        return state, state

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return vectors (I - lr Hess L_S) if compiled kernels compute Hessian products, else None."""
        problem = self.problem.at(step * self.lr)
        return vectors - self.lr * problem.adjoint_product(theta, vectors) if problem.in_threads else None

    def _draw(self, problem: Problem, block: int, step: int) -> Any:
        return problem.draw(keyed_uniforms((self.block_size, problem.draw_dim), self.seed, block, step))


@dataclass(frozen=True)
class SampledStep:
    """One step of a problem whose mean step is not known: y - sum_r weight_r gradient(y, draw_r) to first order."""

    state: Tensor
    """The states after the step, (B, D)."""
    terms: list[tuple[Tensor, Any]]
    """Weights (B, 1) and independent draws of the gradients in the step."""


def _gradient_and_mean(at: Linearization, draw: Any) -> tuple[Tensor, Tensor]:
    return at.gradient(draw), at.mean_gradient()


@overload
def iterate(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    steps: int,
    paths: int,
    seed: int = 0,
    *,
    save: Sequence[int] | None = None,
    workers: int | None = None,
    max_memory: float | None = None,
    observables: None = None,
) -> Tensor: ...


@overload
def iterate(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    steps: int,
    paths: int,
    seed: int = 0,
    *,
    save: Sequence[int] | None = None,
    workers: int | None = None,
    observables: Observables,
) -> pd.DataFrame: ...


@entry_point
@torch.no_grad()
def iterate(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    steps: int,
    paths: int,
    seed: int = 0,
    *,
    save: Sequence[int] | None = None,
    workers: int | None = None,
    max_memory: float | None = None,
    observables: Observables | None = None,
) -> Tensor | pd.DataFrame:
    """Train many independent paths from theta0.

    Args:
        problem: the problem to be trained.
        theta0: (D,), the start of every path.
        lr: learning rate, the step of the iteration.
        steps: number of steps.
        paths: number of independent paths.
        seed: root seed. Path b does not depend on `paths`.
        save: increasing step numbers to save, from 0 to `steps`. Default: 0, 1, ..., steps.
        workers: processes, or threads for compiled kernels, that share the blocks of paths. Results do not depend on
            their number. Default: only this process.
        max_memory: bytes that the paths may take; more are refused. Default: the free memory of this machine.
        observables: observables to measure along the paths, none of which are then kept: names ("loss", "accuracy",
            "theta[0]", see `OBSERVABLES`) and callables theta (..., D) -> (...,), or a dict from names of your own to
            them. Default: the paths are returned.

    Returns:
        (T, paths, D), the parameters at the saved steps. Cost: one gradient per step and path. With observables a
        DataFrame of their statistics, with a row for each saved step and observable: time, observable, mean, stderr,
        low and high (95% interval of the mean), std (over paths), q05, q50 and q95 (quantiles over the first
        `quantile_paths` paths, or over all if they are few), paths, quantile_paths, lost (the number of paths on
        which the observable is not finite; with a lost path the statistics are NaN), and reason ("heavy tails" where so
        few paths carry the mean that no interval is reliable, else empty). Memory: one block of paths, and 32
        MiB for all rows or 2 KiB per row, whichever is more.

    Raises:
        SmesolveError: lr is not positive; steps, paths or workers are not positive integers; theta0 has the wrong shape
            or is not finite; the paths exceed max_memory; or an observable is unknown or does not map (B, D) to (B,).

    Warns:
        DivergenceWarning: some paths are not finite at the end.
    """
    theta0 = check_parameters("theta0", theta0, problem)
    lr, steps = check_positive("lr", lr), check_integer("steps", steps)
    paths, seed = check_integer("paths", paths), check_seed("seed", seed)
    saved: Sequence[int] = range(steps + 1)
    if save is not None:
        saved = check_list("save", save, lambda name, value: check_integer(name, value, least=0))
        if any(b <= a for a, b in pairwise(saved)) or saved[-1] > steps:
            raise SmesolveError(
                f"save must hold increasing step numbers from 0 to steps={steps}, got {shown(saved)}; sort them and "
                "leave out repeated ones."
            )
    workers = check_workers("workers", workers)
    max_memory = check_optional("max_memory", max_memory, check_positive)
    process = DropoutIteration(problem, lr, seed)
    if observables is not None:
        check_nothing_kept(max_memory)
        functions = measured_observables(problem, theta0, observables)
        return observed_paths(process, theta0, paths, saved, [k * lr for k in saved], functions, workers)
    return collect_paths(process, theta0, paths, saved, workers, max_memory)
