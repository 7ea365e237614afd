"""What a study is made of, and how it is read from YAML and the command line.

The dataclasses are the configuration file: jsonargparse makes the options of the command line from them. Its errors are
turned into one sentence that names the key, the value and the remedy.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from torch import nn

from smesolve.arguments import ENSEMBLE, POSITIVE, check_fields, shown
from smesolve.problem.losses import LOSSES

__all__ = [
    "ACTIVATION_LAYERS",
    "EXECUTION",
    "ConfigError",
    "DataConfig",
    "DeriveConfig",
    "ExtendConfig",
    "NetworkConfig",
    "StudyConfig",
    "TrainingConfig",
    "build",
    "check_file",
    "known_keys",
    "nearest",
    "sentence",
]

Config = TypeVar("Config")

ACTIVATION_LAYERS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class DataConfig:
    """Data.

    Args:
        name: "digits" (scikit-learn's handwritten digits), "random" (standard normal inputs, y = sin(2 x_1)), or the
            path of a .npz file (arrays x and y) or a .csv file (inputs in columns x..., outputs in columns y...).
        samples: number of samples, the first ones of digits and files; all of them unless given.
        in_features: number of inputs, for "random" alone.
        seed: of the inputs, for "random" alone; 0 unless given.
    """

    name: str = "digits"
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
        _one_of("network.activation", self.activation, ACTIVATION_LAYERS)

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
        _one_of("training.loss", self.loss, LOSSES)
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


EXECUTION = ("threads", "workers", "max_memory")
"""Keys of a study on which its numbers do not depend."""


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
        for name, known in (
            (
                "iteration",
                ("dropout", "sgd", "dropout_sgd", "dropconnect", "label_noise", "parameter_noise", "custom"),
            ),
            ("law", ("bernoulli", "gaussian", "uniform", "finite")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is unknown; {nearest(getattr(self, name), list(known))}."
                )


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


def known_keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """The keys of a configuration dataclass with their types; nested ones as "data.name"."""
    keys: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        keys[prefix + name] = hint
        if dataclasses.is_dataclass(hint):
            keys |= known_keys(hint, f"{prefix}{name}.")
    return keys


def check_file(path: str, kind: type, extra: tuple[str, ...] = ()) -> None:
    """Refuse a file that is missing, or has other keys and mappings than `kind` and the options `extra`.

    jsonargparse, which reads it next, says less, and takes an unknown key whose value is an empty mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        _check_keys(path, content)
    except FileNotFoundError:
        raise ConfigError(f"CONFIG {path!r} does not exist; give the path of a YAML file.") from None
    except (OSError, ValueError) as error:  # ValueError: bytes that are no text, or that no path has
        raise ConfigError(f"CONFIG {path!r} cannot be read ({error}); give the path of a YAML file.") from None
    except RecursionError:
        raise ConfigError(f"CONFIG {path!r} is nested too deeply; give lines 'key: value'.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"CONFIG {path!r} is not valid YAML{where}; correct it there.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"CONFIG {path!r} must hold lines 'key: value', got {type(content).__name__}.")
    keys = known_keys(kind)
    for key in _nested_keys(content):
        if key not in keys and key.replace("-", "_") not in {option.replace("-", "_") for option in extra}:
            parent = key.rpartition(".")[0]
            if not parent or dataclasses.is_dataclass(keys.get(parent)):
                raise ConfigError(f"key {key!r} is unknown; {nearest(key, [*keys, *extra])}.")
    for key, hint in keys.items():
        if dataclasses.is_dataclass(hint) and not isinstance(content.get(key, {}), dict):
            raise ConfigError(f"{key} must be {_expected(hint)}, got {content[key]!r}.")


def _nested_keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys, nested ones as "data.name"."""
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _nested_keys(value, f"{prefix}{key}.")


def _check_keys(path: str, content: Any) -> None:
    """Refuse keys that are no text, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise ConfigError(f"CONFIG {path!r} has the key {shown(key)}; keys must be names such as keep_prob.")
            _check_keys(path, value)
    elif isinstance(content, list):
        for value in content:
            _check_keys(path, value)


def sentence(error: argparse.ArgumentError, kind: type, extra: tuple[str, ...] = ()) -> str:
    """jsonargparse's error in one sentence with key, value and remedy.

    Args:
        error: what jsonargparse raised.
        kind: the configuration dataclass.
        extra: further options of the command.
    """
    text = str(error)
    keys = known_keys(kind)
    unknown = re.search(r"does not accept option '([^']+)'|unrecognized arguments: (\S+)", text)
    if unknown:
        given = unknown[1] or unknown[2]
        if not unknown[1] and not given.startswith("-"):
            return f"argument {given!r} is one too many; give one CONFIG and options '--key value'."
        key = given.removeprefix("--").split("=")[0]
        return f"key {key!r} is unknown; {nearest(key, [*keys, *extra])}."
    bad = re.search(r'Parser key "([^"]+)":', text)
    if bad and bad[1] in keys:
        value = re.search(r"(?:Got value|Given value): (.*)", text)
        got = f", got {value[1].strip()!r}" if value else ""
        return f"{bad[1]} must be {_expected(keys[bad[1]])}{got}."
    missing = re.search(r"arguments are required: (\S+)", text)
    if missing:
        name = missing[1].split(".")[-1]
        return f"--{name} is missing; name the directory for the results, such as --{name} results."
    return " ".join(text.split())


def nearest(key: str, known: list[str]) -> str:
    """The known name that a user may have meant, or all of them."""
    tails = {name.split(".")[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(key.split(".")[-1], list(tails), n=1)
    ]
    return f"did you mean {close[0]!r}" if close else f"known are {', '.join(known)}"


def _expected(hint: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    if hint in words:
        return words[hint]
    if isinstance(hint, types.UnionType):
        return _expected(get_args(hint)[0])
    if get_origin(hint) is list:
        examples = {int: "integers such as [1, 2]", float: "numbers such as [0.1, 0.05]", str: "names such as [loss]"}
        return f"a list of {examples[get_args(hint)[0]]}"
    return f"a mapping with the keys {', '.join(entry.name for entry in dataclasses.fields(hint))}"
