"""Orientations: condensation of the input weights of a wide network that learns from a narrow one by Adam.

Figure 4 shows it for tanh with one input; figure 7a counts effective orientations for 10-100-1 with 30 samples. The
figures print no numbers, so only the direction can be compared: fewer orientations with dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
from torch import Tensor

from smesolve.experiments.shared.cells import Cell, training_cost
from smesolve.experiments.shared.experiment import Experiment, digest_of
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, interval, markdown
from smesolve.experiments.shared.teacher import TeacherSettings, described_student, student_problem
from smesolve.figures import PAGE, Figure, band, drawing, symlog_steps
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.orientations import ODD, orientations_along
from smesolve.landscape.training import checkpoints, train_by_adam
from smesolve.problem.dropout import DropoutProblem
from smesolve.validation import check_integer

__all__ = ["Orientations", "OrientationsSettings", "orientations_figure"]

CAPTION = (
    "Left: effective ratio against the step, one line per training, means over runs with 95% bands. Right: "
    "cosines of the input weights of all pairs of neurons at the end of the first run, after each training."
)

MEASURES = ["effective_ratio", "least_ratio", "participation", "loss"]


@dataclass(frozen=True)
class OrientationsSettings(TeacherSettings):
    """Orientations of the input weights.

    Args:
        samples: number of samples n.
        checkpoints: points along training: the start, then evenly spaced in the logarithm of the step.
    """

    samples: int = 30
    checkpoints: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("samples", self.samples, 2)
        check_integer("checkpoints", self.checkpoints, 2)


@experiment("reproduce", "orientations")
class Orientations(Experiment[OrientationsSettings]):
    """Condensation of the input weights of a wide network that learns from a narrow one (figures 4 and 7a)."""

    Settings = OrientationsSettings
    title = "Orientations of the input weights"
    example = "examples/reproduce_orientations.yaml --out results/reproduce_orientations"

    @cached_property
    def student(self) -> tuple[DropoutProblem, Tensor]:
        """The problem and the initial points."""
        return student_problem(self.settings, self.settings.samples)

    def cells(self) -> list[Cell]:
        """Return one cell per training."""
        s = self.settings
        problem, starts = self.student
        cost = training_cost(problem, starts[0], s.lr, s.steps, s.runs)
        return [Cell(training, partial(_along, problem, starts, s, training), cost) for training in s.trainings]

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the comparison of each training with the first one, paired by initial point."""
        s = self.settings
        table = pd.concat([result["table"] for result in results], ignore_index=True)
        maps = {training: result["map"] for training, result in zip(s.trainings, results, strict=True)}
        means = over_runs(table, ["training", "step"], MEASURES)
        ends = means[means.step == s.steps]
        against = _against_first(table[table.step == s.steps])
        text = join(
            "Input weights with their bias. `effective_ratio`: caps with a cosine above 0.95 to their centres that "
            "cover the orientations, over the width; `least_ratio`: the fewest that there can be; `participation`: "
            f"orientations weighted by amplitude, from 1 to {s.width}. At the end:",
            markdown(ends, ["training", *MEASURES]),
            f"Against {s.trainings[0]}, paired by initial point. The paper's figures show fewer orientations with "
            "dropout, and print no number:",
            markdown(against, ["training", "measure", "paper", "change", "agrees"], headers={"change": "ours"}),
        )
        tables = {"orientations": table, "orientations_differences": against}
        figures = {"orientations": Captioned(orientations_figure(means, maps), CAPTION)}
        conclusion = _conclusion(against, s.trainings[0])
        return [Section("Orientations of the input weights", tables, figures, text, conclusion)]

    def measured(self) -> str:
        """Return teacher, network and training in words."""
        return f"{self.settings.samples} samples of a {described_student(self.settings)}"

    def data_digest(self) -> str:
        """Return a digest of the data and the initial points."""
        problem, starts = self.student
        return digest_of(problem.x, problem.y, starts)


def _along(problem: DropoutProblem, starts: Tensor, settings: OrientationsSettings, training: str) -> dict[str, Any]:
    """Return the orientations of each run along one training, and the cosine map at the end of the first run."""
    steps = checkpoints(settings.steps, settings.checkpoints)
    states = train_by_adam(problem, starts, settings.lr, steps, training, settings.seed)
    table, cosines = orientations_along(problem, states, steps, settings.activation in ODD)
    table.insert(0, "training", training)
    return {"table": table[["training", "run", "step", *MEASURES]], "map": cosines}


def _against_first(ends: pd.DataFrame) -> pd.DataFrame:
    """Return the changes of both measures of orientations relative to the first training."""
    first, *others = ends.training.unique()
    paper = "fewer" if first == "R_S" else "-"
    rows = []
    for measure in ("effective_ratio", "participation"):
        wide = ends.pivot(index="run", columns="training", values=measure)
        for training in others:
            change = mean_over(wide[training] - wide[first])
            seen = "fewer" if change.high < 0 else "more" if change.low > 0 else "unresolved"
            agrees = "-" if paper == "-" else "unresolved" if seen == "unresolved" else "yes" if seen == paper else "no"
            head = {"training": training, "measure": measure}
            rows.append(head | change.columns("change") | {"paper": paper, "seen": seen, "agrees": agrees})
    return pd.DataFrame(rows, columns=None if rows else ["training", "measure", "change", "paper", "seen", "agrees"])


def _conclusion(against: pd.DataFrame, first: str) -> str:
    lines = [
        f"- {row['training']} against {first}: {row['seen']}{'' if row['seen'] == 'unresolved' else ' orientations'}, "
        f"{row['measure'].replace('_', ' ')} {interval(row, 'change', '+.3g')}."
        for row in against.to_dict("records")
    ]
    return "\n".join(lines) or f"- {first} is the only training, and is compared with nothing."


def orientations_figure(means: pd.DataFrame, maps: dict[str, Any]) -> Figure:
    """Draw the effective ratio along training, and cosine maps at the end."""
    with drawing():
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        axes: Sequence[Any] = figure.subplots(1, 1 + len(maps), width_ratios=[1.4, *[1.0] * len(maps)])
        for index, training in enumerate(maps):
            rows = means[means.training == training]
            band(axes[0], rows, "step", "effective_ratio", index, training)
            image = axes[1 + index].imshow(maps[training], cmap="cividis", vmin=-1, vmax=1)
            axes[1 + index].set_title(training, loc="left")
            axes[1 + index].set(xlabel="cosines of weights", xticks=[], yticks=[])
        symlog_steps(axes[0])
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("effective ratio")
        axes[0].legend()
        figure.colorbar(image, ax=axes[-1], shrink=0.8)
        return figure
