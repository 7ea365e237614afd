"""The base classes of experiments: settings in, cells to run, sections of a report out.

A new experiment is one new file: a dataclass with its settings, and a subclass of `Experiment` under the decorator
`experiment`. Command line, dry run, progress bar, resuming and report follow from its cells and its settings.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.datasets import load_data, training_and_test
from smesolve.experiments.shared.dry_run import estimate
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.optimizers import described_optimizer, start_of, trained_by
from smesolve.experiments.shared.own_module import reads, source_digest
from smesolve.experiments.shared.problems import build_problem, described, outside_theorems
from smesolve.experiments.shared.section import Section
from smesolve.experiments.shared.settings import ProblemSettings, TrainingSettings
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.problem import Problem
from smesolve.sampling.journal import Journal

__all__ = ["Experiment", "NetworkExperiment", "digest_of"]

S = TypeVar("S")
N = TypeVar("N", bound=ProblemSettings)


class Experiment(ABC, Generic[S]):
    """A study that is run by name.

    The first line of the docstring of a subclass is its description on the command line.

    Args:
        settings: an instance of `Settings`.
    """

    Settings: ClassVar[type[Any]]
    """Dataclass of the keys of the configuration; its docstring explains each of them under "Args:"."""
    title: ClassVar[str]
    """Title of the report."""
    example: ClassVar[str] = "--out results"
    """Arguments after the command, for the help."""
    writes: ClassVar[str] = "tables (CSV), figures (PNG and PDF)"
    """Files in the directory of results, in addition to the report and the manifest."""
    extendable: ClassVar[bool] = False
    """Whether `smesolve extend` can add paths to finished results. Their journal is then kept."""
    goals: ClassVar[Sequence[str]] = ()
    """Keys that say how much is measured, not what: an interrupted study may continue with other values."""
    command: ClassVar[str]
    study: ClassVar[str]

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.journal: Journal | None = None
        """Journal in which cells that are not `kept` store their own blocks; None if nothing is stored."""

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Return the pieces of work."""

    @abstractmethod
    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the sections of the report from the results of the cells, in their order."""

    def measured(self) -> str:
        """Return data, network and training in words, for the report."""
        return ""

    def caveats(self) -> str:
        """Return caveats for the conclusions. Default: nothing."""
        return ""

    def code_digest(self) -> str | None:
        """Return a digest of the user's code that the experiment runs. Default: None, it runs none."""
        return None

    def data_digest(self) -> str | None:
        """Return a digest of data and start, on which results depend in addition to the settings. Default: None."""
        return None

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return the estimated cost of the experiment: sizes, steps, paths, time and memory, each in words.

        Args:
            overhead: seconds that loading the libraries and writing the report take. Default: they are left out.
        """
        return estimate(self.measured(), self.cells(), getattr(self.settings, "workers", None), overhead)

    def report(self, sections: Sequence[Section], warnings: Sequence[str] = ()) -> str:
        """Return the report in Markdown: conclusions first, then what was measured, then the sections."""
        several = len(sections) > 1
        seed = getattr(self.settings, "seed", None)
        sampled = "" if seed is None else f"Seed {seed}; intervals are 95% intervals unless stated otherwise."
        conclusions, details, files = [], [], []
        for section in sections:
            conclusions += [f"**{section.title}**" if several else "", section.conclusion]
            details += [f"## {section.title}", section.pictures if several else "", section.text.strip()]
            files += [f"`{name}.csv`" for name in section.tables] + [f"`{name}`" for name in section.texts]
            files += [f"`{name}.png`, `{name}.pdf`" for name in section.figures]
        return join(
            f"# {self.title}",
            "## Conclusion",
            *conclusions,
            self.caveats(),
            "\n".join(["## Warnings", "", *(f"- {text}" for text in warnings)]) if warnings else "",
            "" if several else sections[0].pictures,
            "## What was measured" if self.measured() or sampled else "",
            f"{self.measured()} {sampled}".strip(),
            *details,
            "## Files",
            f"`report.html`: this report in one file, with configuration, seed and versions. {', '.join(files)}; "
            "`manifest.json`: configuration, seed, versions, command, wall time.",
        )


class NetworkExperiment(Experiment[N]):
    """An experiment on one network and its data, which its settings describe.

    The settings have `data`, `network` and `keep_prob` or `keep_probs`, and may have `training`, `dtype` and `device`.
    """

    takes_modules: ClassVar[bool] = False
    """Whether it accepts a network of the user, `network.module`."""

    @property
    def training(self) -> TrainingSettings:
        """Optimiser, loss and noise. Default: squared error with dropout on the last hidden layer."""
        return getattr(self.settings, "training", TrainingSettings())

    @property
    def keep_probs(self) -> list[float]:
        """Probabilities that a neuron is kept; `problem` uses the first one."""
        several = getattr(self.settings, "keep_probs", None)
        return [self.settings.keep_prob] if several is None else several  # type: ignore[attr-defined]

    @property
    def lrs(self) -> list[float]:
        """Learning rates of the settings; empty if they have none."""
        return getattr(self.settings, "lrs", [])

    @cached_property
    def problem(self) -> Problem:
        """The problem of the settings; over the optimiser's state if the optimiser has one."""
        return trained_by(self.trained, self.training, self.lrs)

    @cached_property
    def trained(self) -> DropoutProblem | ModuleProblem:
        """The problem whose parameters are trained."""
        return self.problem_of(self.keep_probs[0])

    def problem_of(self, keep_prob: float, training: TrainingSettings | None = None) -> DropoutProblem | ModuleProblem:
        """Return the problem that is trained, at one keep_prob.

        Args:
            keep_prob: probability that a neuron is kept.
            training: loss and noise. Default: from the settings.
        """
        dtype, device = (getattr(self.settings, name, word) for name, word in (("dtype", "float64"), ("device", "cpu")))
        own = self.settings.network.module is not None
        if own and not self.takes_modules:
            raise SmesolveError(
                "network.module is read by compare, weak-error and validity, not by this study; give network.width."
            )
        x, y = load_data(self.settings.data)
        _, held_out = training_and_test(self.settings.data, len(x))
        chosen = self.training if training is None else training
        problem = build_problem(x, y, self.settings.network, chosen, keep_prob, dtype, device, held_out)
        if own:
            self._check_module(problem, keep_prob)
        return problem

    def _check_module(self, problem: Problem, keep_prob: float) -> None:
        """Refuse settings that a module of the user does not use."""
        name, training = str(self.settings.network.module), self.training
        default = getattr(type(self.settings), "keep_prob", None)
        unread: list[tuple[str, object]] = []
        if training.dropout != TrainingSettings.dropout:
            unread.append(("training.dropout", training.dropout))
        if keep_prob != default and isinstance(problem, ModuleProblem) and not reads(name, "keep_prob"):
            unread.append(("keep_prob", keep_prob))
        if unread:
            key, value = unread[0]
            raise SmesolveError(
                f"{key}={value} is not read by network.module={name!r}, which has dropout where its layers say so; "
                "leave it out, or give the function an argument keep_prob."
            )

    def code_digest(self) -> str | None:
        """Return a digest of the file that defines the user's network, or None."""
        name = self.settings.network.module
        return None if name is None else source_digest(name)

    @property
    def dropout_problem(self) -> DropoutProblem:
        """The problem, for settings whose training has closed forms."""
        assert isinstance(self.problem, DropoutProblem)
        return self.problem

    @cached_property
    def theta0(self) -> Tensor:
        """The parameters (D,) or the optimiser's state (S,) from which all paths start."""
        network = self.settings.network
        return start_of(self.problem, self.training, self.lrs, network.seed, present=network.module is not None)

    def measured(self) -> str:
        """Return data, network, noise and optimiser in words."""
        settings = self.settings
        given = settings.data.name, self.trained, self.problem, settings.network, self.training, self.keep_probs
        words = described(*given)
        return f"{words} {described_optimizer(self.problem, self.training, self.lrs, settings.network.seed)}".rstrip()

    def caveats(self) -> str:
        """Return what the theorems of weak order do not cover."""
        return outside_theorems(self.problem, self.theta0)

    def data_digest(self) -> str:
        """Return a digest of the data and the initial parameters."""
        problem = self.trained
        test = problem.test
        held_out = [] if test is None else [part for part in (test.x, test.y) if part is not None]
        return digest_of(problem.x, problem.y, self.theta0, *held_out)


def digest_of(*tensors: Tensor) -> str:
    """Return a digest of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.cpu().numpy()
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
