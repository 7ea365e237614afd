"""Training by Adam from many initial points, with the gradient of dropout or of a deterministic loss in its place.

Adam works entry by entry, so that one optimiser on the parameters (B, D) of all runs equals one optimiser per run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.landscape.operators import dropout_problem
from smesolve.landscape.training import check_steps, loss_gradient
from smesolve.problem.dropout import DropoutProblem
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import check_choice, check_parameters, check_positive, check_seed

__all__ = ["ADAM_TRAININGS", "train_by_adam"]

ADAM_TRAININGS = ("R_S", "R_S + R_1", "dropout")
"""Names of the trainings."""


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
