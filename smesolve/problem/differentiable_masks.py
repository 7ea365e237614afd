"""Dropout with a keep_prob through which derivatives go: of the mean gradient and its noise, not of masks.

Mean gradient and noise are smooth functions of keep_prob, by v = (1 - keep_prob)/keep_prob and s = 1/keep_prob - 2. A
mask is not: it is 0 or 1/keep_prob, so that a path of the iteration has no derivative that says how its mean changes.
"""

from __future__ import annotations

from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.differentiable_scalar import checked_scalar, value_of
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.problem import Problem
from smesolve.validation import check_number

__all__ = ["with_differentiable_keep_prob"]


class _DifferentiableMasks(BernoulliMasks):
    """`BernoulliMasks` whose moments carry derivatives."""

    def __init__(self, keep_prob: Tensor) -> None:
        super().__init__(value_of(keep_prob))
        self.keep_prob = keep_prob

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Refuse to draw masks."""
        raise SmesolveError(
            "keep_prob is a tensor, but masks have no derivative in it; take a scheme that integrates drift and noise, "
            "such as 'small_noise_rk4', or give the keep_prob of the problem as a number."
        )

    def __repr__(self) -> str:
        return f"BernoulliMasks(keep_prob={value_of(self.keep_prob)!r})"


def with_differentiable_keep_prob(problem: Problem, keep_prob: Tensor | float) -> DropoutProblem:
    """Return the same network and data under dropout with a keep_prob through which derivatives go.

    Its compiled kernels are left out, as no derivative goes through them.

    Args:
        problem: a `DropoutProblem` with the masks of dropout.
        keep_prob: a number in (0, 1], or a tensor of shape () in (0, 1): at 1 the noise, of size sqrt(1 - keep_prob),
            has no derivative.

    Raises:
        SmesolveError: another problem, other masks, or another value.
    """
    if not isinstance(problem, DropoutProblem):
        raise SmesolveError(
            f"keep_prob is an argument for a DropoutProblem, got {type(problem).__name__}; leave it out here."
        )
    if not isinstance(keep_prob, Tensor):
        return problem.with_keep_prob(keep_prob)
    remedy = "at 1 there is no noise, and its size has no derivative"
    checked = checked_scalar("keep_prob", keep_prob, lambda name, value: check_number(name, value, 0, 1, remedy=remedy))
    other = problem.with_keep_prob(value_of(checked)).without_kernels()
    other.law = _DifferentiableMasks(checked)
    return other
