"""What the benchmarks share: problems, clocks, processes of their own, tables, arguments and results on disk."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch

import smesolve as sme
from smesolve.confidence import NORMAL_QUANTILE

__all__ = [
    "NORMAL_QUANTILE",
    "SMALL",
    "in_a_process_of_its_own",
    "linear_problem",
    "parser",
    "peak",
    "shown",
    "sine_problem",
    "small_problem",
    "threads",
    "timed",
    "write",
]

SMALL = "tanh 2-4-1, 8 samples, keep_prob 0.8"


def sine_problem(
    samples: int, inputs: int, width: int, frequency: float = 2.0, normalised: bool = True
) -> sme.DropoutProblem:
    """Targets sin(frequency x_1), one output, tanh, keep_prob 0.8; normal inputs, of length about 1 if normalised."""
    x = np.random.default_rng(0).standard_normal((samples, inputs))
    x = x / inputs**0.5 if normalised else x
    return sme.DropoutProblem(sme.TwoLayerNetwork(inputs, width), x, np.sin(frequency * x[:, :1]), keep_prob=0.8)


def small_problem() -> sme.DropoutProblem:
    """The problem that `SMALL` names."""
    return sine_problem(8, 2, 4, normalised=False)


def linear_problem(keep_prob: float) -> tuple[sme.DropoutProblem, torch.Tensor]:
    """Linear regression, whose moments are exact, and where it starts."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((6, 1))
    problem = sme.DropoutProblem(sme.LinearNetwork(2), x, y, keep_prob=keep_prob)
    return problem, torch.tensor([1.0, -0.5], dtype=torch.float64)


def timed(function: Callable[..., Any], *arguments: object, **options: object) -> tuple[float, Any]:
    """Seconds of one call, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def peak() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process_of_its_own(function: Callable[..., Any], *arguments: object) -> Any:
    """function(*arguments) in a fresh process: its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def threads() -> str:
    """Versions and threads, for the head of what is printed."""
    return f"torch {torch.__version__}, threads {torch.get_num_threads()}"


def parser(doc: str) -> argparse.ArgumentParser:
    """Arguments of a script, --out among them."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--out", help="JSON file")
    return made


def shown(table: pd.DataFrame, digits: int = 3, **options: object) -> str:
    """A table as text."""
    return table.to_string(float_format=lambda value: f"{value:.{digits}g}", **({"index": False} | options))


def write(path: str | None, result: object) -> None:
    """The result as JSON, where a path is given."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1, default=str)
