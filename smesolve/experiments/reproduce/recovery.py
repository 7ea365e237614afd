"""Recovery: number of samples from which a wide network recovers a narrow teacher network (figure 8).

The error on new inputs is measured as a function of the number of samples, after each training by Adam. The figure
shows it by colours, without numbers: with dropout the target is recovered from fewer samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.experiments.shared.cells import Cell, training_cost
from smesolve.experiments.shared.experiment import Experiment, digest_of
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, interval, markdown
from smesolve.experiments.shared.teacher import TeacherSettings, described_student, student_problem, teacher_data
from smesolve.figures import PAGE, Figure, band, drawing, log_ticks
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.training import train_by_adam
from smesolve.problem.dropout import DropoutProblem
from smesolve.validation import check_integer, check_list, check_positive

__all__ = ["Recovery", "RecoverySettings", "recovery_figure"]

CAPTION = (
    "Error on new inputs, relative to the spread of the target, against the number of samples, one line per "
    "training, means over runs with 95% bands. Dotted: the error below which the target counts as recovered."
)

TEST_SAMPLES = 1001


@dataclass(frozen=True)
class RecoverySettings(TeacherSettings):
    """Recovery of a target from few samples.

    Args:
        samples: numbers of samples.
        recovered: relative error below which the target counts as recovered.
    """

    samples: list[int] = field(default_factory=lambda: [4, 6, 9, 14, 20])
    recovered: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("samples", self.samples, lambda name, count: check_integer(name, count, 2))
        check_positive("recovered", self.recovered)


@experiment("reproduce", "recovery")
class Recovery(Experiment[RecoverySettings]):
    """Recovery of a narrow network from few samples (figure 8)."""

    Settings = RecoverySettings
    title = "Recovery from few samples"
    example = "examples/reproduce_recovery.yaml --out results/reproduce_recovery"

    @cached_property
    def students(self) -> dict[int, tuple[DropoutProblem, Tensor]]:
        """Problem and initial points by number of samples."""
        return {count: student_problem(self.settings, count) for count in sorted(set(self.settings.samples))}

    def cells(self) -> list[Cell]:
        """Return one cell per number of samples and training."""
        s = self.settings
        return [
            Cell(
                f"{count} samples, {training}",
                partial(_errors, problem, starts, s, training),
                training_cost(problem, starts[0], s.lr, s.steps, s.runs),
            )
            for count, (problem, starts) in self.students.items()
            for training in s.trainings
        ]

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the errors, and the numbers of samples from which the target is recovered."""
        s = self.settings
        keys = [(count, training) for count in self.students for training in s.trainings]
        table = pd.concat(
            [
                result.assign(samples=count, training=training)
                for (count, training), result in zip(keys, results, strict=True)
            ],
            ignore_index=True,
        )
        means = over_runs(table, ["samples", "training"], ["test_error", "loss"])
        reached = pd.DataFrame([_recovered_from(means, training, s.recovered) for training in s.trainings])
        against = _against_first(table, s.trainings)
        text = join(
            "`test_error`: root mean square error on 1,001 new inputs over the standard deviation of the target there.",
            markdown(means, ["samples", "training", "test_error", "loss"]),
            f"Smallest number of samples from which on the whole interval of the error is below {s.recovered:g}, up to "
            "the largest number tried:",
            markdown(reached, ["training", "samples"]),
            f"Error minus that after {s.trainings[0]}, paired by initial point. The paper's figure shows a lower one "
            "with dropout where samples are few, and prints no number:",
            markdown(against, ["samples", "training", "change", "verdict"], headers={"change": "ours"}),
        )
        tables = {"recovery": table, "recovery_samples": reached, "recovery_differences": against}
        figures = {"recovery": Captioned(recovery_figure(means, s.recovered), CAPTION)}
        conclusion = _conclusion(reached, against, s.trainings[0])
        return [Section("Recovery from few samples", tables, figures, text, conclusion)]

    def measured(self) -> str:
        """Return teacher, network and training in words."""
        return f"A {described_student(self.settings)}"

    def data_digest(self) -> str:
        """Return a digest of the data and the initial points."""
        return digest_of(*(tensor for problem, starts in self.students.values() for tensor in (problem.x, starts)))


def _errors(problem: DropoutProblem, starts: Tensor, settings: RecoverySettings, training: str) -> pd.DataFrame:
    """Return the error on new inputs, and the loss, at the end of each run."""
    x, y = teacher_data(settings, TEST_SAMPLES)
    (ends,) = train_by_adam(problem, starts, settings.lr, [settings.steps], training, settings.seed)
    with torch.no_grad():
        residual = problem.on_data(x, y).outputs(ends) - y
        error = residual.square().mean((-2, -1)).sqrt() / y.std(correction=0)
        loss = problem.loss(ends)
    return pd.DataFrame({"run": np.arange(len(ends)), "test_error": error.cpu().numpy(), "loss": loss.cpu().numpy()})


def _recovered_from(means: pd.DataFrame, training: str, threshold: float) -> dict[str, Any]:
    """Return the smallest number of samples from which on every error is below the threshold."""
    rows = means[means.training == training].sort_values("samples", ascending=False)
    below = (rows.test_error_high < threshold).cummin()
    return {"training": training, "samples": str(rows.samples[below].min()) if below.any() else "more than tried"}


def _against_first(table: pd.DataFrame, trainings: list[str]) -> pd.DataFrame:
    """Return the changes of the error relative to the first training."""
    first, *others = trainings
    rows = []
    for count, group in table.groupby("samples"):
        wide = group.pivot(index="run", columns="training", values="test_error")
        for training in others:
            change = mean_over(wide[training] - wide[first])
            verdict = "lower" if change.high < 0 else "higher" if change.low > 0 else "unresolved"
            head = {"samples": count, "training": training}
            rows.append(head | change.columns("change") | {"verdict": verdict})
    return pd.DataFrame(rows, columns=None if rows else ["samples", "training", "change", "verdict"])


def _conclusion(reached: pd.DataFrame, against: pd.DataFrame, first: str) -> str:
    lines = [f"- {row.training}: recovered from {row.samples} samples on." for row in reached.itertuples()]
    lines += [
        f"- {row['training']} against {first}, {row['samples']} samples: {row['verdict']}, error "
        f"{interval(row, 'change', '+.3g')}."
        for row in against.to_dict("records")
    ]
    return "\n".join(lines)


def recovery_figure(means: pd.DataFrame, recovered: float) -> Figure:
    """Draw the error on new inputs against the number of samples."""
    with drawing():
        figure = Figure(figsize=(PAGE / 2, 2.6), layout="constrained")
        axis = figure.subplots()
        for index, training in enumerate(means.training.unique()):
            band(axis, means[means.training == training], "samples", "test_error", index, training)
        axis.axhline(recovered, color="0.5", linestyle=":", linewidth=0.8)
        log_ticks(axis, means.samples)
        axis.set(yscale="log", xlabel="samples", ylabel="relative error on new inputs")
        axis.legend()
        return figure
