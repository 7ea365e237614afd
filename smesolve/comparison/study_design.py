"""The design of a weak-error study: its arguments, checked and completed once for all parts of the study."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from torch import Tensor

from smesolve.errors import SmesolveError, invalid
from smesolve.problem.definition import check_derivatives
from smesolve.problem.kinks import jumps
from smesolve.problem.observables import (
    Observable,
    Observables,
    ObservableWarning,
    check_sizes,
    is_piecewise_constant,
    named_observables,
)
from smesolve.problem.problem import Problem
from smesolve.solver.integration import JUMP_SCHEME, check_declared, check_jumps, check_scheme
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import WITH_JUMPS, Order
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import NothingTestedWarning, what_tests_nothing
from smesolve.solver.time_grid import even_grid, grid_numbers, grid_steps, on_grid, on_step
from smesolve.validation import MOST_ENTRIES, check_choice, check_list, check_weak_order

__all__ = [
    "CONTROLS",
    "StudyDesign",
    "check_orders",
    "check_orders_of_defects",
    "chosen_control",
    "chosen_scheme",
    "learning_rates_and_times",
]

CONTROLS = ("auto", "none", "first", "second")
"""Control variates: chosen by D, none, those of the adjoint, or those of the value Hessian as well."""

DEFAULT_TIMES = 5
"""Largest number of times of observation where none are given."""

VALUE_HESSIAN_DIM = 2**14
"""Largest D for which control="auto" takes value Hessians: each costs some 500 Hessian products."""


@dataclass(frozen=True)
class StudyDesign:
    """The design of a weak-error study. `of` checks and completes the arguments of the user."""

    problem: Problem
    theta0: Tensor
    """(D,), the start of iteration and equation."""
    lrs: Sequence[float]
    times: Sequence[float]
    """Times of observation; the last one is the horizon."""
    orders: Sequence[Order]
    """Orders of the modified equations."""
    observables: Mapping[str, Observable]
    """Observables by name."""
    scheme: str
    """A name in `SCHEMES`."""
    dt: float | None = None
    """Step of the scheme, or None to choose it for each learning rate."""
    control: str = "none"
    """Control variates: "none", "first" or "second"."""
    seed: int = 0
    """Root seed."""
    keep: int = 0
    """Number of paths of each ensemble whose values at the horizon are kept."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        theta0: Tensor,
        lrs: Sequence[float],
        horizon: float,
        *,
        orders: Sequence[Order],
        observables: Observables,
        times: Sequence[float] | None = None,
        scheme: str | None = None,
        dt: float | None = None,
        control: str = "auto",
        seed: int = 0,
        keep: int = 0,
    ) -> StudyDesign:
        """Check the arguments, which are those of `weak_error`, and choose defaults.

        Raises:
            SmesolveError: orders, schemes or controls that the problem does not have, learning rates that do not divide
                the times or the jumps of a schedule, or a learning rate beyond the stability limit.
        """
        orders = check_orders("orders", orders)
        scheme = chosen_scheme(scheme, problem)
        check_scheme(problem, scheme)
        check_declared(scheme)
        for order in orders:
            if order in WITH_JUMPS:
                ModifiedEquation(problem, 1.0, order)  # refuses a problem that has none
        lrs, times = learning_rates_and_times(lrs, horizon, times)
        control = chosen_control(control, problem)
        if dt is not None:
            check_jumps(problem, dt, times[-1])
            grid_numbers(times, dt, "times")
        functions = named_observables(problem, observables)
        problem.check_start("theta0", theta0)
        check_sizes(functions, theta0)
        check_derivatives(problem.at(0.0), theta0, draws=not problem.has_closed_form)
        design = cls(problem, theta0, lrs, times, orders, functions, scheme, dt, control, seed, keep)
        for lr in lrs:
            check_jumps(problem, lr, times[-1], "lr")
            design.check_stable(lr)
        return design

    @property
    def horizon(self) -> float:
        """The last time."""
        return self.times[-1]

    @cached_property
    def stability_limit(self) -> float:
        """The learning rate beyond which the mean iteration diverges, at the worst time up to the horizon."""
        return self.problem.stability_limit(self.theta0, self.horizon)

    @property
    def start(self) -> dict[str, float]:
        """Values of the observables at theta0."""
        return {name: float(g(self.theta0[None])[0]) for name, g in self.observables.items()}

    @cached_property
    def smooth_observables(self) -> dict[str, Observable]:
        """The observables without jumps, whose changes are those of their derivatives."""
        given, theta0 = self.observables.items(), self.theta0
        return {name: g for name, g in given if not is_piecewise_constant(g, theta0) and not jumps(g, theta0)}

    @property
    def jumping_observables(self) -> dict[str, list[str]]:
        """Operations whose value jumps, by the names of the observables that jump."""
        others = {name: g for name, g in self.observables.items() if name not in self.smooth_observables}
        return {name: jumps(g, self.theta0) for name, g in others.items()}

    def check_stable(self, lr: float) -> None:
        """Refuse a learning rate beyond the stability limit."""
        self.problem.check_lr(lr)
        if lr >= self.stability_limit and self.stability_limit < self.problem.largest_lr:  # where an eigenvalue leaves
            time = "" if self.problem.autonomous else " at the worst time of the schedule"
            raise SmesolveError(
                f"lr={lr:g} is beyond the stability limit {self.stability_limit:.4g} ({self.problem.limit_in_words}"
                f"{time}), where the mean iteration diverges; take a smaller lr."
            )

    def steps(self, step: float, name: str = "dt") -> list[int]:
        """Return the step numbers of the times; `name` names the step in errors."""
        return grid_numbers(self.times, step, "times", name)

    def first_dt(self, lr: float) -> float:
        """Return the first step dt of the scheme."""
        if self.dt is not None:
            return self.dt
        return lr / 8 if SCHEMES[self.scheme].weak_error == "dt" else lr

    def scheme_of(self, order: Order) -> str:
        """Return the name of the scheme for the equation of an order, as in tables."""
        return JUMP_SCHEME if order in WITH_JUMPS else self.scheme

    def nothing_tested(self) -> list[str]:
        """Return a sentence for each learning rate and order whose comparison would agree by construction."""
        found = (
            what_tests_nothing(SCHEMES[self.scheme], self.scheme, order, lr, self.first_dt(lr))
            for lr, order in product(self.lrs, self.orders)
        )
        return [sentence for sentence in found if sentence]

    def warn_of_jumps(self, stacklevel: int) -> None:
        """Warn of observables that jump and, unlike an accuracy, have a derivative as well."""
        for name, operations in self.jumping_observables.items():
            if not is_piecewise_constant(self.observables[name], self.theta0):
                warnings.warn(
                    f"The observable {name!r} jumps, at {' and '.join(operations)}: no theorem of weak order covers "
                    "it, and its derivative leaves the jumps out. Its error is the difference of two means, without "
                    "a predicted constant.",
                    ObservableWarning,
                    stacklevel=stacklevel,
                )

    def warn_of_nothing_tested(self, stacklevel: int) -> None:
        """Warn of comparisons that would agree by construction."""
        for sentence in self.nothing_tested():
            warnings.warn(sentence, NothingTestedWarning, stacklevel=stacklevel)


