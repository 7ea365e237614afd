"""Settings that experiments have in common: data, network, training and execution.

The settings of an experiment are a frozen dataclass. jsonargparse generates the options of the command line from it,
and the help from its docstring. Each dataclass checks its fields when it is created: those with a name in `CHECKS` by
`StudySettings`, all others in its own `__post_init__`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from smesolve.errors import SmesolveError, invalid
from smesolve.experiments.shared.schedule_settings import LearningRateSettings
from smesolve.validation import (
    check_choice,
    check_device,
    check_flag,
    check_instance,
    check_integer,
    check_keep_prob,
    check_list,
    check_not_negative,
    check_number,
    check_optional,
    check_positive,
    check_seed,
    check_tolerance,
)

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "EXECUTION",
    "DataSettings",
    "NetworkSettings",
    "ProblemSettings",
    "StudySettings",
    "TrainingSettings",
    "build",
    "check_choices",
    "check_keys",
    "check_one",
    "check_string",
]

S = TypeVar("S")

EXECUTION = ("threads", "workers", "max_memory")
"""Keys on which the results of an experiment do not depend."""

DTYPES = ("float64", "float32")

ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "softplus", "identity")

POOLINGS = (1, 2, 4, 7, 14)
"""Sides of squares that tile an image of 28 x 28 pixels into more than one."""

LOSSES = ("squared_error", "cross_entropy")


@dataclass(frozen=True)
class DataSettings:
    """Data.

    Args:
        name: "digits" (scikit-learn's handwritten digits), "mnist" (5,000 images of MNIST, the first 1,000 of them are
            the first 1,000 of MNIST), "random" (standard normal inputs, y = sin(2 x_1)), or the path of a .npz file
            (arrays x and y) or a .csv file (inputs in columns x..., outputs in columns y...).
        target: column of a .csv file with the only output, or the class labels; all others are inputs.
        samples: number of samples; of images and files the first ones are used. Default: all of them.
        in_features: number of inputs, for "random" only.
        seed: seed of the inputs, for "random" only. Default: 0.
        test: share of the samples that is held out of training, for the observables test_loss and test_accuracy. The
            samples are drawn at random, the same for any seed; of "mnist" the last ones are held out, and 0.8 leaves
            the first 1,000. Default: none.
        pooling: side length in pixels of the squares that are averaged to one input, for "mnist" only: 1, 2 (14 x 14
            inputs), 4, 7 or 14. Default: 1, all 784 pixels.
    """

    name: str = "digits"
    target: str | None = None
    samples: int | None = None
    in_features: int | None = None
    seed: int | None = None
    test: float | None = None
    pooling: int | None = None

    def __post_init__(self) -> None:
        check_string("data.name", self.name)
        check_optional("data.target", self.target, check_string)
        for name in ("samples", "in_features", "pooling"):
            check_optional(f"data.{name}", getattr(self, name), check_integer)
        check_optional("data.seed", self.seed, check_seed)
        if self.test is not None:
            check_number("data.test", self.test, 0.0, 1.0, remedy="0.2 holds out 20% of the samples")
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise invalid("data.pooling", f"be one of {', '.join(map(str, POOLINGS))}", self.pooling)


@dataclass(frozen=True)
class NetworkSettings:
    """Network.

    Args:
        width: neurons of the hidden layer, or a list for several hidden layers.
        activation: tanh, relu, gelu, sigmoid, softplus or identity.
        bias: give all layers a bias.
        seed: seed of the initial parameters, from which all paths start.
        module: a function of yours that returns a torch module, package.module:function, in place of width, activation
            and bias. It is called with those of in_features, out_features and keep_prob that it declares. As it runs
            code, give it on the command line, --network package.module:function, or allow it in a file by --allow-code.
    """

    width: int | list[int] = 32
    activation: str = "tanh"
    bias: bool = False
    seed: int = 0
    module: str | None = None

    def __post_init__(self) -> None:
        if self.module is not None:
            check_string("network.module", self.module)
            for name in ("width", "activation", "bias"):
                if getattr(self, name) != getattr(NetworkSettings, name):
                    raise SmesolveError(f"network.{name} is not read beside network.module; leave one of them out.")
        if isinstance(self.width, list):
            check_list("network.width", self.width, check_integer)
        else:
            check_integer("network.width", self.width)
        check_choice("network.activation", self.activation, ACTIVATIONS)
        check_flag("network.bias", self.bias)
        check_seed("network.seed", self.seed)

    @property
    def widths(self) -> list[int]:
        """Neurons of each hidden layer."""
        return self.width if isinstance(self.width, list) else [self.width]


@dataclass(frozen=True)
class TrainingSettings(LearningRateSettings):
    """Training.

    Args:
        loss: squared_error or cross_entropy.
        dropout: last (on the last hidden layer) or every (after every hidden layer).
        masks: shared (one mask per step for all samples) or per_sample (as torch.nn.Dropout).
        batch_size: samples of a step. Default: all of them.
        replacement: draw the samples of a batch with replacement.
        shuffle: take every sample once in an epoch, as torch's DataLoader with shuffle=True; a step is then an epoch.
        label_noise: standard deviation of normals added to the targets.
        parameter_noise: standard deviation of normals added to the parameters before each gradient.
    """

    loss: str = "squared_error"
    dropout: str = "last"
    masks: str = "shared"
    batch_size: int | None = None
    replacement: bool = False
    shuffle: bool = False
    label_noise: float = 0.0
    parameter_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("training.loss", self.loss, LOSSES)
        check_choice("training.dropout", self.dropout, ("last", "every"))
        check_choice("training.masks", self.masks, ("shared", "per_sample"))
        check_optional("training.batch_size", self.batch_size, check_integer)
        check_flag("training.replacement", self.replacement)
        if check_flag("training.shuffle", self.shuffle) and (self.batch_size is None or self.replacement):
            raise SmesolveError(
                "training.shuffle needs training.batch_size, and no replacement; give the number of samples in a batch."
            )
        if self.shuffle and (self.trains_by_state or self.warm):
            raise SmesolveError(
                f"training.shuffle is for sgd without momentum and without a warm start, as an epoch is one step, got "
                f"training.optimizer={self.optimizer}; leave training.shuffle out: batches are then independent."
            )
        for name in ("label_noise", "parameter_noise"):
            check_not_negative(f"training.{name}", getattr(self, name))

    @property
    def has_closed_form(self) -> bool:
        """Whether this is squared error with dropout on the last hidden layer, and no other noise."""
        others = self.batch_size or self.decay_of_loss or self.label_noise or self.parameter_noise
        return self.loss == "squared_error" and self.dropout == "last" and not others


def check_choices(name: str, values: Any, choices: Collection[str], least: int = 1) -> list[str]:
    """Return a list of different choices."""
    return check_list(name, values, lambda item, one: check_choice(item, one, choices), least=least, distinct=True)


def check_string(name: str, value: Any) -> str:
    """Return a string."""
    return check_instance(name, value, str, "a string")


def _check_processes(name: str, value: Any) -> int:
    """Return a number of threads or of processes."""
    return check_integer(name, value, most=2**12, remedy="leave it out for the default")


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "keep_prob": check_keep_prob,
    "keep_probs": lambda name, values: check_list(name, values, check_keep_prob, distinct=True),
    "lr": check_positive,
    "lrs": lambda name, values: check_list(name, values, check_positive),
    "dt": check_positive,
    "horizon": check_positive,
    "relaxations": check_positive,
    "scale": check_positive,
    "observables": lambda name, values: check_list(name, values, check_string),
    "steps": check_integer,
    "runs": lambda name, value: check_integer(name, value, 2, remedy="intervals are over the runs"),
    "paths": lambda name, value: check_integer(name, value, 2),
    "max_paths": check_integer,
    "rel_tol": check_tolerance,
    "tolerance": check_tolerance,
    "seed": check_seed,
    "dtype": lambda name, value: check_choice(name, value, DTYPES),
    "device": check_device,
    "threads": _check_processes,
    "workers": _check_processes,
    "max_memory": check_positive,
}
"""Checks of the keys that mean the same in all studies."""


def check_keys(settings: Any) -> None:
    """Refuse values of a dataclass that fail the check of their key in `CHECKS`; a default of None is accepted."""
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if entry.name in CHECKS and not (value is None and entry.default is None):
            CHECKS[entry.name](entry.name, value)


def check_one(settings: Any, *names: str) -> None:
    """Refuse lists that do not hold exactly one value."""
    for name in names:
        if len(getattr(settings, name)) != 1:
            raise invalid(name, "hold one value", getattr(settings, name), "keep one")


@dataclass(frozen=True)
class StudySettings:
    """Settings whose common keys are checked."""

    def __post_init__(self) -> None:
        check_keys(self)


@dataclass(frozen=True)
class ProblemSettings(StudySettings):
    """Settings of an experiment on one network.

    Args:
        data: the data.
        network: the network.
    """

    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)


def build(kind: type[S], values: dict[str, Any]) -> S:
    """Return an instance of a settings dataclass from nested dictionaries; other keys are ignored."""
    hints = get_type_hints(kind)
    chosen = {}
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]  # S is a dataclass
        value, hint = values[entry.name], hints[entry.name]
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        chosen[entry.name] = build(hint, value) if nested else value
    return kind(**chosen)
