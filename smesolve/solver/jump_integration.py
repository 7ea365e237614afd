"""Integration of an equation with jumps for many paths: from jump to jump, each path at its own times.

Grid steps of length dt serve the times of observation and name the random numbers, and cause no error. In each step, a
path has a Poisson number of jumps with mean dt/lr, at uniform times, each with a draw of its own. Times and draws are
keyed by (seed, block, cell), where a cell is dt or a part of it, and within a cell by the number of the jump. A path is
therefore the same, bit for bit, for any number of paths, processes and interruptions; with the same cells it has the
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
"""Largest mean number of jumps of a path in a step that `in_longer_steps` makes of several steps."""

MOST_UNIFORMS = 2**22
"""Largest mean number of uniforms for all jumps of a block in such a step."""


@dataclass(frozen=True)
class JumpNoise:
    """Noise inside a step of some paths of a block: of a jump, or of the compensator between jumps."""

    paths: Tensor
    """Positions of these paths in the block (A,)."""
    time: Tensor
    """Time of the noise as a fraction of the step (A, 1)."""
    state: Tensor
    """The states before it (A, D)."""
    draw: Any
    """The draws of a jump (A, ...), or None for a compensator."""
    increment: Tensor
    """The noise (A, D). If the mean gradient is known, its sum over the step has mean zero given the past."""
    coordinates: Tensor | None
    """chi (A, M), functions of the draw with mean zero, covariance I and increment = -lr C chi, or None."""


@dataclass(frozen=True)
class JumpStep:
    """One step of a block with jumps."""

    state: Tensor
    """The states after the step, (B, D)."""
    noises: list[JumpNoise]


class JumpIntegration:
    """An equation with jumps as a process on blocks of paths.

    Args:
        problem: the problem whose draws the jumps take.
        dynamics: the flow between jumps, and the jumps.
        lr: learning rate. Jumps come at rate 1/lr.
        dt: length of a step.
        seed: root seed.
        nested: number of cells in a step. Two integrations with equal dt/nested see the same jumps.
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
        """Return the same paths in longer steps, and the saved step numbers in units of these.

        The end of every step interrupts a flow, which costs four gradients per path, so that longer steps are cheaper.
        They have at most `MOST_JUMPS` jumps on average, and end at all saved times. The jumps do not change, because
        the cells do not.
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
        """Return one step of every path of a block. Cost on average: dt/lr jumps and dt/lr + 1 flows per path."""
        return self._run(theta, block, step, None)

    def advance_split(self, theta: Tensor, block: int, step: int) -> JumpStep:
        """Return the step with the noises in it."""
        noises: list[JumpNoise] = []
        return JumpStep(self._run(theta, block, step, noises), noises)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the step without noise, twice, because it is its own prediction."""
        state = self.dynamics.noise_free(theta, self.dt)
        return state, state

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return None: automatic differentiation knows the Jacobians."""
        return None

    def clocks(self, block: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the increasing times of the jumps in a step (J, B), and their uniforms (J, B, U).

        J is the largest number of jumps of a path. Paths with fewer jumps have infinite times in the remaining rows.
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
        """Return the states after a step, and append its noises to the list, if there is one."""
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
        """Return the flow of some paths and b at its end, and note the compensator of their jumps in the meantime."""
        if noises is not None:
            mean = self.dynamics.compensator(y)
            if mean is not None:
                noises.append(JumpNoise(paths, (begin + end) / (2 * self.dt), y, None, -(end - begin) * mean, None))
        return self.dynamics.flow(y, end - begin)
