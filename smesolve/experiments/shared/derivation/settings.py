"""Settings of a derivation: iteration, law, and the keys that each of them uses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, invalid
from smesolve.experiments.shared.settings import check_string
from smesolve.validation import (
    check_flag,
    check_integer,
    check_keep_prob,
    check_list,
    check_number,
    check_optional,
    check_positive,
)

__all__ = ["DeriveSettings"]


@dataclass(frozen=True)
class DeriveSettings:
    """Derivation.

    Args:
        iteration: dropout, sgd, dropout_sgd, dropconnect, label_noise, parameter_noise, or custom.
        momentum: heavy ball in its own time scale, with the friction m = (1 - mu)/sqrt(lr).
        width: neurons of each hidden layer.
        depth: hidden layers.
        in_features: inputs.
        samples: samples; data are symbols.
        out_features: outputs.
        activation: tanh, identity, or sigma for every smooth activation.
        loss: expression in the output f and the target y of a sample.
        layers: numbers of the masked hidden layers, or of the masked weight matrices for dropconnect, from 1. Default:
            the last hidden layer for dropout, the first matrix for dropconnect.
        batch: samples per step, for sgd and dropout_sgd.
        law: law of the masks, or of the noise plus 1: bernoulli, gaussian, uniform or finite.
        keep_prob: parameter of bernoulli, a number. Default: the symbol p.
        variance: parameter of gaussian, a number. Default: the symbol v.
        half_width: parameter of uniform, a number. Default: the symbol b.
        values: values of finite, with mean 1.
        probabilities: probabilities of these values.
        state: names of the state variables, for custom.
        step: increment of each state variable in one step, an expression with the factor small, for custom.
        random: names of the random symbols, each with the law above.
        constants: names of all other symbols.
        small: name of the small parameter, for custom.
        order: weak order of the equation: 1 or 2, a diffusion, or 3, an equation with jumps.
    """

    iteration: str = "dropout"
    momentum: bool = False
    width: int = 2
    depth: int = 1
    in_features: int = 1
    samples: int = 1
    out_features: int = 1
    activation: str = "tanh"
    loss: str = "(f - y)**2/2"
    layers: list[int] | None = None
    batch: int = 1
    law: str = "bernoulli"
    keep_prob: float | None = None
    variance: float | None = None
    half_width: float | None = None
    values: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    step: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    small: str = "lr"
    order: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "depth", "in_features", "samples", "out_features", "batch", "order"):
            check_integer(name, getattr(self, name))
        for name in ("iteration", "activation", "loss", "law", "small"):
            check_string(name, getattr(self, name))
        for name in ("state", "step", "random", "constants"):
            check_list(name, getattr(self, name), check_string, least=0)
        for name in ("values", "probabilities"):
            check_list(name, getattr(self, name), check_number, least=0)
        check_optional("layers", self.layers, lambda name, value: check_list(name, value, check_integer))
        check_flag("momentum", self.momentum)
        if self.activation not in ("tanh", "identity", "sigma"):
            raise invalid("activation", "be tanh, identity, or sigma for every smooth activation", self.activation)
        check_optional("keep_prob", self.keep_prob, check_keep_prob)
        for name in ("variance", "half_width"):
            check_optional(name, getattr(self, name), check_positive)
        for name, known in (("iteration", ITERATION_KEYS), ("law", LAW_KEYS)):
            if getattr(self, name) not in known:
                raise SmesolveError(
                    f"{name} {getattr(self, name)!r} is unknown; {nearest_name(getattr(self, name), list(known))}."
                )
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Refuse keys that are set but not used by this iteration with this law."""
        laws = () if self.iteration == "sgd" else ("law", *LAW_KEYS[self.law])
        read = {"iteration", "momentum", "order", *ITERATION_KEYS[self.iteration], *laws}
        for entry in dataclasses.fields(self):
            default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
            if entry.name not in read and getattr(self, entry.name) != default:
                of_law = entry.name in set().union(*LAW_KEYS.values()) and laws
                reader = f"law {self.law!r}" if of_law else f"iteration {self.iteration!r}"
                raise SmesolveError(f"{entry.name} is not read by {reader}; leave it out.")


_NETWORK_KEYS = ("width", "depth", "in_features", "samples", "out_features", "activation", "loss")

ITERATION_KEYS: dict[str, tuple[str, ...]] = {
    "dropout": (*_NETWORK_KEYS, "layers"),
    "sgd": (*_NETWORK_KEYS, "batch"),
    "dropout_sgd": (*_NETWORK_KEYS, "layers", "batch"),
    "dropconnect": (*_NETWORK_KEYS, "layers"),
    "label_noise": _NETWORK_KEYS,
    "parameter_noise": _NETWORK_KEYS,
    "custom": ("state", "step", "random", "constants", "small"),
}
"""Iterations with the keys that each uses, in addition to iteration, momentum, order and the keys of its law."""

LAW_KEYS: dict[str, tuple[str, ...]] = {
    "bernoulli": ("keep_prob",),
    "gaussian": ("variance",),
    "uniform": ("half_width",),
    "finite": ("values", "probabilities"),
}
"""Laws with the keys that each uses."""
