"""Barriers: the loss on the line between a solution of R_S + R_1 and a solution of R_S + R_2 (figure 13).

Both are trained from the same initial points. The paper claims that the valley is wider on the side of R_1: the largest
loss between both lies nearer to the solution of R_S + R_2, and behind the solution of R_S + R_1 the loss grows slowly.
The figure calls the ends L_1 and L_2; they are taken to be these two solutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.line_profiles import line_profiles
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.paper_numbers import means_beside_paper
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, interval, markdown
from smesolve.experiments.shared.training_runs import TrainingRuns, TrainingRunsSettings
from smesolve.figures import PAGE, SEQUENCE, Figure, band, drawing
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.flatness import interpolation
from smesolve.landscape.penalised_training import PenalisedIteration
from smesolve.landscape.training import train
from smesolve.problem.dropout import DropoutProblem

__all__ = ["Barriers", "BarriersSettings", "barriers_figure"]

CAPTION = (
    "(a) R_S on the line from the solution of R_S + R_1, alpha = 0, to the solution of R_S + R_2, alpha = 1, one line "
    "per keep_prob, means over runs with 95% intervals. Against keep_prob, with the numbers of the paper as hollow "
    "markers: (b) the largest loss between both, (c) where it is."
)

ENDS = ("R_S + R_1", "R_S + R_2")

ALPHAS = tuple(np.linspace(-0.5, 1.5, 81).tolist())

MEASURES = ("peak", "peak_alpha", "behind", "barrier", "asymmetry")
"""`behind`: the loss at alpha = -0.5. The first three are those of the figure."""


@dataclass(frozen=True)
class BarriersSettings(TrainingRunsSettings):
    """Barriers between solutions."""


@experiment("reproduce", "barriers")
class Barriers(TrainingRuns[BarriersSettings]):
    """Barriers between solutions with R_1 and with R_2 (figure 13)."""

    Settings = BarriersSettings
    title = "Barriers between solutions"
    example = "examples/reproduce_barriers.yaml --out results/reproduce_barriers"

    def cells(self) -> list[Cell]:
        """Return one cell per keep_prob."""
        s = self.settings
        problems = [self.dropout_problem.with_keep_prob(keep_prob) for keep_prob in s.keep_probs]
        return [
            Cell(f"keep_prob {keep_prob!r}", partial(_lines, problem, self.starts, s), self.cost(problem, 5))
            for keep_prob, problem in zip(s.keep_probs, problems, strict=True)
        ]

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return barrier, position and loss behind the solution of R_S + R_1, compared with the figure."""
        s = self.settings
        lines = pd.concat(
            [result.assign(keep_prob=keep) for result, keep in zip(results, s.keep_probs, strict=True)],
            ignore_index=True,
        )
        means = over_runs(line_profiles(lines, ["keep_prob", "run"]), ["keep_prob"], MEASURES)
        beside = means_beside_paper(means.assign(training="interpolation"), dict.fromkeys(MEASURES, "13"), s.lr)
        text = join(
            "`peak`: largest R_S between both solutions; `peak_alpha`: where it is; `behind`: R_S at alpha = -0.5; "
            "`barrier`: the peak above the higher end; `asymmetry`: ln R_S(1.5) - ln R_S(-0.5), positive where the "
            "valley is wider on the side of R_S + R_1. `agrees` says whether the paper's number lies in our "
            "interval, which holds no difference of the settings.",
            markdown(beside, ["keep_prob", "quantity", "paper", "value", "ratio", "agrees"], headers={"value": "ours"}),
        )
        tables = {"barriers": beside, "barriers_lines": lines}
        figures = {"barriers": Captioned(barriers_figure(lines, beside), CAPTION)}
        return [Section("Barriers between solutions", tables, figures, text, _conclusion(means))]

    def measured(self) -> str:
        """Return data, network and training in words, ours and theirs."""
        return (
            f"{super().measured()} The paper: 784-1000-10, lr 0.005; number of steps, activation and initial scale are "
            "not stated, and were not fitted."
        )


def _lines(problem: DropoutProblem, starts: Tensor, settings: BarriersSettings) -> pd.DataFrame:
    """Return R_S on the line between both solutions of each run."""
    s = settings
    first, second = (
        train(PenalisedIteration(problem, s.lr, s.seed, training, s.runs), starts, [s.steps])[0] for training in ENDS
    )
    with torch.no_grad():
        losses = interpolation(problem, first, second, ALPHAS).double().cpu().numpy()
    return pd.concat(
        [pd.DataFrame({"run": run, "alpha": ALPHAS, "loss": line}) for run, line in enumerate(losses)],
        ignore_index=True,
    )


def _conclusion(means: pd.DataFrame) -> str:
    lines = []
    for row in means.to_dict("records"):
        wider = "R_S + R_1" if row["asymmetry_low"] > 0 else "R_S + R_2" if row["asymmetry_high"] < 0 else None
        side = (
            "it is unresolved which side is wider" if wider is None else f"the valley is wider on the side of {wider}"
        )
        lines.append(
            f"- keep_prob {row['keep_prob']:g}: {side}, asymmetry {interval(row, 'asymmetry')}; barrier "
            f"{interval(row, 'barrier')}, peak at alpha {interval(row, 'peak_alpha')}."
        )
    return "\n".join(lines)


def barriers_figure(lines: pd.DataFrame, beside: pd.DataFrame) -> Figure:
    """Draw the loss on the lines, and its peak and where that is against keep_prob."""
    with drawing():
        figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
        axes = figure.subplots(1, 3)
        profiles = over_runs(lines, ["keep_prob", "alpha"], ["loss"])
        for index, (keep_prob, rows) in enumerate(profiles.groupby("keep_prob", sort=False)):
            style = SEQUENCE[index % len(SEQUENCE)]
            axes[0].plot(rows.alpha, rows.loss, color=style.colour, linestyle=style.line, label=f"{keep_prob:g}")
            axes[0].fill_between(rows.alpha, rows.loss_low, rows.loss_high, color=style.colour, alpha=0.2, linewidth=0)
        axes[0].set(xlabel="$\\alpha$", ylabel="$R_S$")
        axes[0].legend(title="keep_prob")
        _against_keep_prob(axes[1:], beside, ("peak", "peak_alpha"), ("largest $R_S$ between", "its $\\alpha$"))
        for axis, letter in zip(axes, "abc", strict=True):
            axis.set_title(f"({letter})", loc="left")
        return figure


def _against_keep_prob(axes: Sequence[Any], beside: pd.DataFrame, names: Sequence[str], labels: Sequence[str]) -> None:
    for axis, name, label in zip(axes, names, labels, strict=True):
        rows = beside[beside.quantity == name].sort_values("keep_prob")
        band(axis, rows, "keep_prob", "value", 0, "ours")
        axis.plot(rows.keep_prob, rows.paper, "s", color="0.4", markerfacecolor="white", label="paper")
        axis.set(xlabel="keep_prob", ylabel=label)
        axis.legend()
