"""Ensembles of independent paths, run in blocks of fixed size.

A block is the unit of computing and of randomness. It is always run whole, also where fewer of its paths are
asked for: matrix products round differently for different batch sizes, so only blocks of one size give path b
the same value, bit for bit, whatever the number of paths or the way they are spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from smesolve.arguments import machine_memory
from smesolve.sampling.parallel import run_blocks

__all__ = ["DivergenceWarning", "Process", "Step", "block_of", "collect_paths", "fitting_block_size"]


class DivergenceWarning(RuntimeWarning):
    """Some paths left the finite numbers."""


@dataclass(frozen=True)
class Step:
    """One step theta_j -> theta_{j+1} of a block, split for control variates; all tensors (B, D)."""

    state: Tensor
    """theta_{j+1}."""
    prediction: Tensor
    """A noise-free step from theta_j: known before the noise of this step."""
    increment: Tensor
    """The noise of this step: mean zero given theta_j."""
    noise: Tensor | None
    """What the increment is made of (B, M): mean zero, covariance I, independent of theta_j. The increment is
    -lr C noise (iteration) or sqrt(lr dt) C noise (equation), at theta_j or nearby; None where it is not
    linear in such."""


class Process(Protocol):
    """A Markov chain on (B, D) tensors: the discrete iteration, or an SDE under a scheme."""

    @property
    def block_size(self) -> int:
        """Paths in a block."""

    @property
    def noise_time(self) -> float:
        """Where in a step the noise enters: 0 at its begin, 1 at its end."""

    @property
    def autonomous(self) -> bool:
        """Every step has the same law, given its start."""

    @property
    def antithetic(self) -> bool:
        """Path b + B/2 of a block has the noise of path b with the other sign; otherwise all paths are independent."""

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """theta_{step+1} of one block (B, D) from theta_step; the noise is keyed by (block, step)."""
        ...

    def advance_split(self, theta: Tensor, block: int, step: int) -> Any:
        """The same step, up to rounding, with what its control variate takes: a `Step`, or a `SampledStep`."""
        ...

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """State and prediction (B, D) of the step from theta (B, D) with zero noise, differentiable."""
        ...


def fitting_block_size(numbers_per_path: int) -> int:
    """The power of two in [8, 1024] whose block of paths holds at most 2^18 numbers (2 MiB: a level-2 cache).

    It depends on the problem alone, never on the machine, so that results are the same everywhere.
    """
    size = max(1, 2**18 // numbers_per_path)
    return min(max(8, 1 << (size.bit_length() - 1)), 1024)


def block_of(process: Process, theta0: Tensor) -> Tensor:
    """theta0 (D,) as the start of every path of a block (B, D)."""
    return theta0.expand(process.block_size, -1)


@dataclass(frozen=True)
class _WholePaths:
    """Blocks of whole paths at the saved step numbers."""

    process: Process
    theta0: Tensor
    saved: Sequence[int]
    first: int

    @torch.no_grad()
    def __call__(self, block: int) -> np.ndarray:
        """(T, B, D)."""
        theta = block_of(self.process, self.theta0)
        states: list[Tensor] = []
        for step in range(self.first, self.saved[-1] + 1):
            if step == self.saved[len(states)]:
                states.append(theta)
            if step < self.saved[-1]:
                theta = self.process.advance(theta, block, step)
        return torch.stack(states).cpu().numpy()


def collect_paths(
    process: Process,
    theta0: Tensor,
    paths: int,
    saved: Sequence[int],
    workers: int | None = None,
    max_memory: float | None = None,
    first: int = 0,
) -> Tensor:
    """Whole paths (T, paths, D) at the saved step numbers, strictly increasing. Memory T paths D numbers.

    Args:
        process: what moves the paths.
        theta0: (D,), their start.
        paths: their number.
        saved: step numbers.
        workers: processes, as for `run_blocks`.
        max_memory: bytes that the paths may take; more are refused.
        first: step number at which they start.

    Raises:
        ValueError: the paths do not fit into max_memory.

    Warns:
        DivergenceWarning: with the number of paths that are not finite at the last saved step.
    """
    size = len(saved) * paths * theta0.numel() * theta0.element_size()
    if size > (machine_memory() if max_memory is None else max_memory):
        limit = "this machine's memory" if max_memory is None else f"max_memory={max_memory:g} bytes"
        raise ValueError(
            f"{limit} is less than the {size} bytes that {paths} paths of {theta0.numel()} parameters at {len(saved)} "
            f"steps take; save fewer steps, or take fewer paths{'' if max_memory is None else ', or raise it'}."
        )
    result = theta0.new_empty(len(saved), paths, theta0.shape[-1])
    whole = _WholePaths(process, theta0, saved, first)
    tasks = [("paths", block) for block in range(-(-paths // process.block_size))]
    for block, states in run_blocks({"paths": whole}, tasks, workers):
        begin = block * process.block_size
        end = min(begin + process.block_size, paths)
        result[:, begin:end] = torch.from_numpy(states[:, : end - begin])
    diverged = int((~result[-1].isfinite().all(-1)).sum())
    if diverged:
        warnings.warn(
            f"{diverged} of {paths} paths diverged before step {saved[-1]}: a mean over them means nothing; lower lr.",
            DivergenceWarning,
            stacklevel=3,
        )
    return result
