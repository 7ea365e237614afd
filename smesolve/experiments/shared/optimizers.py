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


def trained_by(problem: Problem, training: TrainingSettings, lrs: Sequence[float]) -> Problem:
    """Return the training of a problem by the optimiser of the settings; for plain sgd the problem itself.

    Args:
        problem: the problem.
        training: the settings.
        lrs: learning rates of the experiment; empty if it has none.
    """
    return _training(problem, training, lrs) if training.trains_by_state else problem


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
    run = trained if isinstance(trained, Training) else _training(trained, training, lrs) if training.warm else None
    start = (trained if run is None else run).initial(None if present else seed)
    if run is None:
        return start
    if training.warm:
        return run.warm(start, training.warm, seed)
    try:
        run.check_start("theta0", start)
    except SmesolveError:
        raise SmesolveError(
            f"training.warm must be at least 1 with training.optimizer={training.optimizer}, got 0: at its first step "
            f"there is no modified equation; give the steps of a warm start, such as {_steps_to_settle(training)}."
        ) from None
    return start


def _steps_to_settle(training: TrainingSettings) -> int:
    """Return steps after which a start is warm."""
    decay = {"sgd": 0.0, "rmsprop": training.alpha or 0.99}.get(training.optimizer, (training.betas or [0, 0.999])[1])
    return math.ceil(SETTLED / (1 - decay) * (1 - 1e-9)) if decay else 1


def described_optimizer(trained: Problem, training: TrainingSettings, lrs: Sequence[float], seed: int) -> str:
    """Return the optimiser, its state and the warm start in words; nothing for plain sgd from its initial point."""
    words = []
    if isinstance(trained, Training):
        given = {name: trained.options[name] for name in OPTIMIZERS[training.optimizer]}
        options = ", ".join(f"{name} {_value(value)}" for name, value in given.items() if value)
        words.append(
            f"Optimiser {trained.name} with {options} at lr {trained.lr:g}, where 1 - beta is proportional to lr; its "
            f"state of {counted(trained.dim, 'number')} holds the parameters and {' and '.join(trained.buffers)} of "
            "each."
        )
    if training.warm:
        words.append(
            f"Warm start: all paths start at the end of one discrete run of {counted(training.warm, 'step')} at lr "
            f"{lr_of_options(training, lrs):g}, with draws of seed {seed}."
        )
    return " ".join(words)


def _value(value: Any) -> str:
    """Return an option in words."""
    if isinstance(value, (list, tuple)):
        return " and ".join(f"{part:g}" for part in value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
