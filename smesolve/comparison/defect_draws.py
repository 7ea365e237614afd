"""Independent draws of the factors of a step's defects, or the exact factors where they have a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.differences import DrawnField
from smesolve.problem.problem import Problem

__all__ = ["Draws"]


class Draws:
    """Independent draws of the drift and of the noise of a problem at one step, for a number A of paths."""

    def __init__(self, problem: Problem, paths: int, generator: np.random.Generator) -> None:
        self._problem, self._paths, self._generator = problem, paths, generator

    def _draw(self) -> Any:
        uniforms = self._generator.random((self._paths, self._problem.draw_dim))
        return self._problem.draw(torch.from_numpy(uniforms))

    def drift(self) -> DrawnField:
        """Return F, whose mean is b: of a fresh draw, or b itself where it is known."""
        if self._problem.has_closed_form:
            return lambda theta, problem=self._problem: -problem.mean_gradient(theta)
        draw = self._draw()
        return lambda theta, problem=self._problem: -problem.gradient(theta, draw)

    def noise(self) -> DrawnField:
        """Return z, of mean zero and covariance Sigma."""
        if self._problem.has_closed_form:
            normals = torch.from_numpy(self._generator.standard_normal((self._paths, self._problem.noise_dim)))
            normals = normals.to(dtype=self._problem.dtype, device=self._problem.device)
            return lambda theta, problem=self._problem: problem.noise_product(theta, normals)
        first, second = self._draw(), self._draw()
        return lambda theta, problem=self._problem: (
            (problem.gradient(theta, first) - problem.gradient(theta, second)) / 2**0.5
        )

    def displacement(self) -> DrawnField:
        """Return y, of mean U b and covariance U Sigma, U uniform in [0, 1]: a part of a step, in units of lr."""
        share = torch.from_numpy(self._generator.random((self._paths, 1)))
        share = share.to(dtype=self._problem.dtype, device=self._problem.device)
        if self._problem.has_closed_form:
            drift, noise = self.drift(), self.noise()
            return lambda theta, problem=self._problem: (
                share * drift(theta, problem) + share.sqrt() * noise(theta, problem)
            )
        first, second = self.drift(), self.drift()
        weight = (share + (2 * share - share.square()).sqrt()) / 2  # weight^2 + (share - weight)^2 = share
        return lambda theta, problem=self._problem: (
            weight * first(theta, problem) + (share - weight) * second(theta, problem)
        )

    def second_term(self) -> DrawnField:
        """Return F2, whose mean is E F2: of a fresh draw, or E F2 itself where it is known."""
        if self._problem.has_closed_form:
            return lambda theta, problem=self._problem: problem.mean_second_term(theta)
        draw = self._draw()
        return lambda theta, problem=self._problem: problem.step_terms(theta, draw, 2)[1]

    def step_terms(self, theta: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return two vectors whose product has mean Cov(F, F2), and F3 of a fresh draw."""
        first, other = (self._problem.step_terms(theta, self._draw(), 3) for _ in range(2))
        return [(a - b) / 2**0.5 for a, b in zip(first[:2], other[:2], strict=True)], first[2]

    def third_cumulant(self, theta: Tensor) -> list[Tensor]:
        """Return the vectors whose product has mean kappa_3: (g - E g) thrice where the mean is known."""
        first = self._problem.gradient(theta, self._draw())
        if self._problem.has_closed_form:
            return [first - self._problem.mean_gradient(theta)]
        return [first - self._problem.gradient(theta, self._draw()) for _ in range(3)]
