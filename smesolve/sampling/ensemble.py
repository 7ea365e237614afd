"""Ensembles of independent paths, run in blocks of fixed size.

A block is the unit of computation and of randomness. It is always run whole, even if fewer of its paths are needed:
matrix products round differently for different batch sizes, so only blocks of one size give path b the same value, bit
for bit, for any number of paths and processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import joblib
import numpy as np
import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.machine_memory import free_memory
from smesolve.sampling.parallel import Task, run_blocks
from smesolve.sampling.progress import Progress

__all__ = [
    "LARGEST_BLOCK",
    "Chain",
    "DivergenceWarning",
    "Process",
    "SplitStep",
    "Step",
    "block_of",
    "check_block_steps",
    "collect_paths",
    "fitting_block_size",
    "holding_block_size",
    "in_lists",
    "warn_of_divergence",
    "without_divergence_warnings",
]


SMALLEST_BLOCK, LARGEST_BLOCK = 8, 1024
"""Paths in a block, at least and at most; both are powers of two."""

BLOCK_FLOATS = 2**18
"""Floats of a block's working arrays: 2 MiB, a level-2 cache."""

LIST = 2**12
"""Largest number of blocks that are handed to the workers at once."""

MOST_BLOCK_STEPS = 2**29
"""Largest number of steps of blocks for one process: 15 hours at 100 microseconds each, which few problems reach."""


class DivergenceWarning(RuntimeWarning):
    """Some paths diverged: their parameters are no longer finite."""


_silenced: ContextVar[bool] = ContextVar("_silenced", default=False)
"""Whether the caller reports divergence itself. Filters of the `warnings` module would apply to all threads."""


@contextmanager
def without_divergence_warnings() -> Iterator[None]:
    """A context in which this thread gives no `DivergenceWarning`, because a table reports the divergence."""
    before = _silenced.set(True)
    try:
        yield
    finally:
        _silenced.reset(before)


def warn_of_divergence(message: str, stacklevel: int) -> None:
    """Warn that paths diverged, unless a table reports it. `stacklevel` is as for `warnings.warn`."""
    if not _silenced.get():
        warnings.warn(message, DivergenceWarning, stacklevel=1 + stacklevel)


class SplitStep(Protocol):
    """One step of a block, split for control variates."""

    @property
    def state(self) -> Tensor:
        """The states after the step, (B, D)."""


@dataclass(frozen=True)
class Step:
    """One step theta_j -> theta_{j+1} of a block, split for control variates; all tensors (B, D)."""

    state: Tensor
    """theta_{j+1}."""
    prediction: Tensor
    """A noise-free step from theta_j, known before the noise of this step."""
    increment: Tensor
    """The noise of this step, of mean zero given theta_j."""
    noise: Tensor | None
    """Noise (B, M) with mean zero and covariance I, independent of theta_j, of which the increment is made: it is
    -lr C noise (iteration) or sqrt(lr dt) C noise (equation), with C at theta_j or nearby. None if the increment is not
    linear in such noise."""


class Chain(Protocol):
    """A Markov chain on (B, D) tensors: the discrete iteration, or an SDE under a scheme."""

    @property
    def block_size(self) -> int:
        """Number of paths in a block."""

    @property
    def in_threads(self) -> bool:
        """Whether blocks may run in threads of one process, as for `run_blocks`."""

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return theta_{step+1} of one block (B, D), given theta_step; the noise is keyed by (block, step)."""
        ...


class Process(Chain, Protocol):
    """A chain with the parts that control variates need."""

    @property
    def noise_time(self) -> float:
        """Where in a step the noise enters: 0 at its beginning, 1 at its end."""

    @property
    def autonomous(self) -> bool:
        """Whether every step has the same law, given its start."""

    @property
    def antithetic(self) -> bool:
        """Whether path b + B/2 of a block has the noise of path b with the other sign. Else all are independent."""

    def advance_split(self, theta: Tensor, block: int, step: int) -> SplitStep:
        """Return the same step, up to rounding, with the parts that the control variates of this process take."""
        ...

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return state and prediction (B, D) of the step from theta (B, D) with zero noise, differentiable."""
        ...

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return vectors (..., D) times the Jacobians of that state at theta (..., D), or None if only automatic
        differentiation computes them."""
        ...


def fitting_block_size(floats_per_path: int, floats: int = BLOCK_FLOATS) -> int:
    """Return the largest power of two of paths, from 8 to 1024, that have at most so many floats.

    Eight paths may have more. The size depends on the problem only, not on the machine, so results are the same
    everywhere.
    """
    size = max(1, floats // floats_per_path)
    return min(max(SMALLEST_BLOCK, 1 << (size.bit_length() - 1)), LARGEST_BLOCK)


def holding_block_size(paths: int) -> int:
    """Return the smallest power of two in [8, 1024] that holds so many paths, or 1024."""
    return min(max(SMALLEST_BLOCK, 1 << (paths - 1).bit_length()), LARGEST_BLOCK)


def in_lists(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Yield tasks in lists of at most `LIST` of them, so that memory does not grow with the number of blocks."""
    tasks = iter(tasks)
    while some := list(islice(tasks, LIST)):
        yield some


