"""A wide network that learns a narrow teacher network: data, problem, and settings of the experiments.

The teacher averages k neurons,

    y(x) = 1/k sum_j sigma(v_j . x - 1/3),                                                                           (1)

with v_j the first of the unit vectors e_1, ..., e_d, -e_1, ..., -e_d. With one input and two neurons this is the target
1/2 sigma(-x - 1/3) + 1/2 sigma(x - 1/3) of Zhang, Xu (TPAMI 2024, arXiv 2207.05952). Several inputs are standard
normals; a single one lies on an even grid from -2 to 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.settings import ACTIVATIONS, StudySettings, check_choices
from smesolve.landscape.training import ADAM_TRAININGS, initial_points
from smesolve.problem.activations import ACTIVATIONS as FUNCTIONS
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.validation import check_choice, check_integer

__all__ = ["TeacherSettings", "described_student", "student_problem", "teacher_data"]

THRESHOLD = 1 / 3
"""Threshold of the neurons of the teacher."""

REACH = 2.0
"""A single input lies between -2 and 2."""


@dataclass(frozen=True)
class TeacherSettings(StudySettings):
    """Settings of a network that learns from a teacher, by Adam.

    Args:
        in_features: inputs d of teacher and network.
        teacher: neurons of the teacher, at most 2 d.
        width: neurons of the network, which has biases.
        activation: tanh, relu, gelu, sigmoid, softplus or identity, of both.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        trainings: R_S, R_S + R_1, dropout.
        lr: learning rate of Adam.
        steps: steps of training.
        runs: number of independent runs with different initial points; intervals are over the runs.
        scale: factor of the initial parameters; 1 is the network's own initialisation.
        seed: root seed of data, initial points and masks.
        threads: threads of torch. Default: unchanged.
    """

    in_features: int = 1
    teacher: int = 2
    width: int = 100
    activation: str = "tanh"
    keep_prob: float = 0.9
    trainings: list[str] = field(default_factory=lambda: list(ADAM_TRAININGS))
    lr: float = 1e-3
    steps: int = 10000
    runs: int = 4
    scale: float = 1.0
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("in_features", "teacher", "width"):
            check_integer(name, getattr(self, name))
        if self.teacher > 2 * self.in_features:
            raise SmesolveError(
                f"teacher={self.teacher} is more than 2 in_features = {2 * self.in_features}, the directions of its "
                "neurons; lower it."
            )
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choices("trainings", self.trainings, ADAM_TRAININGS)


def teacher_data(settings: TeacherSettings, samples: int) -> tuple[Tensor, Tensor]:
    """Return x (n, d) and y (n, 1) of (1)."""
    d = settings.in_features
    if d == 1:
        x = torch.linspace(-REACH, REACH, samples, dtype=torch.float64)[:, None]
    else:
        generator = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(samples,)))
        x = torch.from_numpy(generator.standard_normal((samples, d)))
    directions = torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])[: settings.teacher]
    y = FUNCTIONS[settings.activation](x @ directions.T - THRESHOLD).mean(1, keepdim=True)  # (1)
    return x, y


def described_student(settings: TeacherSettings) -> str:
    """Return teacher, network and training in words."""
    s = settings
    return (
        f"teacher with {s.teacher} neurons, {s.in_features} inputs. Network {s.in_features}-{s.width}-1, "
        f"{s.activation} with biases, squared error, keep_prob {s.keep_prob:g}. Adam, lr {s.lr:g}, {s.steps} steps, "
        f"initial parameters times {s.scale:g}, {s.runs} runs."
    )


def student_problem(settings: TeacherSettings, samples: int) -> tuple[DropoutProblem, Tensor]:
    """Return dropout on the network with a number of samples, and the initial points (B, D) of the runs."""
    x, y = teacher_data(settings, samples)
    network = TwoLayerNetwork(settings.in_features, settings.width, 1, settings.activation, bias=True)
    problem = DropoutProblem(network, x, y, keep_prob=settings.keep_prob)
    return problem, initial_points(problem, settings.runs, settings.seed, settings.scale)
