"""Results on disk: a directory that appears whole or not at all, and its manifest."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from smesolve.study.configuration import ConfigError
from smesolve.version import __version__

__all__ = ["MANIFEST", "whole_directory", "write_manifest"]

MANIFEST = "manifest.json"

PACKAGES = ("torch", "torchsde", "numpy", "scipy", "pandas", "sympy", "matplotlib")


@contextmanager
def whole_directory(out: Path, overwrite: bool) -> Iterator[Path]:
    """A directory to write into, which becomes `out` when the block ends well and vanishes when it does not.

    Raises:
        ConfigError: `out` cannot be made, is a file or holds something; with `overwrite`, something without a manifest.
    """
    _check_free(out, overwrite)
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    partial = out.absolute().parent / f".{out.absolute().name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"--out {str(out)!r} cannot be made ({error.strerror}); name a directory in a place that can be written to."
        ) from None
    try:
        yield partial
        if out.is_dir():
            shutil.rmtree(out)
        partial.rename(out.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            parent.rmdir()
        raise


def write_manifest(
    directory: Path, command: Sequence[str], config: dict[str, Any], seed: int | None, wall_time: float
) -> None:
    """What is needed to repeat a study: configuration, seed, versions, command, threads; and its wall time (s)."""
    manifest = {
        "command": shlex.join(["smesolve", *command]),
        "config": config,
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "smesolve": __version__,
            **{package: version(package) for package in PACKAGES},
        },
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "wall_time": round(wall_time, 3),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a file; name a directory.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"--out {str(out)!r} is not empty; name another directory, or replace it by --overwrite.")
    # What to delete is the user's word alone, so only results of this program are.
    if not (out / MANIFEST).is_file():
        raise ConfigError(
            f"--out {str(out)!r} has no {MANIFEST}, so it was not written by smesolve and --overwrite does not replace "
            "it; name another directory."
        )
