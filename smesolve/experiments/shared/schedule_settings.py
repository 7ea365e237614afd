"""The schedule of the learning rate of a configuration: its name, the numbers that it takes, and both in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.optimizer_settings import OptimizerSettings
from smesolve.validation import check_choice, check_not_negative, check_positive

if TYPE_CHECKING:  # torch, which the help of the command line does not need
    from smesolve.problem.schedule import Schedule

__all__ = ["SCHEDULES", "LearningRateSettings", "named_schedule"]

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": ("last",),
    "warm_up": ("duration", "first"),
    "warm_up_cosine": ("duration", "first", "last"),
    "step": ("time", "factor"),
}
"""The numbers that each schedule takes."""

REQUIRED = {"duration": "1.0", "time": "1.0", "factor": "0.1"}
"""Those without a default, with an example."""

CHECKS: dict[str, Callable[[str, Any], float]] = {
    "duration": check_positive,
    "first": check_not_negative,
    "last": check_not_negative,
    "time": check_positive,
    "factor": check_not_negative,
}
"""Checks of the values that are given."""


@dataclass(frozen=True)
class LearningRateSettings(OptimizerSettings):
    """Optimiser and schedule.

    Args:
        schedule: what multiplies the learning rate as training goes on: constant, cosine, warm_up, warm_up_cosine or
            step, a function of the time t = learning rate x steps, as the horizon is one. The betas and momenta of an
            optimiser do not change with it, as under a scheduler of torch. The steps of training.warm are taken
            before, at its first value.
        duration: time at which the warm-up of warm_up and warm_up_cosine ends; every learning rate divides it.
        first: first value of warm_up and warm_up_cosine. Default: 0.
        last: last value of cosine and warm_up_cosine, at the horizon. Default: 0.
        time: time at which step jumps from 1 to its factor; every learning rate divides it.
        factor: value of step from then on.
    """

    schedule: str = "constant"
    duration: float | None = None
    first: float | None = None
    last: float | None = None
    time: float | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("training.schedule", self.schedule, SCHEDULES)
        for name, check in CHECKS.items():
            value, taken = getattr(self, name), name in SCHEDULES[self.schedule]
            if value is None:
                if taken and name in REQUIRED:
                    raise SmesolveError(
                        f"training.schedule={self.schedule} needs training.{name}; give it, such as {REQUIRED[name]}."
                    )
                continue
            check(f"training.{name}", value)
            if not taken:
                owners = [schedule for schedule, numbers in SCHEDULES.items() if name in numbers]
                raise SmesolveError(
                    f"training.{name} is a number of the schedule {' and '.join(owners)}, got training.schedule="
                    f"{self.schedule}; leave it out, or take another schedule."
                )

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant"

    def lr_factor(self, horizon: float) -> Schedule | None:
        """Return the schedule of a study that ends at the horizon.

        Raises:
            SmesolveError: a warm-up or a jump that is not over at the horizon.
        """
        for name in ("duration", "time"):
            value = getattr(self, name)
            if value is not None and value >= horizon:
                raise SmesolveError(
                    f"training.{name}={value:g} is not before the horizon {horizon:g}; take a smaller one, or a larger "
                    "horizon."
                )
        given = {name: getattr(self, name) for name in SCHEDULES[self.schedule]}
        return named_schedule(self.schedule, horizon, **{k: v for k, v in given.items() if v is not None})

    def described_schedule(self, horizon: float) -> str:
        """Return the schedule in words; nothing for a constant one."""
        first, last = self.first or 0.0, self.last or 0.0
        rises = f"rises linearly from {first:g} to 1 times lr at t = {self.duration or 0:g}"
        return {
            "constant": "",
            "cosine": f"falls from 1 to {last:g} times lr at t = {horizon:g} along half a cosine",
            "warm_up": f"{rises} and stays there",
            "warm_up_cosine": f"{rises} and falls to {last:g} times lr at t = {horizon:g} along half a cosine",
            "step": f"jumps from 1 to {self.factor or 0:g} times lr at t = {self.time or 0:g}",
        }[self.schedule]


def named_schedule(name: str, horizon: float, **numbers: float) -> Schedule | None:
    """Return the schedule of a name in `SCHEDULES` up to a horizon, with its numbers; None for a constant one."""
    if name == "constant":
        return None
    from smesolve.problem.schedule import cosine, step, warm_up, warm_up_cosine

    made: dict[str, Callable[..., Schedule]] = {
        "cosine": partial(cosine, horizon),
        "warm_up": warm_up,
        "warm_up_cosine": partial(warm_up_cosine, horizon=horizon),
        "step": step,
    }
    return made[name](**numbers)
