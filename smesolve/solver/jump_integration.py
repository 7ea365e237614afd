"""Integration of an equation with jumps for many paths: from clock to clock, each path at its own times.

Grid steps of length dt serve the times of observation and name the random numbers; they are no error: in each, a path
has a Poisson number of jumps of mean dt/lr, at uniform times, each with a draw of its own. Clocks and draws are keyed
by (seed, block, cell), a cell being dt or a part of it, and within a cell by the number of the jump, so that a path is
the same, bit for bit, whatever the number of paths, of processes and of interruptions; with the same cells it has the
same jumps under another dt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.problem.problem import Problem
from smesolve.sampling.randomness import keyed_generator
from smesolve.solver.jumps import JumpDynamics

__all__ = ["JumpIntegration", "JumpNoise", "JumpStep"]

MOST_JUMPS = 16
"""Jumps that a path has on average in the longest step in which `in_longer_steps` takes several."""

MOST_UNIFORMS = 2**22
"""Uniforms of all jumps of a block in such a step, on average."""


@dataclass(frozen=True)
class JumpNoise:
    """Noise of mean zero that some paths of a block meet inside a step."""

    paths: Tensor
    """Their positions in the block (A,)."""
    time: Tensor
    """When, as a share of the step (A, 1)."""
    state: Tensor
    """The states before it (A, D)."""
    draw: Any
    """Its draws (A, ...), or None of what has none."""
    increment: Tensor
    """The noise (A, D): its sum over the step, given its past, has mean zero where the mean gradient is known."""
    coordinates: Tensor | None
    """chi (A, M), functions of the draw with increment = -lr C chi, of mean zero and covariance I; None where there is
    none."""


@dataclass(frozen=True)
class JumpStep:
    """One step of a block with jumps."""

    state: Tensor
    """(B, D), after the step."""
    noises: list[JumpNoise]


class JumpIntegration:
    """An equation with jumps as a process on blocks of paths.

    Args:
        problem: whose draws the jumps take.
        dynamics: what happens between and at the jumps.
        lr: learning rate; the jumps come at rate 1/lr.
        dt: length of a step.
        seed: root seed.
        nested: cells in a step; with equal dt/nested two integrations see the same jumps.
    """

    noise_time = 0.5
    antithetic = False
    autonomous = True
    in_threads = False

    def __init__(
        self, problem: Problem, dynamics: JumpDynamics, lr: float, dt: float, seed: int = 0, nested: int = 1
    ) -> None:
        self.problem, self.dynamics, self.lr = problem, dynamics, lr
        self.dt, self.block_size = dt, problem.block_size
        self._seed, self._nested = seed, nested

    def in_longer_steps(self, saved: Sequence[int]) -> tuple[JumpIntegration, list[int]]:
        """Return the same paths in the longest steps that meet all saved step numbers, and these numbers.

        Every step cuts a flow, which costs four gradients a path: so a step has up to `MOST_JUMPS` jumps on average.
        The jumps are the same, as the cells are.
        """
        jumps = self.dt / self.lr
        uniforms = jumps * self.block_size * max(1, self.problem.draw_dim)
        most = min(MOST_JUMPS / jumps, MOST_UNIFORMS / uniforms) * (1 + 1e-9)
        common = math.gcd(*saved)
        together = max(count for count in range(1, min(common, max(1, int(most))) + 1) if common % count == 0)
        longer = JumpIntegration(
            self.problem, self.dynamics, self.lr, together * self.dt, self._seed, together * self._nested
        )
        return longer, [number // together for number in saved]

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of every path of a block. Cost on average: dt/lr jumps and dt/lr + 1 flows a path."""
        return self._run(theta, block, step, None)

    def advance_split(self, theta: Tensor, block: int, step: int) -> JumpStep:
        """Return the step with the noises of its jumps."""
        noises: list[JumpNoise] = []
        return JumpStep(self._run(theta, block, step, noises), noises)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the step without noise, twice: it is its own prediction."""
        state = self.dynamics.noise_free(theta, self.dt)
        return state, state

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return None: automatic differentiation knows the Jacobians."""
        return None

    def clocks(self, block: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the times of the jumps in a step (J, B), increasing, and their uniforms (J, B, U).

        J is the largest number of jumps of a path; the times of jumps that a path does not have are infinite.
        """
        times, uniforms = [], []
        for part in range(self._nested):
            generator = keyed_generator(self._seed, "gradients", block, step * self._nested + part)
            counts = generator.poisson(self.dt / (self._nested * self.lr), self.block_size)
            most = int(counts.max())
            found = generator.random((most, self.block_size))
            found[np.arange(most)[:, None] >= counts] = np.inf
            times.append((np.sort(found, axis=0) + part) * (self.dt / self._nested))
            uniforms.append(generator.random((most, self.block_size, self.problem.draw_dim)))
        together, drawn = np.concatenate(times), np.concatenate(uniforms)
        order = np.argsort(together, axis=0, kind="stable")
        most = int(np.isfinite(together).sum(axis=0).max(initial=0))
        order = order[:most]
        return np.take_along_axis(together, order, axis=0), np.take_along_axis(drawn, order[..., None], axis=0)

    def _run(self, theta: Tensor, block: int, step: int, noises: list[JumpNoise] | None) -> Tensor:
        """Return the states after a step, and add its noises to the list."""
        clocks, uniforms = self.clocks(block, step)
        theta, times = theta.clone(), torch.from_numpy(clocks).to(theta)[..., None]
        now = torch.zeros_like(theta[:, :1])
        for time, drawn in zip(times, torch.from_numpy(uniforms), strict=True):
            (paths,) = time[:, 0].isfinite().nonzero(as_tuple=True)
            begin, end = now[paths], time[paths]
            before, b = self._flow(theta[paths], paths, begin, end, noises)
            draw = self.problem.draw(drawn[paths.cpu()])
            size, increment = self.dynamics.jump(before, draw, b)
            if noises is not None:
                chi = self.problem.noise_coordinates(draw)
                noises.append(JumpNoise(paths, end / self.dt, before, draw, increment, chi))
            theta[paths] = before.add_(size) if noises is None else before + size
            now[paths] = end
        everyone = torch.arange(len(theta), device=theta.device)
        return self._flow(theta, everyone, now, torch.full_like(now, self.dt), noises)[0]

    def _flow(
        self, y: Tensor, paths: Tensor, begin: Tensor, end: Tensor, noises: list[JumpNoise] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the flow of some paths and b at its end, and note what their jumps have on average meanwhile."""
        if noises is not None:
            mean = self.dynamics.compensator(y)
            if mean is not None:
                noises.append(JumpNoise(paths, (begin + end) / (2 * self.dt), y, None, -(end - begin) * mean, None))
        return self.dynamics.flow(y, end - begin)
