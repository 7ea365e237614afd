"""Base of experiments that train one network several times, from independent initial points, for each keep_prob."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from smesolve.experiments.shared.cells import Ensembles, training_cost
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings, ProblemSettings
from smesolve.landscape.training import initial_points
from smesolve.problem.dropout import DropoutProblem

__all__ = ["TrainingRuns", "TrainingRunsSettings"]

S = TypeVar("S", bound="TrainingRunsSettings")


@dataclass(frozen=True)
class TrainingRunsSettings(ProblemSettings):
    """Settings of training runs.

    Args:
        network: the network; its seed is the seed of the first run, the other runs have the following seeds.
        lr: learning rate, also in R_2.
        steps: steps of training.
        runs: number of independent runs; intervals are over the runs.
        scale: factor of the initial parameters; 1 is the network's own initialisation.
        seed: root seed of the masks.
        dtype: float64 or float32.
        device: device of torch, such as cpu or cuda.
        threads: threads of torch. Default: unchanged.
        keep_probs: probabilities that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
    """

    data: DataSettings = field(default_factory=lambda: DataSettings("mnist", test=0.8))
    network: NetworkSettings = field(default_factory=lambda: NetworkSettings(50, "relu"))
    lr: float = 0.05
    steps: int = 2000
    runs: int = 4
    scale: float = 1.0
    seed: int = 0
    dtype: str = "float64"
    device: str = "cpu"
    threads: int | None = None
    keep_probs: list[float] = field(default_factory=lambda: [0.5, 0.6, 0.7, 0.8, 0.9])


class TrainingRuns(NetworkExperiment[S]):
    """An experiment on training runs from independent initial points."""

    @cached_property
    def starts(self) -> Tensor:
        """The initial points (B, D) of the runs."""
        s = self.settings
        return initial_points(self.dropout_problem, s.runs, s.network.seed, s.scale)

    def cost(self, problem: DropoutProblem, gradients: int) -> list[Ensembles]:
        """Return the cost of the runs with a number of gradients per step, for the dry run."""
        s = self.settings
        return training_cost(problem, self.starts[0], s.lr, s.steps, s.runs * gradients)

    def measured(self) -> str:
        """Return data, network and training in words."""
        s = self.settings
        return (
            f"{super().measured()} lr {s.lr:g}, {s.steps} steps, initial parameters times {s.scale:g}, {s.runs} runs."
        )

    def caveats(self) -> str:
        """Return nothing: no weak order is measured."""
        return ""
