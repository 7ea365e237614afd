"""Fisher form of the dropout penalty, and flattening of the model manifold along training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from smesolve.experiments.landscape_sections.base import LandscapeSection, check_probes
from smesolve.experiments.landscape_sections.comparisons import signed
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.figures import PAGE, Figure, band, drawing, symlog_steps
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.information_geometry import fisher_penalty, manifold_geometry, penalty_comparison
from smesolve.landscape.penalties import first_penalty
from smesolve.landscape.training import checkpoints, train
from smesolve.problem.masks import BernoulliMasks
from smesolve.validation import check_integer, check_keep_prob, check_list

__all__ = ["InformationGeometry", "InformationGeometrySettings", "geometry_figure"]

CAPTION = (
    "(a) Relative error of the Fisher form of the penalty against 1 - keep_prob, with 95% intervals; (b) Fisher "
    "trace, (c) largest Fisher eigenvalue and (d) normal curvature against the step of training, one line for each "
    "training, means over runs with their 95% bands."
)

TRAININGS = ("gradient descent", "drift only", "dropout")

MEASURES = ["fisher_trace", "top_eigenvalue", "dimension", "curvature"]

RIDGE = 1e-3
"""Coefficient of the squared norm of the weights in the softmax regression."""


@dataclass(frozen=True)
class InformationGeometrySettings:
    """Information geometry.

    Args:
        keep_probs: keep probabilities at which the dropout penalty of softmax regression is compared with its Fisher
            form.
        draws: masks per sample in that comparison.
        checkpoints: points along training: the start, then evenly spaced in the logarithm of the step.
        directions: random tangent directions at each point, for the curvature.
        probes: vectors for the Fisher trace.
    """

    keep_probs: list[float] = field(default_factory=lambda: [0.99, 0.95, 0.9, 0.8, 0.65, 0.5])
    draws: int = 200
    checkpoints: int = 5
    directions: int = 4
    probes: int = 60

    def __post_init__(self) -> None:
        check_list("information_geometry.keep_probs", self.keep_probs, check_keep_prob, distinct=True)
        check_integer("information_geometry.draws", self.draws, 2)
        check_integer("information_geometry.checkpoints", self.checkpoints, 2)
        check_integer("information_geometry.directions", self.directions)
        check_probes("information_geometry.probes", self.probes)


class InformationGeometry(LandscapeSection[InformationGeometrySettings]):
    """Penalties of a softmax regression of the data, and the model manifold along training."""

    name = "information_geometry"

    def cells(self) -> list[Cell]:
        """Return a cell for the softmax regression, and one cell per training."""
        trainings = [
            Cell(f"information_geometry, {name}", partial(self._along, name), self.ensembles()) for name in TRAININGS
        ]
        return [Cell("information_geometry, softmax regression", self._logistic_penalties), *trainings]

    def _logistic_penalties(self) -> pd.DataFrame:
        """Return penalties at the weights of a softmax regression of the class on the inputs.

        The class is the largest output; with one output it says whether the target is above the median.
        """
        problem = self.problem
        features = problem.x.flatten(1)
        above = problem.y[:, 0] > problem.y[:, 0].median()
        classes = problem.y.argmax(1) if problem.out_features > 1 else above.long()
        weights = features.new_zeros(features.shape[1], int(classes.max()) + 1).requires_grad_()
        optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(features @ weights, classes) + RIDGE * weights.square().sum()
            loss.backward()
            return loss  # type: ignore[return-value]  # a tensor, as in torch's own examples

        optimiser.step(closure)
        laws = {keep_prob: BernoulliMasks(keep_prob) for keep_prob in self.options.keep_probs}
        return penalty_comparison(
            features, weights.detach(), laws, "categorical", self.options.draws, self.settings.seed
        )

    def _along(self, name: str) -> dict[str, Any]:
        """Return the geometry along one training, and the penalty at the end of its first run in both forms."""
        problem, options = self.problem, self.options
        steps, rows = checkpoints(self.settings.steps, options.checkpoints), []
        states = train(self.iteration(name), self.starts, steps)
        for step, points in zip(steps, states, strict=True):
            for run, theta in enumerate(points):
                found = manifold_geometry(problem, theta, options.probes, options.directions, self.settings.seed + run)
                values = (found.trace.value, found.top_eigenvalue, found.dimension.value, found.curvature.value)
                fixed = {"training": name, "run": run, "step": step, "loss": float(problem.loss(theta))}
                rows.append(fixed | dict(zip(MEASURES, values, strict=True)))
        last = states[-1, 0]
        at = problem.network.linearize(last, problem.x)
        return {
            "table": pd.DataFrame(rows),
            "form": fisher_penalty(at.features.mT, at.readout.mT, float(problem.law.variance)),
            "penalty": float(first_penalty(problem, last)),
        }

    def summarise(self, results: list[Any]) -> Section:
        """Return the comparison of each training with gradient descent, paired by initial point."""
        logistic, *trainings = results
        table = pd.concat([result["table"] for result in trainings], ignore_index=True)
        means = over_runs(table, ["training", "step"], [*MEASURES, "loss"])
        step = int(table.step.max())
        form, penalty = (trainings[-1][key] for key in ("form", "penalty"))
        text = join(
            f"Squared error: Fisher form {form:.12g}, penalty L_S - R_S {penalty:.12g} at the end of the first dropout "
            f"run: equal up to {abs(form - penalty):.1e}.",
            "Softmax regression of the classes on the inputs, dropout on the inputs, weights of a fit with ridge: "
            "penalty P, its Fisher form, and the relative error of the form; intervals over "
            f"{self.options.draws} draws of all masks.",
            markdown(logistic, ["keep_prob", "fisher", "penalty", "relative_error"]),
            f"Model manifold of the network at step {step}: Fisher trace, largest eigenvalue, effective dimension "
            "(tr F)^2/tr F^2, and normal curvature along random tangent directions.",
            markdown(means[means.step == step], ["training", *MEASURES, "loss"]),
        )
        conclusion = (
            f"Changes of the logarithm at step {step} against gradient descent, paired by initial point; Fisher form "
            f"of the penalty: exact for squared error up to {abs(form - penalty):.1e}.\n\n{_changes(table, step)}"
        )
        tables = {"information_geometry": table, "information_geometry_logistic": logistic}
        figures = {"information_geometry": Captioned(geometry_figure(logistic, means), CAPTION)}
        return Section("Information geometry", tables, figures, text, conclusion)


def _changes(table: pd.DataFrame, step: int) -> str:
    """Return the changes against gradient descent in words."""
    last = table[table.step == step]
    lines = []
    for measure in MEASURES:
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 or NaN where no output moves
            y = np.log(last.pivot(index="run", columns="training", values=measure)).replace(-np.inf, np.nan)
        for name in TRAININGS[1:]:
            change = mean_over(y[name] - y[TRAININGS[0]])
            lines.append(f"- {measure.replace('_', ' ')}, {name}: {signed(change, 'larger', 'smaller')}.")
    return "\n".join(lines)


def geometry_figure(logistic: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Draw (a) the error of the Fisher form, (b) Fisher trace, (c) largest eigenvalue, (d) normal curvature."""
    with drawing():
        figure = Figure(figsize=(PAGE, 5.4), layout="constrained")
        axes = figure.subplots(2, 2)
        dropped = logistic.assign(drop=1 - logistic.keep_prob)
        band(axes[0, 0], dropped, "drop", "relative_error", 0, "softmax regression")
        axes[0, 0].axhline(0, color="0.5", linewidth=0.8)
        axes[0, 0].set(xlabel="1 - keep_prob", ylabel="relative error of the Fisher form")
        panels = (
            ("fisher_trace", "Fisher trace"),
            ("top_eigenvalue", "largest Fisher eigenvalue"),
            ("curvature", "normal curvature"),
        )
        for axis, (measure, label) in zip(axes.flat[1:], panels, strict=True):
            for k, name in enumerate(means.training.unique()):
                band(axis, means[means.training == name], "step", measure, k, name)
            symlog_steps(axis)
            if (means[measure] > 0).any():
                axis.set_yscale("log")
            axis.set_ylabel(label)
        for axis, letter in zip(axes.flat, "abcd", strict=True):
            axis.set_title(f"({letter})", loc="left")
        figure.legend(*axes[1, 1].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        return figure
