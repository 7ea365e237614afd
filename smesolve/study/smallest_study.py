"""A complete study with tiny arrays: it takes the time and memory of loading libraries and writing a report."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from smesolve.comparison.weak_error import weak_error
from smesolve.experiments.shared.markdown import picture
from smesolve.figures import save_figure
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import TwoLayerNetwork
from smesolve.study.html_report import html_report
from smesolve.study.manifest import write_manifest

__all__ = ["run_smallest_study"]


@functools.cache
def run_smallest_study() -> None:
    """Run the smallest study, once in a process.

    torch loads parts of itself when the first derivative is taken, and matplotlib its fonts with the first figure.
    """
    x = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    problem = DropoutProblem(TwoLayerNetwork(1, 1), x, x, keep_prob=0.8)
    study = weak_error(problem, problem.initial(), [0.2], 0.4, paths=8, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        save_figure(study.plot(), directory, "weak_error")
        (directory / "report.md").write_text(picture("Weak error.", "weak_error"), encoding="utf-8")
        write_manifest(directory, "weak-error", [], {}, 0, 0.0)
        html_report(directory)
