"""Training runs from many initial points, with dropout or an ablation of it.

Dropout changes gradient descent on R_S in two ways: it changes the mean gradient from grad R_S to grad L_S (drift), and
it adds the noise grad R_S(.; eta) - grad L_S of covariance Sigma. Either can be left out, with the same masks:

    gradient descent   grad R_S                                      (1)
    drift only         grad L_S                                      (2)
    noise only         grad R_S + grad R_S(.; eta) - grad L_S        (3)
    dropout            grad R_S(.; eta)                              (4)

Adam works entry by entry, so that one optimiser on the parameters (B, D) of all runs equals one optimiser per run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.landscape.operators import dropout_problem
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.call_numbers import check_place
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.problem import Problem  # noqa: F401 (type hints of the inherited constructor name it)
from smesolve.sampling.ensemble import Process
from smesolve.sampling.progress import Progress
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import (
    MOST_ENTRIES,
    check_choice,
    check_integer,
    check_list,
    check_optional,
    check_parameters,
    check_positive,
    check_problem,
    check_seed,
    check_tensor,
)

__all__ = [
    "ABLATIONS",
    "ADAM_TRAININGS",
    "AblatedIteration",
    "check_steps",
    "checkpoints",
    "initial_points",
    "loss_gradient",
    "train",
    "train_by_adam",
]

ABLATIONS = {
    "gradient descent": (False, False),
    "drift only": (True, False),
    "noise only": (False, True),
    "dropout": (True, True),
}
"""Name -> (drift of L_S instead of R_S, noise of the masks)."""

DIVERGED = 1e6
"""Growth of the norm of the parameters from which on a run counts as diverged."""


@dataclass(frozen=True)
class AblatedIteration(DropoutIteration):
    """The iteration of dropout with or without its drift and its noise, with the draws of `DropoutIteration`.

    With ablation="dropout" this is the iteration of any problem, with any noise; other ablations need a
    `DropoutProblem`.

    Args:
        problem: problem that is trained.
        lr: learning rate.
        seed: root seed of the masks.
        ablation: a name in `ABLATIONS`.
        runs: number of runs, if they are fewer than the paths of a block. Default: whole blocks.
    """

    ablation: str = "dropout"
    runs: int | None = None

    def __post_init__(self) -> None:
        check_problem("problem", self.problem)
        object.__setattr__(self, "lr", check_positive("lr", self.lr))
        object.__setattr__(self, "seed", check_seed("seed", self.seed))
        if check_choice("ablation", self.ablation, ABLATIONS) != "dropout":
            dropout_problem(self.problem)
        object.__setattr__(self, "runs", check_optional("runs", self.runs, check_integer))

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        whole = self.problem.block_size
        return whole if self.runs is None else min(self.runs, whole)

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Take one step of every path of a block. Cost per path: up to three gradients."""
        check_place(block, step)
        drift, noise = ABLATIONS[self.ablation]
        problem = self.problem
        if (drift and noise) or not isinstance(problem, DropoutProblem):
            return super().advance(theta, block, step)  # (4)
        if noise:
            at = problem.linearize(theta)
            gradient = at.gradient(self._draw(problem, block, step))
            direction = loss_gradient(problem, theta) + gradient - at.mean_gradient()  # (3)
        else:
            direction = problem.mean_gradient(theta) if drift else loss_gradient(problem, theta)  # (2), (1)
        return theta - self.lr * direction


def loss_gradient(problem: DropoutProblem, theta: Tensor) -> Tensor:
    """Return grad R_S, the gradient with no neuron masked."""
    return problem.gradient(theta, theta.new_ones(problem.mask_shape))


