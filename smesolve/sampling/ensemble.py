"""Ensembles of independent paths, run in blocks of fixed size.

A block is the unit of computing and of randomness. It is always run whole, also where fewer of its paths are
asked for: matrix products round differently for different batch sizes, so only blocks of one size give path b
the same value, bit for bit, whatever the number of paths or the way they are spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import joblib
import numpy as np
import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.machine_memory import free_memory
from smesolve.sampling.parallel import Task, run_blocks

__all__ = [
    "DivergenceWarning",
    "Process",
    "Step",
    "block_of",
    "check_block_steps",
    "collect_paths",
    "divergence_told_otherwise",
    "fitting_block_size",
    "in_lists",
    "warn_of_divergence",
]


LIST = 2**12
"""Blocks that are handed to the workers at once."""

MOST_BLOCK_STEPS = 2**29
"""Steps of blocks that a process can take: half a day at 100 microseconds each, which few problems reach."""


class DivergenceWarning(RuntimeWarning):
    """Some paths left the finite numbers."""


_told_otherwise: ContextVar[bool] = ContextVar("_told_otherwise", default=False)
"""Whether the caller says itself what diverged. Filters of the `warnings` module hold for all threads at once."""


@contextmanager
def divergence_told_otherwise() -> Iterator[None]:
    """No `DivergenceWarning` from this thread: a row of a table says it."""
    before = _told_otherwise.set(True)
    try:
        yield
    finally:
        _told_otherwise.reset(before)


def warn_of_divergence(message: str) -> None:
    """A `DivergenceWarning` at the call of the public function, unless a table tells it."""
    if not _told_otherwise.get():
        warnings.warn(message, DivergenceWarning, stacklevel=4)


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


def in_lists(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Tasks in lists of at most `LIST` of them: memory does not grow with the number of blocks."""
    tasks = iter(tasks)
    while some := list(islice(tasks, LIST)):
        yield some


def check_block_steps(what: str, steps: float, workers: int | None, remedy: str) -> None:
    """Refuse more steps of blocks than a process can take.

    Raises:
        SmesolveError: with `what` takes so many, their number, and the remedy.
    """
    processes = joblib.effective_n_jobs(workers)
    if steps > MOST_BLOCK_STEPS * processes:
        raise SmesolveError(
            f"{what} would take {steps:.2g} steps of a block of paths, but {MOST_BLOCK_STEPS:.2g} for each process, "
            f"some days, are the most, and there {'is one' if processes == 1 else f'are {processes}'}; {remedy}."
        )


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
    paths: int
    """Of the ensemble; those of the last block beyond it are run and not kept."""

    @torch.no_grad()
    def __call__(self, block: int) -> np.ndarray:
        """(T, at most B, D)."""
        theta, kept = block_of(self.process, self.theta0), 0
        count = min(self.process.block_size, self.paths - block * self.process.block_size)
        states = theta.new_empty(len(self.saved), count, theta.shape[-1])
        for step in range(self.first, self.saved[-1] + 1):
            if step == self.saved[kept]:
                states[kept] = theta[:count]
                kept += 1
            if step < self.saved[-1]:
                theta = self.process.advance(theta, block, step)
        return states.cpu().numpy()


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
        max_memory: bytes that the paths may take; more are refused. Default: what paths and one block more take must
            fit into the memory of this machine that is free.
        first: step number at which they start.

    Raises:
        SmesolveError: the paths do not fit into max_memory.

    Warns:
        DivergenceWarning: with the number of paths that are not finite at the last saved step.
    """
    size = len(saved) * paths * theta0.numel() * theta0.element_size()
    limit = free_memory() if max_memory is None else max_memory
    one_block = size / paths * min(paths, process.block_size)
    if size + (one_block if max_memory is None else 0) > limit:
        whose = f"the free memory of {limit:.3g}" if max_memory is None else f"max_memory={limit:g}"
        raise SmesolveError(
            f"{whose} bytes is less than the {size} bytes that {paths} paths of {theta0.numel()} parameters at "
            f"{len(saved)} steps take; save fewer steps, or take fewer paths"
            f"{'' if max_memory is None else ', or raise it'}."
        )
    blocks = -(-paths // process.block_size)
    check_block_steps(
        f"{paths} paths of {saved[-1]} steps", blocks * (saved[-1] - first), workers, "take fewer paths, or fewer steps"
    )
    result, diverged = theta0.new_empty(len(saved), paths, theta0.shape[-1]), 0
    whole = _WholePaths(process, theta0, saved, first, paths)
    for tasks in in_lists(("paths", block) for block in range(blocks)):
        for position, states in run_blocks({"paths": whole}, tasks, workers):
            begin = tasks[position][1] * process.block_size
            result[:, begin : begin + states.shape[1]] = torch.from_numpy(states)
            diverged += int((~np.isfinite(states[-1]).all(-1)).sum())  # not of all at once, which takes as much again
    if diverged:
        warn_of_divergence(
            f"{diverged} of {paths} paths diverged before step {saved[-1]}: a mean over them means nothing; lower lr."
        )
    return result
