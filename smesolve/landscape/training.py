"""Training runs from many initial points, with dropout whole or in halves.

Dropout does two things to gradient descent on R_S: it changes the mean gradient from grad R_S to grad L_S (drift), and
it adds the noise grad R_S(.; eta) - grad L_S, of covariance Sigma. Each half is to be had alone, on the same masks:

    gradient descent   grad R_S
    drift only         grad L_S
    noise only         grad R_S + grad R_S(.; eta) - grad L_S
    dropout            grad R_S(.; eta)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smesolve.arguments import INDEX, checked
from smesolve.errors import SmesolveError
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.masked_problem import MaskedProblem
from smesolve.problem.problem import Problem  # noqa: F401 (the type hints of the inherited constructor name it)
from smesolve.sampling.ensemble import Process

__all__ = ["HALVES", "HalfIteration", "initial_points", "train"]

HALVES = {
    "gradient descent": (False, False),
    "drift only": (True, False),
    "noise only": (False, True),
    "dropout": (True, True),
}
"""Name -> (drift of L_S instead of R_S, noise of the masks)."""

FAR = 1e6
"""Growth of the parameters from which a run has diverged."""


@dataclass(frozen=True)
class HalfIteration(DropoutIteration):
    """Dropout's iteration with or without its drift and its noise; draws are those of `DropoutIteration`.

    With half="dropout" it is the iteration of any problem, whatever its noise.
    """

    half: str = "dropout"
    runs: int | None = None
    """Runs, where they are fewer than a block: only these are computed."""

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        whole = self.problem.block_size
        return whole if self.runs is None else min(self.runs, whole)

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """One step of every path of a block. Cost: up to three gradients a path."""
        problem = self.problem
        drift, noise = HALVES[self.half]
        if drift and noise:
            return super().advance(theta, block, step)
        if noise:
            at = problem.linearize(theta)
            direction = self._plain(theta) + at.gradient(self._draw(problem, block, step)) - at.mean_gradient()
        else:
            direction = problem.mean_gradient(theta) if drift else self._plain(theta)
        return theta - self.lr * direction

    def _plain(self, theta: Tensor) -> Tensor:
        """grad R_S: no neuron masked."""
        problem = self.problem
        assert isinstance(problem, MaskedProblem)  # other halves than "dropout" are for these
        return problem.gradient(theta, theta.new_ones(problem.mask_shape))


@checked
def initial_points(problem: DropoutProblem, count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """(B, D): initial parameters of the seeds seed, ..., seed + count - 1, times `scale`."""
    return scale * torch.stack([problem.initial(seed + k) for k in range(count)])


@checked(saved=INDEX)
@torch.no_grad()
def train(process: Process, starts: Tensor, saved: Sequence[int]) -> Tensor:
    """Runs of an iteration, each from a start of its own with noise of its own.

    Args:
        process: such as a `HalfIteration`, or an SDE's `Integration`.
        starts: (B, D).
        saved: increasing step numbers.

    Returns:
        (T, B, D), the parameters at the saved steps. Cost: whole blocks of `process.block_size` runs are trained.

    Raises:
        SmesolveError: a run diverged: its parameters are not finite or a million times as large as at the start.
    """
    saved = list(saved)
    result = starts.new_empty(len(saved), *starts.shape)
    for block, first in enumerate(range(0, len(starts), process.block_size)):
        part = starts[first : first + process.block_size]
        theta = torch.cat([part, part[-1:].expand(process.block_size - len(part), -1)])
        row = 0
        for step in range(saved[-1] + 1):
            if step == saved[row]:
                result[row, first : first + len(part)] = theta[: len(part)]
                row += 1
            if step < saved[-1]:
                theta = process.advance(theta, block, step)
    diverged = int((~(result[-1].norm(dim=-1) < FAR * (1 + starts.norm(dim=-1)))).sum())
    if diverged:
        raise SmesolveError(
            f"lr is too large: {diverged} of {len(starts)} runs diverged in {saved[-1]} steps; lower it."
        )
    return result