@entry_point
def initial_points(problem: DropoutProblem, count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Return initial parameters (B, D) of the seeds seed, ..., seed + count - 1, times `scale`.

    Raises:
        SmesolveError: bad arguments, or more parameters than the machine's memory holds.
    """
    check_numbers_fit(f"count={count}", check_integer("count", count) * dropout_problem(problem).dim, "take fewer")
    check_seed("seed", seed)
    check_positive("scale", scale)
    return scale * torch.stack([problem.initial(seed + k) for k in range(count)])


@entry_point
@torch.no_grad()
def train(process: Process, starts: Tensor, saved: Sequence[int]) -> Tensor:
    """Train from several starts, each with independent noise.

    Args:
        process: an `AblatedIteration`, or the `Integration` of an SDE.
        starts: initial parameters (B, D).
        saved: increasing step numbers.

    Returns:
        The parameters at the saved steps, (T, B, D). Cost: whole blocks of `process.block_size` runs are trained.

    Raises:
        SmesolveError: bad arguments, or a run diverges: its parameters are not finite, or a million times as large as
            at the start.
    """
    saved = check_steps("saved", saved)
    if isinstance(process, type) or not callable(getattr(process, "advance", None)):
        raise invalid("process", "be a process, such as an AblatedIteration", process)
    problem = getattr(process, "problem", None)
    if problem is None:  # the integration of an SDE, which any states may start
        starts = check_tensor("starts", starts, "D", ("B",))
    else:
        starts = check_parameters("starts", starts, problem, ("B",))
    check_numbers_fit(f"{len(saved)} saved steps", len(saved) * starts.numel(), "save fewer")
    result = starts.new_empty(len(saved), *starts.shape)
    firsts = range(0, len(starts), process.block_size)
    with Progress(False, float(len(firsts) * process.block_size * saved[-1])) as bar:
        for block, first in enumerate(firsts):
            part = starts[first : first + process.block_size]
            theta = torch.cat([part, part[-1:].expand(process.block_size - len(part), -1)])
            row = 0
            for step in range(saved[-1] + 1):
                if step == saved[row]:
                    result[row, first : first + len(part)] = theta[: len(part)]
                    row += 1
                if step < saved[-1]:
                    theta = process.advance(theta, block, step)
                    bar.done(process.block_size)
    diverged = int((~(result[-1].norm(dim=-1) < DIVERGED * (1 + starts.norm(dim=-1)))).sum())
    if diverged:
        raise SmesolveError(
            f"lr is too large: {diverged} of {len(starts)} runs diverged in {saved[-1]} steps; lower it."
        )
    return result


@entry_point
def checkpoints(steps: int, count: int) -> list[int]:
    """Return 0 and then up to `count` - 1 step numbers that are evenly spaced in their logarithm and end at `steps`.

    `count` lies between 2 and 1000; numbers that round to the same step are returned once.
    """
    check_integer("steps", steps)
    check_integer("count", count, 2, MOST_ENTRIES)
    spaced = np.geomspace(1, steps, count - 1).round().astype(int).tolist() if count > 2 else [steps]
    return sorted({0, *spaced})


def check_steps(name: str, steps: Sequence[int]) -> list[int]:
    """Return increasing step numbers of at least 0."""
    numbers = check_list(name, steps, lambda entry, step: check_integer(entry, step, 0))
    if any(second <= first for first, second in pairwise(numbers)):
        raise invalid(name, "hold increasing step numbers", steps)
    return numbers


ADAM_TRAININGS = ("R_S", "R_S + R_1", "dropout")
"""Names of the trainings by Adam."""


@entry_point
@torch.no_grad()
def train_by_adam(
    problem: DropoutProblem, starts: Tensor, lr: float, saved: Sequence[int], training: str = "dropout", seed: int = 0
) -> Tensor:
    """Train by torch.optim.Adam with its default betas and eps.

    Args:
        problem: dropout problem.
        starts: initial parameters (B, D).
        lr: learning rate of Adam.
        saved: increasing step numbers.
        training: "R_S", "R_S + R_1" (the mean gradient of dropout) or "dropout", a fresh mask for each step and run.
        seed: root seed of the masks.

    Returns:
        The parameters at the saved steps, (T, B, D). Cost: one gradient per step and run.
    """
    starts = check_parameters("starts", starts, dropout_problem(problem), ("B",))
    check_positive("lr", lr)
    saved = check_steps("saved", saved)
    check_choice("training", training, ADAM_TRAININGS)
    check_seed("seed", seed)
    check_numbers_fit(f"{len(saved)} saved steps", len(saved) * starts.numel(), "save fewer")
    theta = starts.clone()
    optimiser = torch.optim.Adam([theta], lr=lr)
    states = {}
    for step in range(saved[-1] + 1):
        if step in saved:
            states[step] = theta.clone()
        if step == saved[-1]:
            break
        if training == "dropout":
            draw = problem.draw(keyed_uniforms((len(starts), problem.draw_dim), seed, 0, step))
            theta.grad = problem.gradient(theta, draw)
        else:
            theta.grad = loss_gradient(problem, theta) if training == "R_S" else problem.mean_gradient(theta)
        optimiser.step()
    return torch.stack([states[step] for step in saved])
