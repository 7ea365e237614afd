"""Section "condensation": orientations of the input weights along training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import PAGE, drawing
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.condensation import CondensationStudy, condensation
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.training import initial_points
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import against_first, band, checkpoints, symlog_steps

__all__ = ["condensation_figure", "condensation_section"]

CAPTION = (
    "One row for each initial scale. Left: effective ratio and participation against the step, one line for each "
    "training, means over runs with their 95% bands. Right: cosines of the input weights of all pairs of neurons at "
    "the end of the first run, after the training named."
)

ODD = ("tanh", "identity")
"""Activations whose orientations count up to their sign."""

MEASURES = ["effective_ratio", "participation", "loss"]


def condensation_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Train in every way from each initial scale, and compare run by run."""
    options = config.condensation
    steps = checkpoints(config.steps, options.checkpoints)
    lines = config.network.activation in ODD
    studies = {}
    for scale in options.scales:
        starts = initial_points(problem, config.runs, config.network.seed, scale)
        studies[scale] = condensation(problem, starts, config.lr, steps, options.trainings, lines, config.seed)
    table = pd.concat([study.table.assign(scale=scale) for scale, study in studies.items()], ignore_index=True)
    means = over_runs(table, ["scale", "training", "step"], MEASURES)
    last = means[means.step == steps[-1]]
    ends = table[table.step == steps[-1]].groupby("scale", sort=False)
    against = pd.concat([against_first(group, MEASURES[:2]).assign(scale=scale) for scale, group in ends])
    text = "\n\n".join(
        [
            "Input weights with their bias. `effective_ratio`: groups of neurons with mutual cosine above 0.95"
            f"{', up to sign,' if lines else ''} over the width; `participation`: orientations weighted by amplitude, "
            f"from 1 to {problem.width}. Initial parameters are the network's own times `scale`. At step {steps[-1]}:",
            markdown(last, ["scale", "training", *MEASURES]),
            f"Against {options.trainings[0]}, paired by initial point (difference at the last step):",
            markdown(against, ["scale", "training", "effective_ratio", "participation"]),
        ]
    )
    return Section(
        "Condensation",
        {"condensation": table},
        {"condensation": Captioned(condensation_figure(studies, means), CAPTION)},
        text,
        _conclusion(against, options.trainings[0]),
    )


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


def condensation_figure(studies: dict[float, CondensationStudy], means: pd.DataFrame) -> Figure:
    """A row for each initial scale: effective ratio, participation, cosine maps after gradient descent and dropout."""
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
                axis.set_xlabel("cosines of weights")
                axis.set_xticks([])
                axis.set_yticks([])
            figure.colorbar(image, ax=row[3], shrink=0.8)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
        return figure
