"""Section "information_geometry": the Fisher form of the dropout penalty, and the flattening of the model manifold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import PAGE, drawing
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.implicit_regularisation import first_penalty
from smesolve.landscape.information_geometry import fisher_penalty, manifold_geometry, penalty_comparison
from smesolve.landscape.training import HalfIteration, initial_points, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import BernoulliMasks
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import band, checkpoints, signed, symlog_steps

__all__ = ["geometry_figure", "geometry_section"]

CAPTION = (
    "(a) Relative error of the Fisher form of the penalty against 1 - keep_prob, with 95% intervals; (b) Fisher "
    "trace, (c) largest Fisher eigenvalue and (d) normal curvature against the step of training, one line for each "
    "training, means over runs with their 95% bands."
)

TRAININGS = ("gradient descent", "drift only", "dropout")

MEASURES = ["fisher_trace", "top_eigenvalue", "dimension", "curvature"]


def geometry_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """The penalty on a logistic regression of the data, and the manifold of the network along training."""
    options = config.information_geometry
    logistic = _logistic_penalties(problem, config)
    steps = checkpoints(config.steps, options.checkpoints)
    starts = initial_points(problem, config.runs, config.network.seed)
    rows = []
    for name in TRAININGS:
        states = train(HalfIteration(problem, config.lr, config.seed, name, config.runs), starts, steps)
        for step, points in zip(steps, states, strict=True):
            for run, theta in enumerate(points):
                found = manifold_geometry(problem, theta, options.probes, options.directions, config.seed + run)
                values = (found.trace.value, found.top_eigenvalue, found.dimension.value, found.curvature.value)
                fixed = {"training": name, "run": run, "step": step, "loss": float(problem.loss(theta))}
                rows.append(fixed | dict(zip(MEASURES, values, strict=True)))
    table = pd.DataFrame(rows)
    means = over_runs(table, ["training", "step"], [*MEASURES, "loss"])
    at = problem.network.linearise(states[-1, 0], problem.x)
    form = fisher_penalty(at.features.mT, at.readout.mT, float(problem.law.variance))
    penalty = float(first_penalty(problem, states[-1, 0]))
    text = "\n\n".join(
        [
            f"Squared error: Fisher form {form:.12g}, penalty L_S - R_S {penalty:.12g} at the end of the first dropout "
            f"run: equal up to {abs(form - penalty):.1e}.",
            "Softmax regression of the classes on the inputs, dropout on the inputs, weights of a fit with ridge: "
            "penalty P, its Fisher form, and the relative error of the form; intervals over "
            f"{options.draws} draws of all masks.",
            markdown(logistic, ["keep_prob", "fisher", "penalty", "relative_error"]),
            f"Model manifold of the network at step {steps[-1]}: Fisher trace, largest eigenvalue, effective dimension "
            "(tr F)^2/tr F^2, and normal curvature along random tangent directions.",
            markdown(means[means.step == steps[-1]], ["training", *MEASURES, "loss"]),
        ]
    )
    conclusion = (
        f"Changes of the logarithm at step {steps[-1]} against gradient descent, paired by initial point; Fisher form "
        f"of the penalty: exact for squared error up to {abs(form - penalty):.1e}.\n\n{_changes(table, steps[-1])}"
    )
    tables = {"information_geometry": table, "information_geometry_logistic": logistic}
    return Section(
        "Information geometry",
        tables,
        {"information_geometry": Captioned(geometry_figure(logistic, means), CAPTION)},
        text,
        conclusion,
    )


def _logistic_penalties(problem: DropoutProblem, config: LandscapeConfig) -> pd.DataFrame:
    """Penalties at the weights of a softmax regression of the largest target on the inputs."""
    features = problem.x.flatten(1)
    classes = problem.y.argmax(1) if problem.out_features > 1 else (problem.y[:, 0] > problem.y[:, 0].median()).long()
    weights = torch.zeros(
        features.shape[1], int(classes.max()) + 1, dtype=problem.dtype, device=problem.device, requires_grad=True
    )
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(features @ weights, classes) + 1e-3 * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    options = config.information_geometry
    laws = {keep_prob: BernoulliMasks(keep_prob) for keep_prob in options.keep_probs}
    return penalty_comparison(features, weights.detach(), laws, "categorical", options.draws, config.seed)


def _changes(table: pd.DataFrame, step: int) -> str:
    last = table[table.step == step]
    lines = []
    for measure in MEASURES:
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 or NaN where the data move nothing
            y = np.log(last.pivot(index="run", columns="training", values=measure)).replace(-np.inf, np.nan)
        for name in TRAININGS[1:]:
            change = mean_over(y[name] - y[TRAININGS[0]])
            lines.append(f"- {measure.replace('_', ' ')}, {name}: {signed(change, 'larger', 'smaller')}.")
    return "\n".join(lines)


def geometry_figure(logistic: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """(a) error of the Fisher form, (b) Fisher trace, (c) largest eigenvalue, (d) normal curvature along training."""
    with drawing():
        figure = Figure(figsize=(PAGE, 5.4), layout="constrained")
        axes = figure.subplots(2, 2)
        band(
            axes[0, 0], logistic.assign(drop=1 - logistic.keep_prob), "drop", "relative_error", 0, "softmax regression"
        )
        axes[0, 0].axhline(0, color="0.5", linewidth=0.8)
        axes[0, 0].set_xlabel("1 - keep_prob")
        axes[0, 0].set_ylabel("relative error of the Fisher form")
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
