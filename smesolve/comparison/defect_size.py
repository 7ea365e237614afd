"""The size of a study by defects: memory and work, and the refusal of studies that are too large."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.study_size import WORKING_ARRAYS, check_memory, processes
from smesolve.sampling.ensemble import check_block_steps

__all__ = ["DefectSize"]


@dataclass(frozen=True)
class DefectSize:
    """Memory and work of a study by defects, known before anything is computed."""

    design: StudyDesign
    paths: int
    """Paths at each learning rate in the first round."""
    workers: int | None = None
    """Processes that share the blocks, or None for the calling process."""

    @cached_property
    def samplers(self) -> list[DefectSampler]:
        """One for each learning rate."""
        return [DefectSampler.of(self.design, lr) for lr in self.design.lrs]

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.samplers[0].block_size

    def check(self, max_memory: float | None) -> None:
        """Refuse a study that takes more steps than a process can run, or more memory than allowed.

        Args:
            max_memory: bytes. Default: this machine's memory.

        Raises:
            SmesolveError: the study is too large; the message holds the numbers.
        """
        check_block_steps(
            f"paths={self.paths} at lr={min(self.design.lrs):g}",
            sum(sampler.steps * self._blocks(sampler) for sampler in self.samplers),
            self.workers,
            "take fewer paths, a larger lr, or fewer learning rates",
        )
        remedy = "orders=[1], or " if 2 in self.design.orders else ""
        check_memory(self.memory, processes(self.workers), max_memory, "defects take", f"take {remedy}fewer workers")

    @property
    def memory(self) -> float:
        """Largest memory of one process in bytes: all states of a block, and the arrays of their gradients."""
        return max(
            8.0 * sampler.block_size * sampler.states * (WORKING_ARRAYS * sampler.problem.floats_per_path)
            for sampler in self.samplers
        )

    @property
    def step_memory(self) -> float:
        """Memory of one step in bytes, which is `memory`: it does not depend on the number of steps."""
        return self.memory

    @property
    def memory_beyond_steps(self) -> float:
        """Memory beyond the steps in bytes, which is 0."""
        return 0.0

    @property
    def work(self) -> float:
        """Work of the first round at all learning rates, in gradients."""
        return sum(sampler.cost * self._blocks(sampler) for sampler in self.samplers)

    def _blocks(self, sampler: DefectSampler) -> int:
        return -(-self.paths // sampler.block_size)
