"""Learning rate and keep_prob that change over time.

With lr(t) = lr u(t), t = k lr, the iteration is theta_{k+1} = theta_k - lr u(t_k) gradient(theta_k; draw, keep(t_k)).
Its equations are those of the time-dependent drift b(t, theta) = -u(t) grad L_S(theta; keep(t)),

    order 1:  dTheta = b dt + sqrt(lr) u C dW
    order 2:  dTheta = (b + lr b1) dt + sqrt(lr) u C dW,      b1 = -1/2 (d_t b + (Db) b),
    (1)       d_t b = -u' grad L_S - u v' grad P,             P = (L_S - R_S)/v,

as L_S is affine in the variance v = 1/keep - 1: P is the difference of L_S between v = 1 and v = 0. Of an optimiser of
torch u multiplies the learning rate in the update of the parameters, and nothing else, so that F of its step
(`smesolve.problem.training_step`) is affine in u,

    (2)  F(t) = F_0 + u(t) F_1,       d_t b = u' E F_1.

A schedule may have breaks, jumps and kinks, between which it is smooth (`Piecewise`). From one break to the next the
equation is that of a smooth schedule, begun anew at the state that was reached: d_t b is the one inside the piece, and
a jump adds no term. The weak order is kept where every jump is a step of the iteration and one of the scheme, and each
step sees its own piece only: what holds at its end is the limit from the left (`left_limit=True`).

Source: Li, Tai, E (JMLR 20(40), 2019): their order 2 with the clock t as one more coordinate, whose drift is 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.call_numbers import check_call_number
from smesolve.problem.continued_dropout import ContinuedDropout
from smesolve.problem.derived_problem import DerivedProblem, ScaledProblem
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.function_trial import check_derivative
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.problem import Problem
from smesolve.validation import (
    check_callable,
    check_keep_prob,
    check_list,
    check_not_negative,
    check_parameters,
    check_positive,
)

__all__ = ["Piecewise", "Schedule", "ScheduledProblem", "cosine", "step", "warm_up", "warm_up_cosine"]

Smooth = Callable[[Tensor], Tensor]
"""A smooth function of time (0-dimensional tensors), differentiable by `torch.func`."""

CURVATURES = 9
"""Values of v at which the largest eigenvalue is computed."""

SAMPLED_TIMES = 256
"""Times up to a horizon at which schedules are evaluated, beside their breaks."""

TRIED_TIME = 0.37
"""Time at which the slope of a schedule is tried."""

NEAR = 1e-9
"""Share of a time within which another one is the same: t = k lr is rounded."""


class Piecewise:
    """Schedules one after the other: pieces[j] holds from breaks[j - 1] on up to breaks[j].

    Args:
        breaks: increasing positive times.
        pieces: one schedule more than there are breaks, each smooth on its interval with both of its ends.

    Raises:
        SmesolveError: breaks that do not increase from above 0, or another number of pieces.
    """

    @entry_point
    def __init__(self, breaks: Sequence[float], pieces: Sequence[Smooth]) -> None:
        self.breaks = tuple(check_list("breaks", breaks, check_positive))
        self.pieces = tuple(check_list("pieces", pieces, check_callable))
        if any(b <= a for a, b in pairwise([0.0, *self.breaks])):
            raise SmesolveError(f"breaks must increase from above 0, got {list(self.breaks)}; sort them.")
        if len(self.pieces) != len(self.breaks) + 1:
            raise SmesolveError(
                f"pieces must hold {len(self.breaks) + 1} schedules for {len(self.breaks)} breaks, got "
                f"{len(self.pieces)}; give one for each interval."
            )

    def __repr__(self) -> str:
        return f"Piecewise(breaks={list(self.breaks)}, {len(self.pieces)} pieces)"

    def __call__(self, t: Tensor) -> Tensor:
        """Refuse a call: inside another schedule the breaks would be hidden. `value` and `piece` evaluate it.

        Raises:
            SmesolveError: always.
        """
        raise SmesolveError(
            f"a Piecewise with breaks {list(self.breaks)} inside another schedule hides its breaks; make that schedule "
            "a Piecewise itself, or read a single value by .value(t)."
        )

    def value(self, time: float, left_limit: bool = False) -> float:
        """Return the value at a time: at a break that of the piece after it, or, as left limit, of the one before."""
        return _value(self, time, left_limit)

    def piece(self, time: float, left_limit: bool = False) -> Smooth:
        """Return the schedule that holds at a time, or just before it."""
        check_call_number("time", time)
        if left_limit:
            return self.pieces[sum(time > (1 + NEAR) * end for end in self.breaks)]
        return self.pieces[sum(time >= (1 - NEAR) * end for end in self.breaks)]

    @property
    def jumps(self) -> list[float]:
        """The breaks at which the value changes; at the others its slope does."""
        return [end for end in self.breaks if not math.isclose(self.value(end, left_limit=True), self.value(end))]


Schedule = Smooth | Piecewise
"""What a learning rate or keep_prob may follow."""


@entry_point
def cosine(horizon: float, last: float = 0.0) -> Smooth:
    """Return a schedule from 1 at t = 0 to `last` at the horizon along half a cosine."""
    horizon, last = check_positive("horizon", horizon), check_not_negative("last", last)
    return lambda t: last + (1 - last) * (1 + torch.cos(math.pi * t / horizon)) / 2


@entry_point
def warm_up(duration: float, first: float = 0.0) -> Piecewise:
    """Return a schedule from `first` at t = 0 linearly to 1 at `duration`, then 1."""
    duration, first = check_positive("duration", duration), check_not_negative("first", first)
    return Piecewise([duration], [lambda t: first + (1 - first) * t / duration, torch.ones_like])


@entry_point
def warm_up_cosine(duration: float, horizon: float, first: float = 0.0, last: float = 0.0) -> Piecewise:
    """Return a schedule from `first` linearly to 1 at `duration`, then along half a cosine to `last` at the horizon."""
    horizon, falling = check_positive("horizon", horizon), check_not_negative("last", last)
    rising = warm_up(duration, first)
    (end,) = rising.breaks
    if end >= horizon:
        raise SmesolveError(f"duration={end:g} must be before the horizon {horizon:g}; take a shorter warm-up.")
    fall = cosine(horizon - end, falling)
    return Piecewise([end], [rising.pieces[0], lambda t: fall(t - end)])


@entry_point
def step(time: float, factor: float) -> Piecewise:
    """Return a schedule that is 1 before `time` and `factor` from then on."""
    time, factor = check_positive("time", time), check_not_negative("factor", factor)
    return Piecewise([time], [torch.ones_like, partial(torch.full_like, fill_value=factor)])


class ScheduledProblem(DerivedProblem):
    """A problem whose learning rate and keep_prob follow schedules; `at(t)` is the problem at time t.

    Losses and all other methods are those of the problem that it was made from, be it a `Training`, whose learning rate
    is multiplied as torch's schedulers do it (`Training.with_lr_factor`), or epochs, whose batches all have the
    learning rate of the epoch's begin.

    Args:
        problem: what is trained.
        lr_factor: u(t), by which the learning rate is multiplied. Default: 1.
        keep_prob: keep(t), for a `DropoutProblem` with dropout masks. Default: constant.

    Raises:
        SmesolveError: a problem that follows a schedule already, or whose step is one of your own; one without dropout
            masks for a schedule of keep_prob.
    """

    autonomous = False
    any_step = True

    @entry_point
    def __init__(self, problem: Problem, lr_factor: Schedule | None = None, keep_prob: Schedule | None = None) -> None:
        super().__init__(problem)
        self.lr_factor, self.keep_prob = lr_factor, keep_prob
        if lr_factor is not None:
            self._with_factor(problem, check_not_negative("lr_factor", _at_start("lr_factor", lr_factor)))
        self._dropout: DropoutProblem | None = None
        """The problem whose keep_prob changes, if it does."""
        if keep_prob is not None:
            if not (isinstance(problem, DropoutProblem) and isinstance(problem.law, BernoulliMasks)):
                raise SmesolveError(
                    f"keep_prob can follow a schedule in a DropoutProblem with keep_prob only, got {problem!r}; leave "
                    "it out."
                )
            check_keep_prob("keep_prob", _at_start("keep_prob", keep_prob))
            self._dropout = problem
        self._pieces = [schedule for schedule in (lr_factor, keep_prob) if isinstance(schedule, Piecewise)]

    @property
    def breaks(self) -> Sequence[float]:
        """Those of both schedules."""
        return tuple(sorted({time for schedule in self._pieces for time in schedule.breaks}))

    @property
    def jumps(self) -> Sequence[float]:
        """Those of both schedules."""
        return tuple(sorted({time for schedule in self._pieces for time in schedule.jumps}))

    def at(self, time: float, left_limit: bool = False) -> Problem:
        """Return the problem at time t, or just before it: draws with keep(t), gradient and noise times u(t)."""
        factor, problem = self.lr_factor_at(time, left_limit), self.problem
        if self._dropout is not None:
            problem = self._dropout.with_keep_prob(self._keep_prob_at(time, left_limit))
        return problem if self.lr_factor is None else self._with_factor(problem, factor)

    def continued(self, time: float, left_limit: bool, ahead: float) -> Problem:
        """Return the problem at time + ahead, with u and v = 1/keep - 1 continued from the piece that holds at a time.

        They are continued by their Taylor polynomials of second degree, so that no schedule is evaluated outside of its
        piece. u may become negative; so may v, of which L_S is an affine function.
        """
        check_call_number("time", time)
        check_call_number("ahead", ahead)
        problem: Problem = self.problem
        if self._dropout is not None and self.keep_prob is not None:
            keep = _piece(self.keep_prob, time, left_limit)
            problem = ContinuedDropout(self._dropout, _continued("keep_prob", lambda t: 1 / keep(t) - 1, time, ahead))
        if self.lr_factor is None:
            return problem
        factor = _continued("lr_factor", _piece(self.lr_factor, time, left_limit), time, ahead)
        return self._with_factor(problem, factor)

    @entry_point
    def stability_limit(self, theta: Tensor, horizon: float = 0.0) -> float:
        """Return the least of 2 / (u(t) lambda_max(Hess L_S(theta; keep(t)))) over the times t up to the horizon.

        Hess L_S is affine in v = 1/keep - 1, so its largest eigenvalue is convex in v: between `CURVATURES` values of v
        it is interpolated, which can only lower the limit. Cost: one limit without a schedule for each of them. Of
        another step than that of gradient descent it is the limit at the largest u(t).
        """
        theta, horizon = check_parameters("theta", theta, self), check_not_negative("horizon", horizon)
        sides = [(end, left_limit) for end in self.breaks if end < horizon for left_limit in (True, False)]
        times = [*((t, False) for t in np.linspace(0.0, horizon, SAMPLED_TIMES, endpoint=False)), *sides]
        factors = np.array([self.lr_factor_at(*time) for time in times])
        if not self.linear_step:
            return self._with_factor(self.problem, float(factors.max())).stability_limit(theta)
        if self._dropout is None:
            rates = factors / self.problem.stability_limit(theta)
        else:
            variances = 1 / np.array([self._keep_prob_at(*time) for time in times]) - 1
            nodes = np.unique(np.linspace(variances.min(), variances.max(), CURVATURES))
            limits = [self._dropout.with_keep_prob(float(1 / (1 + v))).stability_limit(theta) for v in nodes]
            rates = factors * np.interp(variances, nodes, 1 / np.array(limits))
        return float(1 / rates.max()) if rates.max() else math.inf

    def drift_slope(self, time: float, theta: Tensor, left_limit: bool = False) -> Tensor:
        """Return (1), d_t b(t, theta), or its left limit: (..., D). Cost: up to three gradients."""
        check_call_number("time", time)
        factor, factor_slope, slope, problem = 1.0, 0.0, torch.zeros_like(theta), self.problem
        if self.lr_factor is not None:
            factor, factor_slope = _value_and_slope(self.lr_factor, time, left_limit)
        if self._dropout is not None and self.keep_prob is not None:
            keep, keep_slope = _value_and_slope(self.keep_prob, time, left_limit)
            variance_slope = -keep_slope / keep**2
            half, whole = self._dropout.with_keep_prob(0.5), self._dropout.with_keep_prob(1.0)  # v = 1 and v = 0
            slope = -factor * variance_slope * (half.mean_gradient(theta) - whole.mean_gradient(theta))
            problem = self._dropout.with_keep_prob(keep)
        if self.linear_step:
            return slope - factor_slope * _mean(problem, theta)  # (1)
        still, moving = (_mean(self._with_factor(problem, u), theta) for u in (0.0, 1.0))
        return -factor_slope * (moving - still)  # (2)

    def _with_factor(self, problem: Problem, factor: float) -> Problem:
        return ScaledProblem(problem, factor) if problem.linear_step else problem.with_lr_factor(factor)

    def lr_factor_at(self, time: float, left_limit: bool = False) -> float:
        """Return u(t) at a time, or just before it."""
        check_call_number("time", time)
        if self.lr_factor is None:
            return 1.0
        return check_not_negative(f"lr_factor at time {float(time):g}", _value(self.lr_factor, time, left_limit))

    def _keep_prob_at(self, time: float, left_limit: bool) -> float:
        assert self.keep_prob is not None
        return check_keep_prob(f"keep_prob at time {float(time):g}", _value(self.keep_prob, time, left_limit))

    # --- what is that of the problem ---------------------------------------------------------------------------------

    @property
    def trained(self) -> Problem:
        """The problem whose parameters are trained."""
        return self if self.problem.trained is self.problem else self.problem.trained

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the parameters in theta, a part of it where theta is an optimiser's state."""
        return self.problem.parameters(theta)

    def initial(self, seed: int | None = 0) -> Tensor:
        """Return the initial parameters, or the state at the first step."""
        return self.problem.initial(seed)

    def theta_from(self, source: nn.Module | Mapping[str, Any]) -> Tensor:
        """Return theta, or the state at the first step, with the parameters of a module or its state_dict."""
        return self.problem.theta_from(source)

    def with_test_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Self:
        """Return the same problem under the same schedules with test data, as `Problem.with_test_data`."""
        other = copy.copy(self)
        other.problem = self.problem.with_test_data(x, y)
        other.test = other.problem.test
        return other

    def check_lr(self, lr: float) -> None:
        """Refuse a learning rate at which the step is not defined."""
        self.problem.check_lr(lr)

    def check_start(self, name: str, theta: Tensor) -> None:
        """Refuse a start from which there is no modified equation."""
        self.problem.check_start(name, theta)

    def step(self, theta: Tensor, draw: Any, lr: float | Tensor) -> Tensor:
        """Return theta after a step without the schedules; `at(t).step` is that at a time."""
        return self.problem.step(theta, draw, lr)

    def step_terms(self, theta: Tensor, draw: Any, count: int) -> list[Tensor]:
        """Return F, F2, ... without the schedules."""
        return self.problem.step_terms(theta, draw, count)

    def mean_second_term(self, theta: Tensor) -> Tensor:
        """Return E F2 without the schedules."""
        return self.problem.mean_second_term(theta)

    def mean_step(self, theta: Tensor, lr: float | Tensor) -> Tensor:
        """Return the mean of the step without the schedules."""
        return self.problem.mean_step(theta, lr)


