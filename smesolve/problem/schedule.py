"""Learning rate and keep_prob that change over time.

With lr(t) = lr u(t), t = k lr, the iteration is theta_{k+1} = theta_k - lr u(t_k) gradient(theta_k; draw, keep(t_k)).
Its equations are those of the time-dependent drift b(t, theta) = -u(t) grad L_S(theta; keep(t)),

    order 1:  dTheta = b dt + sqrt(lr) u C dW
    order 2:  dTheta = (b + lr b1) dt + sqrt(lr) u C dW,      b1 = -1/2 (d_t b + (Db) b),

d_t b = -u' grad L_S - u v' grad P with the penalty P = (L_S - R_S)/v, for L_S is affine in the variance v = 1/keep - 1.

A schedule may have breaks, jumps and kinks, between which it is smooth (`Piecewise`). From one break to the next the
equation is that of a smooth schedule, begun anew at the state that was reached: d_t b is the one inside the piece, and
a jump adds no term. The weak order is kept where every jump is a step of the iteration and one of the scheme, and each
step sees its own piece alone: what holds at its end is the limit from the left (`LeftLimit`).

Source: Li, Tai, E (JMLR 20(40), 2019): their order 2 with the clock t as one more coordinate, whose drift is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from smesolve.arguments import KEEP_PROB, NOT_NEGATIVE, POSITIVE, checked
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.derived_problem import DerivedProblem, ScaledProblem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.problem import Problem

__all__ = ["LeftLimit", "Piecewise", "Schedule", "ScheduledProblem", "cosine", "step", "warm_up"]

Schedule = Callable[[Tensor], Tensor]
"""A function of time (0-dimensional tensors), differentiable by `torch.func`; smooth, or a `Piecewise`."""

_within_smooth: ContextVar[bool] = ContextVar("_within_smooth", default=False)
"""Whether a schedule, or a piece of one, is being evaluated that is taken to be smooth."""

CURVATURES = 9
"""Values of v at which the largest eigenvalue is computed."""

LOOKS = 256
"""Times up to a horizon at which schedules are looked at, beside their breaks."""

NEAR = 1e-9
"""Share of a time within which another one is the same: t = k lr is rounded."""


class LeftLimit(float):
    """A time as the end of what comes before it: where a schedule has a break, the piece before it holds."""


class Piecewise:
    """Schedules one after the other: pieces[j] holds from breaks[j - 1] on up to breaks[j].

    Args:
        breaks: increasing positive times.
        pieces: one schedule more than there are breaks, each smooth on its interval with both of its ends.

    Raises:
        SmesolveError: breaks that do not increase from above 0, or another number of pieces.
    """

    @checked(breaks=POSITIVE)
    def __init__(self, breaks: Sequence[float], pieces: Sequence[Schedule]) -> None:
        if any(b <= a for a, b in pairwise([0.0, *breaks])):
            raise SmesolveError(f"breaks must increase from above 0, got {list(breaks)}.")
        if len(pieces) != len(breaks) + 1:
            raise SmesolveError(
                f"pieces must hold {len(breaks) + 1} schedules for {len(breaks)} breaks, got {len(pieces)}."
            )
        self.breaks, self.pieces = tuple(breaks), tuple(pieces)

    def __call__(self, t: Tensor) -> Tensor:
        """The value at t; at a break that of the piece after it.

        Raises:
            SmesolveError: within another schedule of a `ScheduledProblem`, to which its breaks would not be known.
        """
        if _within_smooth.get():
            raise SmesolveError(
                f"a Piecewise with breaks {list(self.breaks)} inside another schedule hides its breaks; make that "
                "schedule a Piecewise itself."
            )
        return self.piece(float(t))(t)

    def piece(self, time: float) -> Schedule:
        """The schedule that holds at a time, or just before it for a `LeftLimit`."""
        if isinstance(time, LeftLimit):
            return self.pieces[sum(time > (1 + NEAR) * end for end in self.breaks)]
        return self.pieces[sum(time >= (1 - NEAR) * end for end in self.breaks)]

    @property
    def jumps(self) -> list[float]:
        """The breaks at which the value changes; at the others its slope does."""
        values = (_value(self, side(end)) for end in self.breaks for side in (LeftLimit, float))
        sides = zip(self.breaks, values, values, strict=True)
        return [end for end, before, after in sides if not math.isclose(before, after)]


@checked(last=NOT_NEGATIVE)
def cosine(horizon: float, last: float = 0.0) -> Schedule:
    """From 1 at t = 0 to `last` at the horizon along half a cosine."""
    return lambda t: last + (1 - last) * (1 + torch.cos(math.pi * t / horizon)) / 2


@checked(duration=POSITIVE, first=NOT_NEGATIVE)
def warm_up(duration: float, first: float = 0.0) -> Schedule:
    """From `first` at t = 0 linearly to 1 at `duration`, then 1."""
    return Piecewise([duration], [lambda t: first + (1 - first) * t / duration, torch.ones_like])


@checked(time=POSITIVE, factor=NOT_NEGATIVE)
def step(time: float, factor: float) -> Schedule:
    """1 before `time`, `factor` from then on."""
    return Piecewise([time], [torch.ones_like, partial(torch.full_like, fill_value=factor)])


class ScheduledProblem(DerivedProblem):
    """A problem whose learning rate and keep_prob follow schedules; `at(t)` is the problem at time t.

    Losses and its other methods are those of the problem that it was made from.

    Args:
        problem: what is trained.
        lr_factor: u(t), by which the learning rate is multiplied; 1 unless given.
        keep_prob: keep(t), for a `DropoutProblem` with dropout masks; constant unless given.

    Raises:
        SmesolveError: a problem that is not `exact`, or one without dropout masks for a schedule of keep_prob.
    """

    autonomous = False

    @checked(keep_prob=None)
    def __init__(self, problem: Problem, lr_factor: Schedule | None = None, keep_prob: Schedule | None = None) -> None:
        if not problem.exact:
            raise SmesolveError(
                "schedules need a problem whose mean gradient is known in closed form, such as DropoutProblem."
            )
        masked = isinstance(problem, DropoutProblem) and isinstance(problem.law, BernoulliMasks)
        if keep_prob is not None and not masked:
            raise SmesolveError(f"a schedule of keep_prob needs a DropoutProblem with keep_prob, got {problem!r}.")
        super().__init__(problem)
        self.lr_factor, self.keep_prob = lr_factor, keep_prob
        if lr_factor is not None:
            NOT_NEGATIVE("lr_factor", _at_start("lr_factor", lr_factor), {})
        if keep_prob is not None:
            KEEP_PROB("keep_prob", _at_start("keep_prob", keep_prob), {})
        self._pieces = [schedule for schedule in (lr_factor, keep_prob) if isinstance(schedule, Piecewise)]

    @property
    def breaks(self) -> Sequence[float]:
        """Those of both schedules."""
        return tuple(sorted({time for schedule in self._pieces for time in schedule.breaks}))

    @property
    def jumps(self) -> Sequence[float]:
        """Those of both schedules."""
        return tuple(sorted({time for schedule in self._pieces for time in schedule.jumps}))

    def at(self, time: float) -> Problem:
        """The problem at t, just before it for a `LeftLimit`: draws with keep(t), gradient and noise times u(t)."""
        problem = self.problem
        if self.keep_prob is not None:
            problem = problem.with_keep_prob(_keep_prob_at(self.keep_prob, time))
        if self.lr_factor is not None:
            problem = ScaledProblem(problem, _lr_factor_at(self.lr_factor, time))
        return problem

    @checked(horizon=NOT_NEGATIVE)
    def stability_limit(self, theta: Tensor, horizon: float = 0.0) -> float:
        """The least of 2 / (u(t) lambda_max(Hess L_S(theta; keep(t)))) over the times t up to the horizon.

        Hess L_S is affine in v = 1/keep - 1, so its largest eigenvalue is convex in v: between `CURVATURES` values of v
        it is interpolated, which can only lower the limit. Cost: one limit without a schedule for each of them.
        """
        breaks = [side(end) for end in self.breaks if end < horizon for side in (LeftLimit, float)]
        times = [*np.linspace(0.0, horizon, LOOKS, endpoint=False), *breaks]
        factors = np.array([1.0 if self.lr_factor is None else _lr_factor_at(self.lr_factor, t) for t in times])
        if self.keep_prob is None:
            rates = factors / self.problem.stability_limit(theta)
        else:
            variances = 1 / np.array([_keep_prob_at(self.keep_prob, t) for t in times]) - 1
            nodes = np.unique(np.linspace(variances.min(), variances.max(), CURVATURES))
            limits = [self.problem.with_keep_prob(1 / (1 + v)).stability_limit(theta) for v in nodes]
            rates = factors * np.interp(variances, nodes, 1 / np.array(limits))
        return float(1 / rates.max()) if rates.max() else math.inf

    def drift_slope(self, time: float, theta: Tensor) -> Tensor:
        """d_t b(t, theta): (..., D). Cost: up to three gradients."""
        factor, factor_slope, slope, problem = 1.0, 0.0, 0.0, self.problem
        if self.lr_factor is not None:
            factor, factor_slope = _value_and_slope(self.lr_factor, time)
        if self.keep_prob is not None:
            keep, keep_slope = _value_and_slope(self.keep_prob, time)
            variance_slope = -keep_slope / keep**2
            # P is the difference between v = 1 and v = 0
            half, whole = problem.with_keep_prob(0.5), problem.with_keep_prob(1.0)
            slope = -factor * variance_slope * (half.mean_gradient(theta) - whole.mean_gradient(theta))
            problem = problem.with_keep_prob(keep)
        return slope - factor_slope * problem.mean_gradient(theta)


def _at_start(name: str, schedule: Schedule) -> float:
    """The value at time 0 of a schedule of the user's."""
    value = call_of_user(name, schedule, torch.zeros((), dtype=torch.float64, device="cpu"))
    if isinstance(value, float):
        raise SmesolveError(f"{name} must map a time to a tensor, got {value}; write {value} + 0 * t.")
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        raise SmesolveError(f"{name} must map a time to a number, both as 0-dimensional tensors, got {shown(value)}.")
    return call_of_user(name, _value_and_slope, schedule, 0.0)[0]  # the slope too: it must have one


