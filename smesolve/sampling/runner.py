"""Execution of a study in blocks: missing ones are run and kept in a journal, and results come in the order of tasks.

Sums over blocks are formed in that order, so they are the same, bit for bit, for any number of workers and
interruptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from smesolve.sampling.journal import Journal
from smesolve.sampling.parallel import Task, run_blocks
from smesolve.sampling.progress import Progress

__all__ = ["Runner", "Work"]

Arrays = dict[str, np.ndarray]


class Work(Protocol):
    """The computation of the blocks of one kind."""

    @property
    def cost(self) -> float:
        """Work per block, in the same unit for all kinds."""

    @property
    def in_threads(self) -> bool:
        """Whether blocks may run in threads, as for `run_blocks`."""

    def run(self, block: int) -> Arrays:
        """Return the result of a block, which depends on its number only."""
        ...


class Runner:
    """Runs blocks for a study.

    Args:
        workers: processes or threads, as for `run_blocks`. Default: only this one.
        journal: journal in which results are kept and looked up. Default: results are not kept.
        progress: bar that counts the work. Default: no bar is shown.
    """

    def __init__(
        self, workers: int | None = None, journal: Journal | None = None, progress: Progress | None = None
    ) -> None:
        self.workers, self.journal = workers, journal
        self.progress = progress or Progress(shown=False, work=0)

    def results(self, work: Mapping[str, Work], tasks: Sequence[Task]) -> Iterator[Arrays]:
        """Yield the results of the tasks in their order. Each is in the journal before it is yielded.

        The names of `work` are the same in every run of a study and never reused.
        """
        keys = [f"{name}, block {block}" for name, block in tasks]
        journal: Any = {} if self.journal is None else self.journal
        missing = [k for k, key in enumerate(keys) if key not in journal]
        functions = {name: part.run for name, part in work.items()}
        in_threads = all(part.in_threads for part in work.values())
        done = run_blocks(functions, [tasks[k] for k in missing], self.workers, in_threads)
        absent = set(missing)
        ahead: dict[int, Arrays] = {}
        for k, (name, _) in enumerate(tasks):
            if k not in absent:
                self.progress.done(work[name].cost, before=True)
                yield journal.get(keys[k])
                continue
            while k not in ahead:
                position, arrays = next(done)
                at = missing[position]
                if self.journal is not None:
                    self.journal.put(keys[at], arrays)
                self.progress.done(work[tasks[at][0]].cost)
                ahead[at] = arrays
            yield ahead.pop(k)
