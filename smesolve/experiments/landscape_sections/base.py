"""Settings of the training runs and base class of the sections of the landscape experiment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from smesolve.experiments.shared.cell_store import CellStore
from smesolve.experiments.shared.cells import Cell, Ensembles, training_cost
from smesolve.experiments.shared.section import Section
from smesolve.experiments.shared.settings import ProblemSettings
from smesolve.landscape.training import AblatedIteration, initial_points, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.problem import Problem
from smesolve.validation import check_integer

__all__ = ["LandscapeSection", "TrainingRunSettings", "check_probes"]

Options = TypeVar("Options")

LEAST_PROBES = 12
"""Smallest number of vectors that leaves a sample for the interval of a trace."""


@dataclass(frozen=True)
class TrainingRunSettings(ProblemSettings):
    """Settings of several training runs of one network.

    Args:
        network: the network; its seed is the seed of the first run, the other runs have the following seeds.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lr: learning rate.
        steps: steps of training.
        runs: number of independent runs, each with its own initial point and masks; intervals are over the runs.
        seed: root seed of the masks and of the random vectors.
    """

    keep_prob: float = 0.8
    lr: float = 0.1
    steps: int = 2000
    runs: int = 4
    seed: int = 0


class LandscapeSection(ABC, Generic[Options]):
    """One section of the landscape experiment.

    Args:
        problem: dropout on the network of the settings.
        settings: training runs, and the options of the section under its name.
        store: results of cells on disk. Default: none.
    """

    name: ClassVar[str]
    """Name of the section in `sections`, of its options, of its tables and of its figure."""

    def __init__(self, problem: DropoutProblem, settings: TrainingRunSettings, store: CellStore | None = None) -> None:
        self.problem, self.settings, self.store = problem, settings, store
        self.options: Options = getattr(settings, self.name)

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Return the pieces of work. Their keys begin with the name of the section."""

    @abstractmethod
    def summarise(self, results: list[Any]) -> Section:
        """Return the section from the results of the cells, in their order."""

    @cached_property
    def starts(self) -> Tensor:
        """The initial points (B, D) of the runs."""
        return initial_points(self.problem, self.settings.runs, self.settings.network.seed)

    def iteration(self, ablation: str = "dropout") -> AblatedIteration:
        """Return the training of the settings with dropout, or with an ablation of dropout."""
        s = self.settings
        return AblatedIteration(self.problem, s.lr, s.seed, ablation, s.runs)

    def ensembles(self, problem: Problem | None = None) -> list[Ensembles]:
        """Return the training runs of a cell, for the dry run. Default: runs of the section's problem."""
        s = self.settings
        return training_cost(problem or self.problem, self.starts[0], s.lr, s.steps, s.runs)

    def training(self, process: AblatedIteration, steps: Sequence[int]) -> tuple[Cell, Callable[[], Tensor]]:
        """Return a cell that trains, and a function that returns the states (T, B, D) at the steps.

        The states are read from the store if it has the cell, as in a resumed experiment.
        """
        key = f"{self.name}, training"

        @cache
        def trained() -> Tensor:
            if self.store is not None and key in self.store:
                return torch.from_numpy(self.store.get(key)).to(self.starts)
            return train(process, self.starts, steps)

        return Cell(key, lambda: trained().cpu().numpy(), self.ensembles(process.problem)), trained


def check_probes(name: str, value: Any) -> int:
    """Return a validated number of vectors for traces."""
    return check_integer(name, value, LEAST_PROBES, remedy="fewer leave no sample for an interval")