def _lr_factor_at(schedule: Schedule, time: float) -> float:
    return NOT_NEGATIVE(f"lr_factor at time {float(time):g}", _value(schedule, time), {})


def _keep_prob_at(schedule: Schedule, time: float) -> float:
    return KEEP_PROB(f"keep_prob at time {float(time):g}", _value(schedule, time), {})


def _value(schedule: Schedule, time: float) -> float:
    """Of the piece that holds at a time, or just before it for a `LeftLimit`.

    Nothing is kept for the next call: what a function of the user's reads may have changed by then.
    """
    with _smooth(schedule, time) as (piece, t):
        return float(piece(t))


def _value_and_slope(schedule: Schedule, time: float) -> tuple[float, float]:
    """Value and derivative of that piece."""
    with _smooth(schedule, time) as (piece, t):
        slope, value = torch.func.grad_and_value(piece)(t)
    return float(value), float(slope)


@contextmanager
def _smooth(schedule: Schedule, time: float) -> Iterator[tuple[Schedule, Tensor]]:
    """The piece that holds, in which no other `Piecewise` may stand, and its argument."""
    outside = _within_smooth.set(True)
    try:
        piece = schedule.piece(time) if isinstance(schedule, Piecewise) else schedule
        yield piece, torch.tensor(float(time), dtype=torch.float64, device="cpu")
    finally:
        _within_smooth.reset(outside)