def _mean(problem: Problem, theta: Tensor) -> Tensor:
    """Return the mean gradient, or what takes its place where it has no closed form."""
    return problem.mean_gradient(theta) if problem.has_closed_form else problem.reference_gradient(theta)


def _at_start(name: str, schedule: Schedule) -> float:
    """Return the value at time 0 of a schedule that the user wrote, which must have a slope, too."""
    check_callable(name, schedule)
    value = call_of_user(name, _piece(schedule, 0.0, False), torch.zeros((), dtype=torch.float64, device="cpu"))
    if isinstance(value, float):
        raise SmesolveError(f"{name} must map a time to a tensor, got {value}; write {value} + 0 * t.")
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        raise SmesolveError(f"{name} must map a time to a number, both as 0-dimensional tensors, got {shown(value)}.")
    start, _ = call_of_user(name, _value_and_slope, schedule, 0.0, False)
    for piece in schedule.pieces if isinstance(schedule, Piecewise) else [schedule]:
        _check_slope(name, piece)
    return float(start)


def _check_slope(name: str, piece: Smooth) -> None:
    """Check that the slope of a schedule is that of its values at some time."""
    time = torch.tensor(TRIED_TIME, dtype=torch.float64, device="cpu")
    slope = call_of_user(name, torch.func.grad, piece)(time)
    check_derivative(name, piece, time, torch.ones_like(time), slope)


