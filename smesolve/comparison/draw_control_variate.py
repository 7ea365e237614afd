"""Control variates made from the draws, for problems whose mean gradient has no closed form.

Along the noise-free path thetabar_j of the reference gradient, with adjoints lam_j, let w_j be the coefficients of
<lam, g(thetabar_j; draw)> to first order in the draw. A step y -> y - sum_r c_r g(y; draw_r), with weights c_r known
before its draws, adds to the control variate

    - sum_r c_r w_j . draw_r,                                                                              (1)

which has mean zero whatever thetabar, lam and w are. It contains the part of the first-order Taylor term that is linear
in the draws. Products of masks, and the errors of lam and w at theta_j, remain. For a problem that does not expand its
gradient in the draws w = 0, and the control variate is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.problem.iteration import SampledStep
from smesolve.problem.problem import Problem

__all__ = ["DrawControlVariate"]


@dataclass(frozen=True)
class DrawControlVariate:
    """The control variate of one process for the last target (saved step) and all observables.

    The other targets have none, because U coefficients for every step and target take too much memory.
    """

    problem: Problem
    coefficients: list[list[Any]]
    """w_j by step and observable."""

    count = 1
    """Control variates for each target and observable."""

    @classmethod
    def of(cls, problem: Problem, path: NoiseFreePath) -> DrawControlVariate:
        """Expand the gradient along a path.

        Cost: four gradients of one path per step and observable. Memory: U floats per step and observable.
        """
        steps = zip(path.states[:-1], path.adjoints[1:], strict=True)
        return cls(
            problem,
            [[problem.noise_coefficients(state, adjoint) for adjoint in adjoints[-1]] for state, adjoints in steps],
        )

    def add(self, totals: Tensor, step: int, taken: SampledStep) -> None:
        """Add the terms of step j to the running totals (1, B, T, O), in place.

        Cost per path: U operations per observable and draw.
        """
        for column, coefficients in enumerate(self.coefficients[step]):
            for weight, draw in taken.terms:
                totals[0, :, -1, column] -= weight[:, 0] * self.problem.noise_along(coefficients, draw)  # (1)
