"""Data by name or from files: inputs x (n, d) and targets y (n, o)."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.csv_data import read_csv
from smesolve.experiments.shared.mnist_data import read_mnist
from smesolve.experiments.shared.npz_data import read_npz
from smesolve.experiments.shared.settings import DataSettings
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.data import finite_data

__all__ = ["DATASETS", "load_data", "training_and_test"]

SPLIT_KEY = 0
"""Seed of the random numbers by which samples are held out."""

Data = tuple[np.ndarray, np.ndarray]


def load_data(config: DataSettings) -> Data:
    """Return x (n, d) and y (n, o), both float64.

    Raises:
        SmesolveError: unknown name, file not found or without x and y, a key that the data do not have, scikit-learn
            or mlxtend missing.
    """
    suffix = Path(config.name).suffix.lower()
    if suffix != ".csv" and config.target is not None:
        raise SmesolveError(f"data.target applies to .csv files only, not to {config.name}; leave it out.")
    if config.name != "random":
        for key in ("in_features", "seed"):
            if getattr(config, key) is not None:
                raise SmesolveError(f"data.{key} applies to data.name=random only, not to {config.name}; leave it out.")
    if config.name != "mnist" and config.pooling is not None:
        raise SmesolveError(f"data.pooling applies to data.name=mnist only, not to {config.name}; leave it out.")
    if config.name in DATASETS:
        return DATASETS[config.name](config)
    if suffix not in READERS:
        raise SmesolveError(
            f"data.name={config.name!r} is neither a known data set nor a file ending in {' or '.join(READERS)}; "
            f"{nearest_name(config.name, list(DATASETS))}."
        )
    try:
        x, y = READERS[suffix](config)
    except FileNotFoundError:
        raise SmesolveError(
            f"data.name={config.name!r}: no such file; give its path from the working directory."
        ) from None
    except OSError as error:
        raise SmesolveError(
            f"data.name={config.name!r} cannot be read ({error.strerror or error}); name a file that can be read."
        ) from None
    except UNREADABLE as error:
        if isinstance(error, SmesolveError):
            raise
        raise SmesolveError(
            f"data.name={config.name!r} cannot be read as numbers ({' '.join(str(error).split())}); give a table of "
            "numbers."
        ) from None
    if len(x) != len(y):
        raise SmesolveError(
            f"data.name={config.name!r} has {len(x)} rows of x and {len(y)} of y; give as many of each."
        )
    samples = _available(config, len(x))
    x, y = (finite_data(name, part[:samples], torch.float64, CPU).numpy() for name, part in (("x", x), ("y", y)))
    return x, y


def training_and_test(config: DataSettings, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples are trained on, and which are held out by data.test; both increase.

    From mnist the last samples are held out, so that the first 1,000 of MNIST can be used for training; from other data
    samples are held out at random.

    Raises:
        SmesolveError: one of the two parts would be empty.
    """
    held = 0 if config.test is None else round(config.test * samples)
    if config.test is not None and not 0 < held < samples:
        raise SmesolveError(
            f"data.test={config.test:g} holds out {held} of {samples} samples; both parts must have at least one."
        )
    if config.name == "mnist":
        return np.arange(samples - held), np.arange(samples - held, samples)
    order = np.random.default_rng(np.random.SeedSequence(SPLIT_KEY)).permutation(samples)
    return np.sort(order[held:]), np.sort(order[:held])


def _available(config: DataSettings, available: int) -> int:
    if config.samples is not None and config.samples > available:
        raise SmesolveError(
            f"data.samples={config.samples} is more than the {available} samples of {config.name}; lower it."
        )
    return available if config.samples is None else config.samples


def _digits(config: DataSettings) -> Data:
    """Return images of 8 x 8 pixels in [0, 1], y one-hot in 10 outputs."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SmesolveError(
            "data.name=digits needs scikit-learn, which is not installed; install the extra smesolve[examples]."
        ) from None
    digits = load_digits()
    samples = _available(config, len(digits.target))
    return digits.data[:samples] / 16, np.eye(10)[digits.target[:samples]]


def _mnist(config: DataSettings) -> Data:
    """Return images of 28 x 28 pixels in [0, 1], or of averages over squares of them, y one-hot in 10 outputs."""
    x, labels = read_mnist(config.pooling or 1)
    samples = _available(config, len(labels))
    return x[:samples], np.eye(10)[labels[:samples]]


def _random(config: DataSettings) -> Data:
    """Return x standard normal, y = sin(2 x_1)."""
    samples, inputs = config.samples, config.in_features
    if samples is None or inputs is None:
        key = "samples" if samples is None else "in_features"
        raise SmesolveError(f"data.{key} is missing; data.name=random needs it, for example data.{key}=8.")
    check_numbers_fit(f"data.samples={samples} with data.in_features={inputs}", samples * inputs, "lower it")
    generator = np.random.default_rng(np.random.SeedSequence(config.seed or 0))
    x = generator.standard_normal((samples, inputs))
    return x, np.sin(2 * x[:, :1])


DATASETS: dict[str, Callable[[DataSettings], Data]] = {"digits": _digits, "mnist": _mnist, "random": _random}
"""Data by name; users may add their own."""

READERS: dict[str, Callable[[DataSettings], Data]] = {
    ".npz": lambda config: read_npz(config.name),
    ".csv": lambda config: read_csv(config.name, config.target),
}
"""Readers of files by their ending."""

CPU = torch.device("cpu")

UNREADABLE = (
    ValueError,
    EOFError,
    OverflowError,
    RuntimeError,  # zipfile: an encrypted archive, or compression that this Python does not have
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that reading a damaged file may raise."""
