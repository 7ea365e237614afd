"""The discrete iteration theta_{k+1} = theta_k - lr gradient(theta_k, draw_{k+1}), a fresh draw (mask) each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Step, collect_paths
from smesolve.sampling.randomness import keyed_uniforms

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
        """Every step has the same law."""
        return self.problem.autonomous

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.problem.block_size

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """One step of every path of a block. Cost: one gradient a path."""
        problem = self.problem.at(step * self.lr)
        return theta - self.lr * problem.gradient(theta, self._draw(problem, block, step))

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step | SampledStep:
        """The step split into theta - lr grad L_S and -lr (gradient - grad L_S): half as much again."""
        problem = self.problem.at(step * self.lr)
        draw = self._draw(problem, block, step)
        if not problem.exact:
            weight = theta.new_full((self.block_size, 1), self.lr)
            return SampledStep(theta - self.lr * problem.gradient(theta, draw), [(weight, draw)])
        gradient, mean = problem.gradient_and_mean_gradient(theta, draw)
        noise = problem.noise_functions(draw)
        return Step(theta - self.lr * gradient, theta - self.lr * mean, -self.lr * (gradient - mean), noise)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """theta - lr grad L_S, twice: the step is its own prediction."""
        state = theta - self.lr * self.problem.at(step * self.lr).reference_gradient(theta)
        return state, state

    def _draw(self, problem: Problem, block: int, step: int) -> Any:
        return problem.draw(keyed_uniforms((self.block_size, problem.draw_dim), self.seed, block, step))


@dataclass(frozen=True)
class SampledStep:
    """One step y -> y - sum_r weight_r gradient(y, draw_r) of a problem whose mean gradient is not known."""

    state: Tensor
    """(B, D), after the step."""
    terms: list[tuple[Tensor, Any]]
    """Weights (B, 1) and independent draws."""


@checked
@torch.no_grad()
def iterate(
    problem: Problem,
    theta0: Tensor,
    lr: float,
    steps: int,
    paths: int,
    seed: int = 0,
    save: Sequence[int] | None = None,
    workers: int | None = None,
    max_memory: float | None = None,
) -> Tensor:
    """Training of many independent paths from theta0.

    Args:
        theta0: (D,), the start of every path.
        lr: learning rate, the step of the iteration.
        steps: number of steps.
        paths: number of independent paths.
        seed: root seed; path b is the same whatever `paths` is.
        save: increasing step numbers to keep; all of 0, 1, ..., steps unless given.
        workers: processes that share the blocks of paths; the result is the same for any number of them.
        max_memory: bytes that the result may take; more are refused.

    Returns:
        (T, paths, D), the parameters at the saved steps. Cost: one gradient a step and path.

    Raises:
        SmesolveError: lr not positive, steps, paths or workers not positive integers, theta0 of the wrong shape or not
            finite, more paths than max_memory holds.

    Warns:
        DivergenceWarning: where paths are not finite at the end.
    """
    saved = range(steps + 1) if save is None else save
    if save is not None and (any(b <= a for a, b in pairwise(save)) or save[-1] > steps):
        raise SmesolveError(f"save must hold increasing step numbers from 0 to steps={steps}, got {save}.")
    return collect_paths(DropoutIteration(problem, lr, seed), theta0, paths, saved, workers, max_memory)
