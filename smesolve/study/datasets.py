"""Data by name or from files: inputs x (n, d) and targets y (n, o)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from smesolve.arguments import check_numbers_fit
from smesolve.study.configuration import DataConfig
from smesolve.study.configuration_errors import ConfigError, nearest

__all__ = ["DATASETS", "load_data"]

Data = tuple[np.ndarray, np.ndarray]


def load_data(config: DataConfig) -> Data:
    """x (n, d) and y (n, o), both float64.

    Raises:
        ConfigError: unknown name, file not found or without x and y, a key that the data do not have, scikit-learn
            missing.
    """
    suffix = Path(config.name).suffix.lower()
    if suffix != ".csv" and config.target is not None:
        raise ConfigError(f"data.target applies to .csv files alone, not to {config.name}; leave it out.")
    if config.name != "random":
        for key in ("in_features", "seed"):
            if getattr(config, key) is not None:
                raise ConfigError(f"data.{key} applies to data.name=random alone, not to {config.name}; leave it out.")
    if config.name in DATASETS:
        return DATASETS[config.name](config)
    if suffix not in READERS:
        raise ConfigError(
            f"data.name={config.name!r} is neither a known data set nor a file ending in {' or '.join(READERS)}; "
            f"{nearest(config.name, list(DATASETS))}."
        )
    try:
        x, y = READERS[suffix](config)
    except FileNotFoundError:
        raise ConfigError(
            f"data.name={config.name!r}: no such file; give its path from the working directory."
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"data.name={config.name!r} cannot be read as numbers ({' '.join(str(error).split())}); give a table of "
            "numbers."
        ) from None
    return x[: _available(config, len(x))], y[: config.samples]


def _available(config: DataConfig, available: int) -> int:
    if config.samples is not None and config.samples > available:
        raise ConfigError(
            f"data.samples={config.samples} is more than the {available} samples of {config.name}; lower it."
        )
    return available if config.samples is None else config.samples


def _digits(config: DataConfig) -> Data:
    """Images of 8 x 8 pixels in [0, 1], y one-hot in 10 outputs."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "data.name=digits needs scikit-learn, which is not installed; install the extra smesolve[examples]."
        ) from None
    digits = load_digits()
    samples = _available(config, len(digits.target))
    return digits.data[:samples] / 16, np.eye(10)[digits.target[:samples]]


def _random(config: DataConfig) -> Data:
    """x standard normal, y = sin(2 x_1)."""
    for key in ("samples", "in_features"):
        if getattr(config, key) is None:
            raise ConfigError(f"data.{key} is missing; data.name=random needs it, for example data.{key}=8.")
    numbers = config.samples * config.in_features
    check_numbers_fit(f"data.samples={config.samples} with data.in_features={config.in_features}", numbers, "lower it")
    generator = np.random.default_rng(np.random.SeedSequence(config.seed or 0))
    x = generator.standard_normal((config.samples, config.in_features))
    return x, np.sin(2 * x[:, :1])


def _npz(config: DataConfig) -> Data:
    with np.load(config.name, allow_pickle=False) as arrays:
        for name in ("x", "y"):
            if name not in arrays:
                raise ConfigError(
                    f"data.name={config.name!r} has no array {name!r}; save it by numpy.savez(path, x=x, y=y)."
                )
        x, y = (np.asarray(arrays[name], dtype=np.float64) for name in ("x", "y"))
    return x, y[:, None] if y.ndim == 1 else y


def _csv(config: DataConfig) -> Data:
    with open(config.name, encoding="utf-8") as file:
        header = file.readline()
    table = pd.read_csv(config.name, sep=max(SEPARATORS, key=header.count))
    if config.target is not None:
        if config.target not in table.columns:
            names = [str(column) for column in table.columns]
            remedy = nearest(config.target, names)
            raise ConfigError(f"data.target={config.target!r} is no column of {config.name!r}; {remedy}.")
        x, y = table.drop(columns=config.target), table[[config.target]]
        return x.to_numpy(dtype=np.float64, copy=True), y.to_numpy(dtype=np.float64, copy=True)
    parts = []
    for name in ("x", "y"):
        columns = [column for column in table.columns if str(column).strip().startswith(name)]
        if not columns:
            raise ConfigError(
                f"data.name={config.name!r} has no column that begins with {name!r}; name inputs x1, x2, ... and "
                "outputs y1, y2, ..., or name the only output in data.target."
            )
        parts.append(columns)
    others = [str(column) for column in table.columns if column not in [*parts[0], *parts[1]]]
    if others:
        raise ConfigError(
            f"data.name={config.name!r} has the column {others[0]!r}, which begins with neither x nor y; rename it, "
            "leave it out of the file, or name the only output in data.target."
        )
    x, y = (table[columns].to_numpy(dtype=np.float64, copy=True) for columns in parts)
    return x, y


SEPARATORS = ",;\t"
"""Of a .csv file: the one that its header has most of."""

DATASETS: dict[str, Callable[[DataConfig], Data]] = {"digits": _digits, "random": _random}
"""Data by name; add to it to name some of your own."""

READERS: dict[str, Callable[[DataConfig], Data]] = {".npz": _npz, ".csv": _csv}
"""Files by their ending."""