def check_orders(name: str, values: Any) -> list[Order]:
    """Return orders, each 1, 2, 3 or "poisson", none of them twice."""
    return check_list(name, values, _check_order, distinct=True)


def _check_order(name: str, value: Any) -> Order:
    if isinstance(value, str) and value == "quadratic":
        remedy = "the quadratic equation has no weak order of its own to certify"
        raise invalid(name, "be 1, 2 or 3, or 'poisson'", value, remedy)
    order: Order = check_weak_order(name, value)
    return order


def check_orders_of_defects(orders: Sequence[Order]) -> list[int]:
    """Return orders 1 and 2, and refuse equations with jumps: the defects of order 3 would take fourth derivatives."""
    measured = [order for order in orders if isinstance(order, int) and order not in WITH_JUMPS]
    for order in orders:
        if order not in measured:
            raise SmesolveError(
                f"orders={list(orders)} holds {order!r}, which defects do not measure; measure it by weak_error with "
                "estimator='difference', or leave it out."
            )
    return measured


def learning_rates_and_times(
    lrs: Sequence[float], horizon: float, times: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Return learning rates and times of observation on their common grid, as float64.

    Default for the times: the finest even grid of at most five that all learning rates divide.

    Raises:
        SmesolveError: more than 1000 learning rates, one that does not divide the horizon or a time, two that are equal
            up to rounding, or times that do not increase from above 0 to the horizon.
    """
    if len(lrs) > MOST_ENTRIES:
        raise SmesolveError(f"lrs has {len(lrs)} entries, more than {MOST_ENTRIES}; give fewer learning rates.")
    horizon = on_grid(horizon, lrs[0], "horizon", "lr")
    steps: dict[int, float] = {}
    for lr in lrs:
        count = grid_steps(horizon, lr, "horizon", "lr")
        if count in steps:
            raise SmesolveError(
                f"lrs holds a value twice, up to rounding: {float(steps[count])!r} and {float(lr)!r} both take {count} "
                "steps to the horizon; leave one of them out."
            )
        steps[count] = on_step(horizon, lr, count)
    rates = list(steps.values())
    if times is None:
        return rates, even_grid(horizon, rates, DEFAULT_TIMES) or [horizon]
    for lr in rates:
        numbers = grid_numbers(times, lr, "times", "lr")
        if numbers[-1] != grid_steps(horizon, lr, "horizon", "lr"):
            raise SmesolveError(
                f"times must increase from above 0 to the horizon {horizon:g}, but the last one is {times[-1]:g}; let "
                "them end at the horizon."
            )
    return rates, [on_grid(time, rates[0], "times", "lr") for time in times]


def chosen_scheme(scheme: str | None, problem: Problem) -> str:
    """Return the scheme. Default: "small_noise_rk4", or "sampled_euler" where the mean gradient has no closed form."""
    if scheme is None:
        return "small_noise_rk4" if problem.has_closed_form else "sampled_euler"
    chosen: str = check_choice("scheme", scheme, SCHEMES)
    return chosen


def chosen_control(control: str, problem: Problem) -> str:
    """Return the control variates, chosen for "auto", and refuse control variates that a problem does not have."""
    check_choice("control", control, CONTROLS)
    if not problem.has_mean_step:
        if control not in ("auto", "none"):
            raise SmesolveError(
                f"control={control!r} needs the mean of a training step, which {problem!r} does not have; take "
                "control='none'."
            )
        return "none"
    if not problem.has_closed_form:
        if control == "second":
            raise SmesolveError(
                "control='second' needs the mean gradient in closed form, which this problem does not have; take "
                "control='first'."
            )
        return "first" if control == "auto" else control
    if control != "auto":
        return control
    return "second" if problem.dim <= VALUE_HESSIAN_DIM else "first"