def _piece(schedule: Schedule, time: float, left_limit: bool) -> Smooth:
    return schedule.piece(time, left_limit) if isinstance(schedule, Piecewise) else schedule


def _value(schedule: Schedule, time: float, left_limit: bool) -> float:
    """Return the value of the piece that holds at a time, or just before it.

    Nothing is kept for the next call: what a function of the user's reads may have changed by then.
    """
    return float(_piece(schedule, time, left_limit)(torch.tensor(float(time), dtype=torch.float64, device="cpu")))


def _value_and_slope(schedule: Schedule, time: float, left_limit: bool) -> tuple[float, float]:
    """Return the value and the derivative of the piece that holds at a time, or just before it."""
    t = torch.tensor(float(time), dtype=torch.float64, device="cpu")
    slope, value = torch.func.grad_and_value(_piece(schedule, time, left_limit))(t)
    return float(value), float(slope)


def _continued(name: str, schedule: Smooth, time: float, ahead: float) -> float:
    """Return the Taylor polynomial of second degree of a smooth schedule at a time, at time + ahead.

    Raises:
        SmesolveError: a derivative is not finite.
    """
    t = torch.tensor(float(time), dtype=torch.float64, device="cpu")
    curvature, (slope, value) = torch.func.grad_and_value(torch.func.grad_and_value(schedule), has_aux=True)(t)
    found = float(value + slope * ahead + curvature * ahead**2 / 2)
    if not math.isfinite(found):
        raise SmesolveError(
            f"{name} must have finite first and second derivatives, but at time {float(time):g} they are "
            f"{float(slope):g} and {float(curvature):g}; take a smooth schedule."
        )
    return found
