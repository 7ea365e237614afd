"""Training by dropout, by penalised losses in its place, and by dropout with a penalty subtracted.

With R_1 and R_2 = lr/4 E|grad R_S(.; eta)|^2 of `smesolve.landscape.penalties` and a fresh mask eta per step, the
direction of a step is

    R_S             grad R_S                                                                                         (1)
    R_S + R_1       grad L_S                                                                                         (2)
    R_S + R_2       grad R_S + lr/2 H_eta g_eta                                                                      (3)
    dropout         g_eta                                                                                            (4)
    dropout - R_1   g_eta - grad R_1                                                                                 (5)
    dropout - R_2   g_eta - lr/2 H_eta g_eta,                                                                        (6)

where g_eta and H_eta are gradient and Hessian of R_S(.; eta). As grad R_2 = lr/2 E H_eta g_eta, one mask per step gives
an unbiased estimate of it; the noise that this adds to (3) is of size lr^2 per step. All masks are those of
`DropoutIteration`.

Descents (1) and (2) of small lr follow the gradient flows of R_S and R_S + R_1, which `train_by_flow` computes from
fewer gradients by far.

Source: Zhang, Xu (TPAMI 2024, arXiv 2207.05952), figures 2 and 12.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.landscape.operators import dropout_problem
from smesolve.landscape.training import loss_gradient
from smesolve.problem.call_numbers import check_place
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem  # noqa: F401 (type hints of the inherited constructor name it)
from smesolve.solver.stabilised_ode import solve_dissipative
from smesolve.validation import (
    check_choice,
    check_integer,
    check_parameters,
    check_positive,
    check_seed,
    check_tolerance,
)

__all__ = ["PENALISED_FLOWS", "PENALISED_TRAININGS", "PenalisedIteration", "train_by_flow"]

PENALISED_TRAININGS = {
    "R_S": (False, 0, 0),
    "R_S + R_1": (False, 1, 0),
    "R_S + R_2": (False, 0, 1),
    "dropout": (True, 0, 0),
    "dropout - R_1": (True, -1, 0),
    "dropout - R_2": (True, 0, -1),
}
"""Name -> (the gradient of dropout or that of R_S, factor of R_1, factor of R_2)."""

PENALISED_FLOWS = {"flow of R_S": "R_S", "flow of R_S + R_1": "R_S + R_1"}
"""Gradient flow -> the training that follows it as lr goes to 0."""

FLOW_TOLERANCE = 3e-3
"""Error of a step of a flow, relative to the parameters, that changes the losses at its end by less than 1%."""


@dataclass(frozen=True)
class PenalisedIteration(DropoutIteration):
    """One of the trainings (1) to (6), for `train`.

    Args:
        problem: a `DropoutProblem`.
        lr: learning rate, also in R_2.
        seed: root seed of the masks.
        training: a name in `PENALISED_TRAININGS`.
        runs: number of runs, all of them in one block.
    """

    training: str = "dropout"
    runs: int = 1

    def __post_init__(self) -> None:
        dropout_problem(self.problem)
        object.__setattr__(self, "lr", check_positive("lr", self.lr))
        object.__setattr__(self, "seed", check_seed("seed", self.seed))
        check_choice("training", self.training, PENALISED_TRAININGS)
        object.__setattr__(self, "runs", check_integer("runs", self.runs))

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.runs

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Take one step of every run. Cost: one gradient; two more for "dropout - R_1", about three for R_2."""
        check_place(block, step)
        problem = self.problem
        assert isinstance(problem, DropoutProblem)
        masked, first, second = PENALISED_TRAININGS[self.training]
        draw = self._draw(problem, block, step)
        if second:
            gradient = problem.gradient(theta, draw)
            _, product = forward_derivative(lambda point: problem.gradient(point, draw), theta, gradient)
            base = gradient if masked else loss_gradient(problem, theta)
            direction = base + second * self.lr / 2 * product  # (3), (6)
        elif masked:
            direction = problem.gradient(theta, draw)  # (4)
            if first:
                direction = direction - problem.mean_gradient(theta) + loss_gradient(problem, theta)  # (5)
        else:
            direction = problem.mean_gradient(theta) if first else loss_gradient(problem, theta)  # (2), (1)
        return theta - self.lr * direction


@entry_point
@torch.no_grad()
def train_by_flow(
    problem: DropoutProblem, starts: Tensor, training: str, horizon: float, tolerance: float = FLOW_TOLERANCE
) -> Tensor:
    """Follow the gradient flow of R_S or of R_S + R_1 from several starts.

    Args:
        problem: a `DropoutProblem`.
        starts: initial parameters (B, D).
        training: a name in `PENALISED_FLOWS`.
        horizon: time at the end, lr times the number of steps of a descent.
        tolerance: error of a step, relative to the parameters.

    Returns:
        The parameters at the horizon, (B, D). Cost: the number of gradients per run grows like the square root of the
        horizon, where a descent takes horizon/lr of them.

    Raises:
        SmesolveError: bad arguments.
        ArithmeticError: the solver does not reach the horizon.
    """
    starts = check_parameters("starts", starts, dropout_problem(problem), ("B",))
    penalised = PENALISED_FLOWS[check_choice("training", training, PENALISED_FLOWS)] != "R_S"
    check_positive("horizon", horizon)
    check_tolerance("tolerance", tolerance)

    def velocity(theta: Tensor) -> Tensor:
        return -(problem.mean_gradient(theta) if penalised else loss_gradient(problem, theta))

    return solve_dissipative(velocity, starts, horizon, tolerance)
