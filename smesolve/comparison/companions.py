"""The companion runs, whose means are those of the equation of order 1 up to the error of order 2."""

from __future__ import annotations

from torch import Tensor

from smesolve.comparison.defect_draws import Draws
from smesolve.comparison.defect_plan import DefectPlan
from smesolve.comparison.differences import DrawnField
from smesolve.comparison.instant import Instant
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.sampling.randomness import keyed_generator

__all__ = ["Companions"]

SHORT = 1 / 8
"""Half-width of the differences in eq. (5) in units of a step, along the drift and in time."""


class Companions:
    """Both companions of the runs of a block; formulas are those of `smesolve.comparison.defects`.

    Args:
        plan: of the sampler whose errors of order 1 are measured.
        block: of paths.
    """

    def __init__(self, plan: DefectPlan, block: int) -> None:
        self._plan, self._block = plan, block
        self.first: Tensor = plan.theta0.expand(plan.block_size, -1)
        """The states of the companion (B, D)."""
        self.second: Tensor = self.first
        """Those of the second one, moved by derivatives; only where the plan is paired (B, D)."""
        nothing = plan.theta0.new_zeros(())
        self._ending: tuple[Tensor, Tensor] = (nothing, nothing)
        """The moves of both at this node that belong to the piece that ends here."""
        self._moves: tuple[Tensor, Tensor] = (nothing, nothing)
        """The moves of both at this node, those of the piece that begins here included."""
        self._before = nothing
        """The move of the first at the node before, of weight 1."""
        self._rest = nothing
        """Eq. (7) of this step."""

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Both companions as they end at this node (B, D)."""
        return self.first + self._ending[0], self.second + self._ending[1]

    def meet(self, step: int) -> None:
        """Compute what moves the companions at the node at a step, and eq. (7) of the step that begins there.

        At a break of a schedule a part of it is that of the piece before, and a part that of the piece after.
        """
        plan = self._plan
        left_limits = [True] if step == plan.steps else [True, False] if step in plan.breaks else [False]
        here = plan.problem, step * plan.lr, SHORT * plan.lr
        sides = [Instant.of(*here, left_limit) for left_limit in left_limits]
        end, begin = plan.node_weights[step]
        generator = keyed_generator(plan.seed, "defects", self._block, step)
        draws = Draws(sides[-1].here, plan.block_size, generator)
        outer = draws.drift()
        if plan.kinked:
            displacement = draws.displacement()
            moves = [self._moves_at_kinks(outer, displacement, at) for at in sides]
            middle = self.first
        else:
            inner = draws.drift()
            middle = self.first + (end + begin) / 2 * self._before  # eq. (5a)
            moves = [(move, move) for move in (self._move(middle, outer, inner, at) for at in sides)]
        if not plan.problem.linear_step:
            F2, weight = draws.second_term(), plan.spacing * plan.lr**2
            for number, at in enumerate(sides):
                first, second = moves[number]
                first = first - weight * F2(middle, at.here)
                moves[number] = first, second - weight * F2(self.second, at.here) if plan.paired else first
        (ending, ending_second), (beginning, beginning_second) = moves[0], moves[-1]
        self._ending = end * ending, end * ending_second
        self._moves = self._ending[0] + begin * beginning, self._ending[1] + begin * beginning_second
        self._before = beginning

    def move(self) -> None:
        """Move the companions at this node."""
        self.first = self.first + self._moves[0]
        if self._plan.paired:
            self.second = self.second + self._moves[1]

    def advance(self, problem: Problem, draw: object) -> None:
        """Take a step with the draw of the run."""
        lr = self._plan.lr
        self.first = problem.step(self.first, draw, lr) + self._rest
        if self._plan.paired:
            self.second = problem.step(self.second, draw, lr)

    def _move(self, state: Tensor, outer: DrawnField, inner: DrawnField, at: Instant) -> Tensor:
        """Return q times eq. (5) at the states of the companion (B, D)."""
        plan = self._plan
        step_of = at.offset * inner(state, at.here)
        both = outer(state + step_of, at.later) - outer(state - step_of, at.earlier)
        return plan.spacing * plan.lr**2 / (4 * at.offset) * both

    def _moves_at_kinks(self, outer: DrawnField, displacement: DrawnField, at: Instant) -> tuple[Tensor, Tensor]:
        """Return the moves of both companions at a node, and keep eq. (7), each (B, D)."""
        plan = self._plan
        lr = plan.lr

        def field(theta: Tensor) -> Tensor:
            return outer(theta, at.here)

        def in_time(state: Tensor) -> Tensor | float:
            return lr**2 / 2 * at.slope(outer)(state) if at.moves else 0.0

        y = displacement(self.first, at.here)
        value, slope = forward_derivative(field, self.first, y)
        move = lr**2 * slope
        self._rest = lr * (field(self.first + lr * y) - value) - move
        second = move
        if plan.paired:
            second = lr**2 * forward_derivative(field, self.second, displacement(self.second, at.here))[1] + in_time(
                self.second
            )
        return move + in_time(self.first), second
