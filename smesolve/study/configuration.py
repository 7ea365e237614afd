"""What a study is made of: the dataclasses are the configuration file.

jsonargparse makes the options of the command line from them, and the help from their docstrings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from smesolve.arguments import ENSEMBLE, POSITIVE, check_fields
from smesolve.solver.time_grid import even_grid
from smesolve.study.configuration_errors import ConfigError, nearest

__all__ = [
    "ACTIVATION_NAMES",
    "EXECUTION",
    "GOALS",
    "DataConfig",
    "DeriveConfig",
    "ExtendConfig",
    "NetworkConfig",
    "StudyConfig",
    "TrainingConfig",
    "build",
]

Config = TypeVar("Config")

ACTIVATION_NAMES = ("tanh", "relu", "gelu", "sigmoid", "softplus", "identity")
"""`problems` has their layers: this module is read by --help, which does without torch."""

LOSS_NAMES = ("squared_error", "cross_entropy")

CURVE_TIMES = 12
"""At most this many times of observation, for curves over time."""


@dataclass(frozen=True)
class DataConfig:
    """Data.

    Args:
        name: "digits" (scikit-learn's handwritten digits), "random" (standard normal inputs, y = sin(2 x_1)), or the
            path of a .npz file (arrays x and y) or a .csv file (inputs in columns x..., outputs in columns y...).
        target: column of a .csv file with the only output, or the class labels; all others are inputs.
        samples: number of samples, the first ones of digits and files; all of them unless given.
        in_features: number of inputs, for "random" alone.
        seed: of the inputs, for "random" alone; 0 unless given.
    """

    name: str = "digits"
    target: str | None = None
    samples: int | None = None
    in_features: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "data.")


@dataclass(frozen=True)
class NetworkConfig:
    """Network.

    Args:
        width: neurons of the hidden layer, or a list for several hidden layers.
        activation: tanh, relu, gelu, sigmoid, softplus or identity.
        bias: give all layers a bias.
        seed: of the initial parameters, from which all paths start.
    """

    width: int | list[int] = 32
    activation: str = "tanh"
    bias: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "network.")
        _one_of("network.activation", self.activation, ACTIVATION_NAMES)

    @property
    def widths(self) -> list[int]:
        """Neurons of each hidden layer."""
        return [self.width] if isinstance(self.width, int) else self.width


@dataclass(frozen=True)
class TrainingConfig:
    """Training.

    Args:
        loss: squared_error or cross_entropy.
        dropout: last (on the last hidden layer) or every (after every hidden layer).
        masks: shared (one mask a step for all samples) or per_sample (as torch.nn.Dropout).
        batch_size: samples of a step; all of them unless given.
        replacement: draw the samples of a batch with replacement.
        weight_decay: as in torch.optim.SGD.
        label_noise: standard deviation of normals added to the targets.
        parameter_noise: standard deviation of normals added to the parameters before each gradient.
    """

    loss: str = "squared_error"
    dropout: str = "last"
    masks: str = "shared"
    batch_size: int | None = None
    replacement: bool = False
    weight_decay: float = 0.0
    label_noise: float = 0.0
    parameter_noise: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "training.")
        _one_of("training.loss", self.loss, LOSS_NAMES)
        _one_of("training.dropout", self.dropout, ("last", "every"))
        _one_of("training.masks", self.masks, ("shared", "per_sample"))

    @property
    def closed_form(self) -> bool:
        """Squared error with dropout on the last hidden layer, and no other noise."""
        others = self.batch_size or self.weight_decay or self.label_noise or self.parameter_noise
        return self.loss == "squared_error" and self.dropout == "last" and not others


@dataclass(frozen=True)
class StudyConfig:
    """Study.

    Args:
        data: what is learned.
        network: what learns.
        training: loss and noise.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rates; each divides the horizon.
        horizon: last time T; training takes T/lr steps.
        orders: of the modified equation, 1 and/or 2.
        observables: loss, modified_loss, squared_norm, coordinates such as theta[0].
        paths: independent paths on each side; the first round where rel_tol is given.
        rel_tol: paths are added until the interval of every error at the horizon is at most this share of the error.
        max_paths: bound on the paths of each side.
        scheme: of the equation: small_noise_rk4, small_noise_heun or euler; svag or sampled_euler where dropout is not
            on the last hidden layer alone, or the loss not the squared error. Chosen unless given.
        dt: step of the scheme; chosen from its bias unless given.
        control: control variates: auto, none, first or second.
        seed: root seed of masks and Brownian motions.
        threads: of torch, divided among the workers; left as they are unless given.
        workers: processes that share the paths; results do not depend on them.
        device: of torch, such as cpu or cuda.
        dtype: float64, or float32 for errors above its rounding (1e-6 of a mean).
        max_memory: bytes that control variates may take in all processes together.
    """

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.1, 0.05])
    horizon: float = 1.0
    orders: list[int] = field(default_factory=lambda: [1, 2])
    observables: list[str] = field(default_factory=lambda: ["loss", "modified_loss"])
    paths: int = 1024
    rel_tol: float | None = None
    max_paths: int = 2**17
    scheme: str | None = None
    dt: float | None = None
    control: str = "auto"
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    device: str = "cpu"
    dtype: str = "float64"
    max_memory: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, dtype=None, paths=ENSEMBLE)
        if self.dtype not in ("float64", "float32"):
            raise ConfigError(f"dtype must be float64 or float32, got {self.dtype!r}.")

    @property
    def curve_times(self) -> list[float] | None:
        """The finest even grid of at most `CURVE_TIMES` times that all learning rates and dt divide.

        None where there is none: weak_error then says which step does not fit.
        """
        steps = [step for step in (*self.lrs, self.dt) if step is not None]
        return even_grid(self.horizon, steps, CURVE_TIMES)


EXECUTION = ("threads", "workers", "max_memory")
"""Keys of a study on which its numbers do not depend."""

GOALS = ("rel_tol", "max_paths")
"""Keys of a study that say how many blocks of paths it has, not what is in them: what is in a journal serves any."""


@dataclass(frozen=True)
class ExtendConfig:
    """Extension of finished results.

    Args:
        paths: independent paths on each side, more than the study had.
        threads: of torch, divided among the workers; left as they are unless given.
        workers: processes that share the paths.
    """

    paths: int = 0
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise ConfigError("--paths is missing; give the number of paths that the study shall have, such as 100000.")
        check_fields(self)


@dataclass(frozen=True)
class DeriveConfig:
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
        loss: of the output f and the target y of a sample.
        layers: which hidden layers are masked, or for dropconnect which weight matrices, from 1; dropout masks the
            last hidden layer unless given, dropconnect the first matrix.
        batch: samples a step, for sgd and dropout_sgd.
        law: of the masks, or of the noise plus 1: bernoulli, gaussian, uniform or finite.
        keep_prob: of bernoulli; a number, or the symbol p unless given.
        variance: of gaussian; a number, or the symbol v unless given.
        half_width: of uniform; a number, or the symbol b unless given.
        values: of finite, of mean 1.
        probabilities: of these values.
        state: names of the state variables, for custom.
        step: what a step adds to each of them, an expression with the factor small.
        random: names of the random symbols, each of the law above.
        constants: names of all other symbols.
        small: name of the small parameter, for custom.
        order: weak order of the equation, 1 or 2.
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
        check_fields(self, keep_prob=None, variance=POSITIVE, half_width=POSITIVE)
        if self.activation not in ("tanh", "identity", "sigma"):
            raise ConfigError(
                f"activation must be tanh, identity, or sigma for every smooth activation, got {self.activation!r}."
            )
        if self.keep_prob is not None and not 0 < self.keep_prob <= 1:
            raise ConfigError(
                f"keep_prob must lie in (0, 1], got {self.keep_prob!r}; leave it out to derive with the symbol p."
            )
        for name, known in (("iteration", ITERATION_KEYS), ("law", LAW_KEYS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is unknown; {nearest(getattr(self, name), list(known))}."
                )
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Refuse what is set and not read by this iteration with this law."""
        laws = () if self.iteration == "sgd" else ("law", *LAW_KEYS[self.law])
        read = {"iteration", "momentum", "order", *ITERATION_KEYS[self.iteration], *laws}
        for entry in dataclasses.fields(self):
            default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
            if entry.name not in read and getattr(self, entry.name) != default:
                of_law = entry.name in set().union(*LAW_KEYS.values()) and laws
                reader = f"law {self.law!r}" if of_law else f"iteration {self.iteration!r}"
                raise ConfigError(f"{entry.name} is not read by {reader}; leave it out.")


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
"""Iterations of `derive` with the keys that each reads, beside iteration, momentum, order and those of its law."""

LAW_KEYS: dict[str, tuple[str, ...]] = {
    "bernoulli": ("keep_prob",),
    "gaussian": ("variance",),
    "uniform": ("half_width",),
    "finite": ("values", "probabilities"),
}
"""Laws of `derive` with the keys that each reads."""


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def build(kind: type[Config], values: dict[str, Any]) -> Config:
    """An instance of a configuration dataclass from nested dictionaries; keys that it does not have are left out."""
    hints = get_type_hints(kind)
    chosen = {}
    for entry in dataclasses.fields(kind):
        value, hint = values[entry.name], hints[entry.name]
        chosen[entry.name] = build(hint, value) if dataclasses.is_dataclass(hint) else value
    return kind(**chosen)
