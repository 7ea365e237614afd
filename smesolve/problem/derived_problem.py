"""Problems made from another problem."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.problem import Problem

__all__ = ["DerivedProblem", "ScaledProblem"]


class DerivedProblem(Problem):
    """Everything as in `problem`; a subclass says what differs.

    Raises:
        SmesolveError: a problem under a schedule, which would be lost.
    """

    def __init__(self, problem: Problem) -> None:
        if not problem.autonomous:
            raise SmesolveError(
                f"{type(self).__name__} would lose the schedule of its problem, a {type(problem).__name__}; "
                f"schedule it last: ScheduledProblem({type(self).__name__}(...), ...)."
            )
        self.problem: Any = problem
        self.network, self.x, self.y, self.samples = problem.network, problem.x, problem.y, problem.samples
        self.dim, self.dtype, self.device = problem.dim, problem.dtype, problem.device
        self.exact, self.linear_noise = problem.exact, problem.linear_noise
        self.draw_dim, self.noise_dim = problem.draw_dim, problem.noise_dim
        self.numbers_per_path = problem.numbers_per_path

    def draw(self, uniforms: Tensor) -> Any:
        """As `problem`."""
        return self.problem.draw(uniforms)

    @property
    def draw_count(self) -> float:
        """As `problem`."""
        return self.problem.draw_count

    def all_draws(self) -> tuple[Any, Tensor]:
        """As `problem`."""
        return self.problem.all_draws()

    def loss(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.loss(theta)

    def modified_loss(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.modified_loss(theta)

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """As `problem`."""
        return self.problem.gradient(theta, draw)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.mean_gradient(theta)

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.reference_gradient(theta)

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.hessian_product(theta, vector)

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.noise_product(theta, normals)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """As `problem`."""
        return self.problem.noise_factor(theta)

    def noise_functions(self, draw: Any) -> Tensor | None:
        """As `problem`."""
        return self.problem.noise_functions(draw)

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Any:
        """As `problem`."""
        return self.problem.noise_coefficients(theta, direction)

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """As `problem`."""
        return self.problem.noise_along(coefficients, draw)


class ScaledProblem(DerivedProblem):
    """Every gradient is multiplied by `factor`, and so is its noise; losses stay."""

    def __init__(self, problem: Problem, factor: float) -> None:
        super().__init__(problem)
        self.factor = factor

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """factor gradient."""
        return self.factor * self.problem.gradient(theta, draw)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """factor grad L_S."""
        return self.factor * self.problem.mean_gradient(theta)

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """factor times that of `problem`."""
        return self.factor * self.problem.reference_gradient(theta)

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """factor Hess L_S vector."""
        return self.factor * self.problem.hessian_product(theta, vector)

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """factor C normals."""
        return self.factor * self.problem.noise_product(theta, normals)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """factor C."""
        return self.factor * self.problem.noise_factor(theta)

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """factor times that of `problem`."""
        return self.factor * self.problem.noise_along(coefficients, draw)
