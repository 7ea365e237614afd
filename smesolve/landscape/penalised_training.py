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

Source: Zhang, Xu (TPAMI 2024, arXiv 2207.05952), figures 2 and 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from smesolve.landscape.operators import dropout_problem
from smesolve.landscape.training import loss_gradient
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem  # noqa: F401 (type hints of the inherited constructor name it)
from smesolve.validation import check_choice, check_integer, check_positive, check_seed

__all__ = ["PENALISED_TRAININGS", "PenalisedIteration"]

PENALISED_TRAININGS = {
    "R_S": (False, 0, 0),
    "R_S + R_1": (False, 1, 0),
    "R_S + R_2": (False, 0, 1),
    "dropout": (True, 0, 0),
    "dropout - R_1": (True, -1, 0),
    "dropout - R_2": (True, 0, -1),
}
"""Name -> (the gradient of dropout or that of R_S, factor of R_1, factor of R_2)."""


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
        check_positive("lr", self.lr)
        check_seed("seed", self.seed)
        check_choice("training", self.training, PENALISED_TRAININGS)
        check_integer("runs", self.runs)

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.runs

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Take one step of every run. Cost: one gradient; two more for "dropout - R_1", about three for R_2."""
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
