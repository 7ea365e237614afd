"""Condensation of the input weights of a two-layer network on few orientations along training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.experiments.landscape_sections.base import LandscapeSection
from smesolve.experiments.landscape_sections.comparisons import against_first
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import check_choices
from smesolve.figures import PAGE, Figure, band, drawing, symlog_steps
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.operators import dropout_problem
from smesolve.landscape.orientations import ODD, orientations_along
from smesolve.landscape.training import ABLATIONS, AblatedIteration, check_steps, checkpoints, initial_points, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.result import Result, sentences
from smesolve.sampling.ensemble import Process
from smesolve.solver.integration import Integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.validation import (
    check_flag,
    check_integer,
    check_list,
    check_parameters,
    check_positive,
    check_seed,
)

__all__ = [
    "TRAININGS",
    "Condensation",
    "CondensationSettings",
    "CondensationStudy",
    "condensation",
    "condensation_figure",
]

CAPTION = (
    "One row per initial scale. Left: effective ratio and participation against the step, one line per training, means "
    "over runs with their 95% bands. Right: cosines of the input weights of all pairs of neurons at "
    "the end of the first run, after the training named."
)

EQUATION = "SME order 2"

TRAININGS = (*ABLATIONS, EQUATION)
"""Dropout, its ablations (drift only is descent on R_S + R_1 = L_S), and its modified equation."""

MEASURES = ["effective_ratio", "participation", "loss"]


@dataclass(frozen=True)
class CondensationSettings:
    """Condensation of the input weights.

    Args:
        trainings: gradient descent, drift only (only R_1), noise only, dropout, SME order 2.
        scales: factors of the initial parameters; 1 is the network's own initialisation. Networks with small ones
            condense without dropout, too.
        checkpoints: points along training: the start, then evenly spaced in the logarithm of the step.
    """

    trainings: list[str] = field(default_factory=lambda: ["gradient descent", "drift only", "dropout", EQUATION])
    scales: list[float] = field(default_factory=lambda: [1.0, 0.1])
    checkpoints: int = 8

    def __post_init__(self) -> None:
        check_choices("condensation.trainings", self.trainings, TRAININGS)
        check_list("condensation.scales", self.scales, check_positive, distinct=True)
        check_integer("condensation.checkpoints", self.checkpoints, 2)


@dataclass(frozen=True, repr=False)
class CondensationStudy(Result):
    """Orientations along training."""

    table: pd.DataFrame
    """training, run, step, orientations (an upper bound), least_orientations (a lower bound), effective_ratio
    (orientations over the width), participation, loss."""
    maps: Mapping[str, np.ndarray]
    """Training -> cosine map (m, m) of the last state of the first run, with the neurons sorted by group."""

    def summary(self) -> str:
        """Return the conclusions, one sentence per line."""
        last = self.table[self.table.step == self.table.step.max()]
        against = against_first(last, MEASURES[:2]).assign(scale=1.0)
        return sentences(_conclusion(against, last.training.iloc[0]))

    def plot(self) -> Figure:
        """Return orientations over training, and maps of cosines."""
        table = self.table.assign(scale=1.0)
        return condensation_figure({1.0: self}, over_runs(table, ["scale", "training", "step"], MEASURES))


@entry_point
def condensation(
    problem: DropoutProblem,
    starts: Tensor,
    lr: float,
    steps: Sequence[int],
    trainings: Sequence[str] = ("gradient descent", "drift only", "dropout", EQUATION),
    lines: bool = False,
    seed: int = 0,
) -> CondensationStudy:
    """Measure orientations along training by gradient descent, by descent on R_S + R_1, by dropout and by its SME.

    Args:
        problem: dropout on a `TwoLayerNetwork`.
        starts: initial points (B, D), one per run.
        lr: learning rate; the SME is integrated by small_noise_heun with dt = lr.
        steps: increasing step numbers of the measurements.
        trainings: names in `TRAININGS`.
        lines: count orientations up to their sign, for odd activations.
        seed: seed of the masks and of the Brownian motion.
    """
    starts = check_parameters("starts", starts, dropout_problem(problem), ("B",))
    check_positive("lr", lr)
    steps = check_steps("steps", steps)
    trainings = check_choices("trainings", trainings, TRAININGS)
    check_flag("lines", lines)
    check_seed("seed", seed)
    results = run_cells(
        [Cell(name, partial(_along, problem, name, starts, lr, steps, lines, seed)) for name in trainings]
    )
    return _study(trainings, results)


def _along(
    problem: DropoutProblem, name: str, starts: Tensor, lr: float, steps: Sequence[int], lines: bool, seed: int
) -> dict[str, Any]:
    """Return the rows of one training, and the cosine map of its first run."""
    states = train(_process(problem, name, starts, lr, seed), starts, steps)
    table, cosines = orientations_along(problem, states, steps, lines)
    table.insert(0, "training", name)
    return {"table": table.drop(columns="least_ratio"), "map": cosines}


def _process(problem: DropoutProblem, name: str, starts: Tensor, lr: float, seed: int) -> Process:
    if name == EQUATION:
        return Integration(ModifiedEquation(problem, lr, order=2), starts[0], "small_noise_heun", lr, seed)
    return AblatedIteration(problem, lr, seed, name, len(starts))


def _study(trainings: Sequence[str], results: Sequence[dict[str, Any]]) -> CondensationStudy:
    table = pd.concat([result["table"] for result in results], ignore_index=True)
    return CondensationStudy(table, {name: result["map"] for name, result in zip(trainings, results, strict=True)})


class Condensation(LandscapeSection[CondensationSettings]):
    """Trainings from each initial scale, compared run by run."""

    name = "condensation"

    def cells(self) -> list[Cell]:
        """Return one cell per initial scale and training."""
        s, cells = self.settings, []
        steps = checkpoints(s.steps, self.options.checkpoints)
        for scale in self.options.scales:
            starts = initial_points(self.problem, s.runs, s.network.seed, scale)
            for name in self.options.trainings:
                along = partial(_along, self.problem, name, starts, s.lr, steps, self._lines, s.seed)
                cells.append(Cell(f"condensation, initial scale {scale!r}, {name}", along, self.ensembles()))
        return cells

    @property
    def _lines(self) -> bool:
        return self.settings.network.activation in ODD

    def summarise(self, results: list[Any]) -> Section:
        """Compare each training with the first one, paired by initial point."""
        trainings, scales = self.options.trainings, self.options.scales
        studies = {
            scale: _study(trainings, results[k * len(trainings) : (k + 1) * len(trainings)])
            for k, scale in enumerate(scales)
        }
        table = pd.concat([study.table.assign(scale=scale) for scale, study in studies.items()], ignore_index=True)
        means = over_runs(table, ["scale", "training", "step"], MEASURES)
        step = int(table.step.max())
        ends = table[table.step == step].groupby("scale", sort=False)
        against = pd.concat([against_first(group, MEASURES[:2]).assign(scale=scale) for scale, group in ends])
        text = join(
            "Input weights with their bias. `effective_ratio`: caps with a cosine above 0.95 to their centres that "
            f"cover the orientations{', up to sign,' if self._lines else ''} over the width, {_how_exact(table)}; "
            f"`participation`: orientations weighted by amplitude, from 1 to {self.problem.width}. Initial parameters "
            f"are the network's own times `scale`. At step {step}:",
            markdown(means[means.step == step], ["scale", "training", *MEASURES]),
            f"Against {trainings[0]}, paired by initial point (difference at the last step):",
            markdown(against, ["scale", "training", "effective_ratio", "participation"]),
        )
        tables = {"condensation": table}
        figures = {"condensation": Captioned(condensation_figure(studies, means), CAPTION)}
        return Section("Condensation", tables, figures, text, _conclusion(against, trainings[0]))


def _how_exact(table: pd.DataFrame) -> str:
    """Return in words whether the number of caps is minimal."""
    beyond = table.orientations - table.least_orientations
    if not beyond.any():
        return "a minimal number"
    return f"found greedily and at most {beyond.max()} more than the minimal number"


def _conclusion(against: pd.DataFrame, first: str) -> str:
    lines = []
    for row in against.to_dict("records"):
        low, high = row["effective_ratio_low"], row["effective_ratio_high"]
        verdict = (
            "fewer orientations than" if high < 0 else "more orientations than" if low > 0 else "unresolved against"
        )
        lines.append(
            f"- {row['training']}, initial scale {row['scale']:g}: {verdict} {first}, effective ratio "
            f"{row['effective_ratio']:+.3g} [{low:.3g}, {high:.3g}]."
        )
    return "\n".join(lines) or f"- {first} is the only training, and is compared with nothing."


def condensation_figure(studies: Mapping[float, CondensationStudy], means: pd.DataFrame) -> Figure:
    """Draw effective ratio, participation and cosine maps after two trainings, one row per initial scale."""
    with drawing():
        figure = Figure(figsize=(PAGE, 2.3 * len(studies) + 0.4), layout="constrained")
        axes = figure.subplots(len(studies), 4, squeeze=False)
        for row, (scale, study) in zip(axes, studies.items(), strict=True):
            part = means[means.scale == scale]
            for k, name in enumerate(part.training.unique()):
                for axis, measure in zip(row[:2], MEASURES[:2], strict=True):
                    band(axis, part[part.training == name], "step", measure, k, name)
            for axis, measure in zip(row[:2], MEASURES[:2], strict=True):
                symlog_steps(axis)
                axis.set_ylim(bottom=0)
                axis.set_ylabel(measure.replace("_", " "))
            row[0].set_title(f"initial scale {scale:g}", loc="left")
            shown = [name for name in ("gradient descent", "dropout") if name in study.maps] or list(study.maps)[:2]
            for axis, name in zip(row[2:], shown, strict=False):
                image = axis.imshow(study.maps[name], cmap="cividis", vmin=-1, vmax=1)
                axis.set_title(name, loc="left")
                axis.set(xlabel="cosines of weights", xticks=[], yticks=[])
            figure.colorbar(image, ax=row[3], shrink=0.8)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
        return figure
