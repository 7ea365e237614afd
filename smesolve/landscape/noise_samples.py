"""Samples of the noise of training, and the directions in which they vary.

Two data sets (Zhang, Zhou, Xu, arXiv 2111.01022; Zhang, Li, Luo, Xu, ICLR 2024, first version) come from dropout:

    random trajectory   the parameters of N consecutive dropout steps late in training
    random gradients    N dropout gradients at one theta, which do not drift, so that any phase of training will do
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.landscape.operators import dropout_problem
from smesolve.landscape.training import AblatedIteration, train
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.problem import Problem
from smesolve.validation import (
    LONGEST_RANGE,
    check_integer,
    check_parameters,
    check_positive,
    check_seed,
    check_tensor,
)

__all__ = ["principal_directions", "random_gradients", "random_noise", "random_trajectories"]


@entry_point
def random_noise(problem: Problem, theta: Tensor, draws: int, seed: int = 0) -> Tensor:
    """Return independent draws (N, D), N = `draws`, of mean zero with the covariance of the noise at theta (D,).

    Cost: N noise products, and memory N D.
    """
    theta = _checked_point(problem, theta, draws, seed)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    blocks = []
    for first in range(0, draws, problem.block_size):
        normals = generator.standard_normal((min(problem.block_size, draws - first), problem.noise_dim))
        blocks.append(problem.noise_product(theta, torch.from_numpy(normals).to(theta)))
    return torch.cat(blocks)


@entry_point
def random_gradients(problem: Problem, theta: Tensor, draws: int, seed: int = 0) -> Tensor:
    """Return noisy gradients (N, D) at theta (D,) for N = `draws` independent draws.

    Cost: N gradients, and memory N D.
    """
    theta = _checked_point(problem, theta, draws, seed)
    size = problem.block_size
    blocks = [problem.gradient(theta, problem.sample(size, seed, block)) for block in range(-(-draws // size))]
    # The gradient of a problem without noise does not depend on the draws, and has no dimension for them.
    return torch.cat([block.expand(size, -1) for block in blocks])[:draws]


@entry_point
def random_trajectories(problem: DropoutProblem, starts: Tensor, lr: float, steps: int, seed: int = 0) -> Tensor:
    """Return the parameters (steps, B, D) after each of `steps` dropout steps from starts (B, D).

    Cost: one gradient per step and run.

    Raises:
        SmesolveError: bad arguments, results that do not fit into the machine's memory, or a run that diverges.
    """
    starts = check_parameters("starts", starts, dropout_problem(problem), ("B",))
    check_positive("lr", lr)
    check_integer("steps", steps, most=LONGEST_RANGE)
    check_seed("seed", seed)
    return train(AblatedIteration(problem, lr, seed, runs=len(starts)), starts, range(1, steps + 1))


@entry_point
def principal_directions(data: Tensor, count: int) -> tuple[np.ndarray, Tensor]:
    """Return variances T (k,), decreasing, and principal directions (k, D) of data (N, D).

    k is `count` or less: directions in which the data vary only by rounding are left out. Cost: N D min(N, D), memory
    N D.

    Raises:
        SmesolveError: bad arguments, or data that do not vary.
    """
    data = check_tensor("data", data, "D", ("N",))
    check_integer("count", count)
    centred = data - data.mean(0)
    _, spreads, directions = torch.linalg.svd(centred, full_matrices=False)
    rounding = max(data.shape) * torch.finfo(data.dtype).eps * float(data.abs().max())
    kept = int((spreads[:count] > rounding).sum())
    if not kept:
        raise SmesolveError(f"data must vary, got {len(data)} points that are equal up to rounding: there is no noise.")
    return (spreads[:kept].square() / (len(data) - 1)).cpu().numpy(), directions[:kept]


def _checked_point(problem: Problem, theta: Tensor, draws: int, seed: int) -> Tensor:
    """Return theta (D,), after a check of the arguments that draws at one point have in common."""
    check_integer("draws", draws)
    check_seed("seed", seed)
    theta = check_parameters("theta", theta, problem)
    check_numbers_fit(f"draws={draws}", draws * len(theta), "take fewer")
    return theta
