"""Independent draws of the factors of a step's defects, or the exact factors where they have a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.comparison.differences import Field
from smesolve.problem.problem import Problem

__all__ = ["Draws"]


class Draws:
    """Independent draws of the drift and of the noise, for some paths at one step."""

    def __init__(self, problem: Problem, paths: int, generator: np.random.Generator) -> None:
        self._problem, self._paths, self._generator = problem, paths, generator

    def _draw(self) -> Any:
        uniforms = self._generator.random((self._paths, self._problem.draw_dim))
        return self._problem.draw(torch.from_numpy(uniforms))

    def _gradient(self) -> Field:
        draw = self._draw()
        return lambda theta: self._problem.gradient(theta, draw)

    def drift(self) -> Field:
        """Return F, whose mean is b: of a fresh draw, or b itself where it is known."""
        if self._problem.has_closed_form:
            return lambda theta: -self._problem.mean_gradient(theta)
        gradient = self._gradient()
        return lambda theta: -gradient(theta)

    def noise(self) -> Field:
        """Return z, of mean zero and covariance Sigma."""
        if self._problem.has_closed_form:
            normals = torch.from_numpy(self._generator.standard_normal((self._paths, self._problem.noise_dim)))
            normals = normals.to(dtype=self._problem.dtype, device=self._problem.device)
            return lambda theta: self._problem.noise_product(theta, normals)
        first, second = self._gradient(), self._gradient()
        return lambda theta: (first(theta) - second(theta)) / 2**0.5

    def displacement(self) -> Field:
        """Return y, of mean U b and covariance U Sigma, U uniform in [0, 1]: a part of a step, in units of lr."""
        share = torch.from_numpy(self._generator.random((self._paths, 1)))
        share = share.to(dtype=self._problem.dtype, device=self._problem.device)
        if self._problem.has_closed_form:
            drift, noise = self.drift(), self.noise()
            return lambda theta: share * drift(theta) + share.sqrt() * noise(theta)
        first, second = self.drift(), self.drift()
        weight = (share + (2 * share - share.square()).sqrt()) / 2  # weight^2 + (share - weight)^2 = share
        return lambda theta: weight * first(theta) + (share - weight) * second(theta)

    def second_term(self) -> Field:
        """Return F2, whose mean is E F2: of a fresh draw, or E F2 itself where it is known."""
        if self._problem.has_closed_form:
            return self._problem.mean_second_term
        draw = self._draw()
        return lambda theta: self._problem.step_terms(theta, draw, 2)[1]

    def step_terms(self, theta: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return two vectors whose product has mean Cov(F, F2), and F3 of a fresh draw."""
        first, other = (self._problem.step_terms(theta, self._draw(), 3) for _ in range(2))
        return [(a - b) / 2**0.5 for a, b in zip(first[:2], other[:2], strict=True)], first[2]

    def third_cumulant(self, theta: Tensor) -> list[Tensor]:
        """Return the vectors whose product has mean kappa_3: (g - E g) thrice where the mean is known."""
        first = self._gradient()(theta)
        if self._problem.has_closed_form:
            return [first - self._problem.mean_gradient(theta)]
        return [first - self._gradient()(theta) for _ in range(3)]
