"""Dropout with a differentiable keep_prob.

Mean gradient and noise are smooth functions of keep_prob, through v = (1 - keep_prob)/keep_prob and
s = 1/keep_prob - 2. A mask is not: it jumps between 0 and 1/keep_prob as keep_prob changes, so the derivative of a path
of the iteration would not be the derivative of its mean.
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
    """`BernoulliMasks` with differentiable moments."""

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
    """Return the same network and data under dropout with a differentiable keep_prob.

    With a tensor, compiled kernels are left out, because they have no derivatives.

    Args:
        problem: a `DropoutProblem` with `BernoulliMasks`.
        keep_prob: a number in (0, 1], or a tensor of shape () in (0, 1): at 1 the noise, of size sqrt(1 - keep_prob),
            has no derivative.

    Raises:
        SmesolveError: the problem is not a `DropoutProblem`, its masks have another law, or keep_prob is out of range.
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