def check_block_steps(what: str, steps: float, workers: int | None, remedy: str) -> None:
    """Refuse more steps of blocks than the processes can run; `what` names the work that takes them in the message."""
    processes = joblib.effective_n_jobs(workers)
    most = MOST_BLOCK_STEPS * processes
    if steps > most:
        raise SmesolveError(
            f"{what} would take {steps:.2g} steps of a block of paths, but {most:.2g}, many hours, are the "
            f"most for {'one process' if processes == 1 else f'{processes} processes'}; {remedy}."
        )


def block_of(process: Chain, theta0: Tensor) -> Tensor:
    """Return theta0 (D,) as the start of every path of a block (B, D)."""
    return theta0.expand(process.block_size, -1)


@dataclass(frozen=True)
class _WholePaths:
    """Blocks of whole paths at the saved step numbers."""

    process: Chain
    theta0: Tensor
    saved: Sequence[int]
    first: int
    paths: int
    """Number of paths of the ensemble. Further paths of the last block are run, but not kept."""

    @torch.no_grad()
    def __call__(self, block: int) -> np.ndarray:
        """Return the states of a block (T, at most B, D)."""
        theta, kept = block_of(self.process, self.theta0), 0
        count = min(self.process.block_size, self.paths - block * self.process.block_size)
        states = theta.new_empty(len(self.saved), count, theta.shape[-1])
        for step in range(self.first, self.saved[-1] + 1):
            if step == self.saved[kept]:
                states[kept] = theta[:count]
                kept += 1
            if step < self.saved[-1]:
                theta = self.process.advance(theta, block, step)
        return np.asarray(states.cpu().numpy())


def collect_paths(
    process: Chain,
    theta0: Tensor,
    paths: int,
    saved: Sequence[int],
    workers: int | None = None,
    max_memory: float | None = None,
    first: int = 0,
) -> Tensor:
    """Run whole paths from theta0 (D,) and return them at the saved step numbers, (T, paths, D), which is their memory.

    `first` is the step number at which the paths start, and `workers` is as for `run_blocks`. More bytes than
    `max_memory` are refused. Default: paths and one block must fit the free memory of this machine.

    Raises:
        SmesolveError: the paths do not fit the memory, or take too many steps.

    Warns:
        DivergenceWarning: with the number of paths that are not finite at the last saved step.
    """
    path = len(saved) * theta0.numel() * theta0.element_size()
    size = path * (paths + (min(paths, process.block_size) if max_memory is None else 0))
    limit = free_memory() if max_memory is None else max_memory
    if size > limit:
        whose = f"the free memory of {limit:.3g}" if max_memory is None else f"max_memory={limit:g}"
        block = " and a block of them" if max_memory is None else ""
        raise SmesolveError(
            f"{whose} bytes is less than the {size} bytes that {paths} paths{block} of {theta0.numel()} parameters at "
            f"{len(saved)} steps take; save fewer steps, or take fewer paths"
            f"{'' if max_memory is None else ', or raise it'}."
        )
    blocks = -(-paths // process.block_size)
    check_block_steps(
        f"{paths} paths of {saved[-1]} steps", blocks * (saved[-1] - first), workers, "take fewer paths, or fewer steps"
    )
    result, diverged = theta0.new_empty(len(saved), paths, theta0.shape[-1]), 0
    whole = _WholePaths(process, theta0, saved, first, paths)
    steps = float((saved[-1] - first) * process.block_size)
    with Progress(False, blocks * steps) as bar:
        for tasks in in_lists(("paths", block) for block in range(blocks)):
            for position, states in run_blocks({"paths": whole}, tasks, workers, process.in_threads):
                begin = tasks[position][1] * process.block_size
                result[:, begin : begin + states.shape[1]] = torch.from_numpy(states)
                diverged += int((~np.isfinite(states[-1]).all(-1)).sum())  # of all at once takes as much again
                bar.done(steps)
    if diverged:
        warn_of_divergence(
            f"{diverged} of {paths} paths diverged before step {saved[-1]}: a mean over them means nothing; lower lr.",
            stacklevel=5,  # the user's call, past the decorators of the public function
        )
    return result
