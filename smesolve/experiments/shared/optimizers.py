"""The optimiser of an experiment from its settings: the training of a problem, its start, and both in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.markdown import counted
from smesolve.experiments.shared.optimizer_settings import OPTIMIZERS
from smesolve.experiments.shared.settings import TrainingSettings
from smesolve.problem.problem import Problem
from smesolve.problem.schedule import ScheduledProblem
from smesolve.problem.training import Training

__all__ = ["described_optimizer", "lr_of_options", "start_of", "trained_by"]

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "rmsprop": torch.optim.RMSprop,
}

SETTLED = 3
"""Multiples of 1/(1 - beta_2) steps after which second moments hardly depend on their start at 0."""


def lr_of_options(training: TrainingSettings, lrs: Sequence[float]) -> float:
    """Return the learning rate at which the options of the optimiser hold.

    Raises:
        SmesolveError: none is given, and the command has no learning rates.
    """
    if training.lr is not None:
        return training.lr
    if not lrs:
        raise SmesolveError(
            "training.lr is missing: it is the learning rate at which momentum and betas hold, and of the warm start; "
            "give it, such as 0.001."
        )
    return max(lrs)


def trained_by(
    problem: Problem, training: TrainingSettings, lrs: Sequence[float], horizon: float | None = None
) -> Problem:
    """Return the training of a problem by optimiser and schedule of the settings; for plain sgd the problem itself.

    Args:
        problem: the problem.
        training: the settings.
        lrs: learning rates of the experiment; empty where it has none.
        horizon: last time, at which schedules end. Default: the experiment takes no schedules.

    Raises:
        SmesolveError: a schedule for an experiment that takes none, or one that is not over at the horizon.
    """
    if training.scheduled and horizon is None:
        raise SmesolveError(
            f"training.schedule={training.schedule} is read by compare, weak-error and validity, not by this study; "
            "leave it out."
        )
    trained = _training(problem, training, lrs) if training.trains_by_state else problem
    if not training.scheduled or horizon is None:
        return trained
    return ScheduledProblem(trained, training.lr_factor(horizon))


def _training(problem: Problem, training: TrainingSettings, lrs: Sequence[float]) -> Training:
    options: dict[str, Any] = training.options if training.trains_by_state else {}
    return Training(problem, CLASSES[training.optimizer], lr_of_options(training, lrs), **options)


def start_of(
    trained: Problem, training: TrainingSettings, lrs: Sequence[float], seed: int, present: bool = False
) -> Tensor:
    """Return the parameters or the state (S,) from which all paths start: the initial ones, or a warm start.

    Args:
        trained: the result of `trained_by`.
        training: the settings.
        lrs: learning rates of the experiment; empty if it has none.
        seed: seed of the initial parameters and of the draws of the warm start.
        present: start at the present parameters of the network instead of those of the seed.

    Raises:
        SmesolveError: a cold start from which there is no modified equation.
    """
    base = _without_schedule(trained)
    run = base if isinstance(base, Training) else _training(base, training, lrs) if training.warm else None
    start = (trained if run is None else run).initial(None if present else seed)
    if run is None:
        return start
    if training.warm:
        first = trained.lr_factor_at(0.0) if isinstance(trained, ScheduledProblem) else 1.0
        return run.with_lr_factor(first).warm(start, training.warm, seed)
    try:
        run.check_start("theta0", start)
    except SmesolveError:
        raise SmesolveError(
            f"training.warm must be at least 1 with training.optimizer={training.optimizer}, got 0: at its first step "
            f"there is no modified equation; give the steps of a warm start, such as {_steps_to_settle(training)}."
        ) from None
    return start


def _without_schedule(trained: Problem) -> Problem:
    """Return what follows a schedule, or the problem itself where it follows none."""
    return trained.problem if isinstance(trained, ScheduledProblem) else trained


def _steps_to_settle(training: TrainingSettings) -> int:
    """Return steps after which a start is warm."""
    decay = {"sgd": 0.0, "rmsprop": training.alpha or 0.99}.get(training.optimizer, (training.betas or [0, 0.999])[1])
    return math.ceil(SETTLED / (1 - decay) * (1 - 1e-9)) if decay else 1


def described_optimizer(
    trained: Problem, training: TrainingSettings, lrs: Sequence[float], seed: int, horizon: float | None = None
) -> str:
    """Return optimiser, state, schedule and warm start in words; nothing for plain sgd from its initial point."""
    words = []
    scheduled, trained = trained, _without_schedule(trained)
    if isinstance(trained, Training):
        given = {name: trained.options[name] for name in OPTIMIZERS[training.optimizer]}
        options = ", ".join(f"{name} {_value(value)}" for name, value in given.items() if value)
        words.append(
            f"Optimiser {trained.name} with {options} at lr {trained.lr:g}, where 1 - beta is proportional to lr; its "
            f"state of {counted(trained.dim, 'number')} holds the parameters and {' and '.join(trained.buffers)} of "
            "each."
        )
    if horizon is not None and training.scheduled:
        name = training.schedule.replace("warm_up", "warm-up").replace("_", " and ")
        words.append(f"Trained under a {name} schedule: the learning rate {training.described_schedule(horizon)}.")
    if training.warm:
        factor = scheduled.lr_factor_at(0.0) if isinstance(scheduled, ScheduledProblem) else 1.0
        times = "" if factor == 1 else f" times {factor:g}, the first value of the schedule"
        words.append(
            f"Warm start: all paths start at the end of one discrete run of {counted(training.warm, 'step')} at lr "
            f"{lr_of_options(training, lrs):g}{times}, with draws of seed {seed}."
        )
    return " ".join(words)


def _value(value: Any) -> str:
    """Return an option in words."""
    if isinstance(value, (list, tuple)):
        return " and ".join(f"{part:g}" for part in value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
