"""The optimiser of a configuration: its name, its options by torch's names, and the warm start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smesolve.errors import SmesolveError, invalid, shown
from smesolve.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_list,
    check_not_negative,
    check_number,
    check_positive,
)

__all__ = ["OPTIMIZERS", "OptimizerSettings"]

ADAM = ("betas", "eps", "weight_decay")

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ADAM,
    "adamw": ADAM,
    "nadam": (*ADAM, "momentum_decay", "decoupled_weight_decay"),
    "rmsprop": ("alpha", "eps", "centered", "momentum", "weight_decay"),
}
"""The options of each optimiser, by the names that torch gives them."""

MOST_WARM_STEPS = 10**7


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimiser.

    Args:
        optimizer: sgd, adam, adamw, nadam or rmsprop, as in torch.optim.
        lr: learning rate at which momentum, betas and alpha hold. At other learning rates they change: 1 - beta is
            proportional to the learning rate. Default: the largest of lrs; a command without lrs needs it.
        momentum: momentum of sgd and rmsprop. Default: 0.
        dampening: dampening of the momentum of sgd. Default: 0.
        nesterov: Nesterov's momentum, for sgd. Default: false.
        betas: decay of the first and the second moments of adam, adamw and nadam. Default: [0.9, 0.999].
        alpha: decay of the second moments of rmsprop. Default: 0.99.
        eps: added to the root of the second moments. Default: 1e-8.
        centered: subtract the square of the mean gradient from the second moments, for rmsprop. Default: false.
        momentum_decay: momentum decay of nadam. Default: 0.004.
        decoupled_weight_decay: decay weights as adamw does, for nadam. Default: false.
        weight_decay: as in torch.optim. Default: 0.01 for adamw, otherwise 0.
        warm: steps of one discrete run, at training.lr, from whose end all paths start. adam, adamw, nadam and rmsprop
            need a few times 1/(1 - beta_2): there is no modified equation at their first step. Default: 0.
    """

    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    betas: list[float] | None = None
    alpha: float | None = None
    eps: float | None = None
    centered: bool | None = None
    momentum_decay: float | None = None
    decoupled_weight_decay: bool | None = None
    weight_decay: float | None = None
    warm: int = 0

    def __post_init__(self) -> None:
        check_choice("training.optimizer", self.optimizer, OPTIMIZERS)
        for name, check in CHECKS.items():
            value = getattr(self, name)
            if value is None:
                continue
            check(f"training.{name}", value)
            owners = [optimizer for optimizer, options in OPTIMIZERS.items() if name in options]
            if owners and self.optimizer not in owners:
                raise SmesolveError(
                    f"training.{name} is an option of {' and '.join(owners)}, got training.optimizer="
                    f"{self.optimizer}; leave it out, or take another optimizer."
                )
        check_integer("training.warm", self.warm, 0, MOST_WARM_STEPS)
        self._check_momentum()

    def _check_momentum(self) -> None:
        """Refuse options that have no meaning without momentum, or that torch does not accept together."""
        for name in ("dampening", "nesterov"):
            if getattr(self, name) and not self.momentum:
                raise SmesolveError(f"training.{name} needs training.momentum; give it, such as 0.9.")
        if self.nesterov and self.dampening:
            raise SmesolveError("training.nesterov takes no training.dampening; leave one of them out.")
        if self.lr is not None and not self.trains_by_state and not self.warm and self.momentum is None:
            raise SmesolveError(
                f"training.lr is the learning rate at which momentum or betas hold, got {shown(self.lr)} for sgd "
                "without them; leave it out, the learning rates of the study are its lrs."
            )

    @property
    def trains_by_state(self) -> bool:
        """Whether the optimiser has a state of its own: all but sgd without momentum."""
        return self.optimizer != "sgd" or bool(self.momentum)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given, by torch's names."""
        given = {name: getattr(self, name) for name in OPTIMIZERS[self.optimizer]}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def decay_of_loss(self) -> float:
        """Weight decay as a part of the loss, if no optimiser with a state applies it."""
        return 0.0 if self.trains_by_state else self.weight_decay or 0.0


def _check_fraction(name: str, value: Any) -> float:
    """Return a number from 0 to below 1."""
    return check_number(name, value, 0.0, 1.0, low_allowed=True)


def _check_betas(name: str, value: Any) -> list[float]:
    betas = check_list(name, value, _check_fraction)
    if len(betas) != 2:
        raise invalid(name, "hold two numbers", value, "[0.9, 0.999] are those of torch")
    return betas


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr": check_positive,
    "momentum": _check_fraction,
    "dampening": _check_fraction,
    "nesterov": check_flag,
    "betas": _check_betas,
    "alpha": _check_fraction,
    "eps": check_not_negative,
    "centered": check_flag,
    "momentum_decay": check_not_negative,
    "decoupled_weight_decay": check_flag,
    "weight_decay": check_not_negative,
}
"""Checks of the values that are given."""
