"""Section "flatness": how flat the solutions of each training are, and which half of dropout does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.flatness import FlatnessStudy, check_curvature, flatness, half_effects, logarithms
from smesolve.landscape.noises import NoiseScales, noisy_problem
from smesolve.landscape.training import HALVES, HalfIteration, initial_points, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.figures import PAGE, drawing
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import COLOURS, MARKERS, against_first, band, legend_above
from smesolve.study.section import Captioned, Section, markdown

__all__ = ["flatness_figure", "flatness_section"]

CAPTION = (
    "Means over runs with 95% intervals: (a) rise of the loss against the filter-normalised distance from the "
    "solutions; (b) loss on the line from the solution of gradient descent, alpha = 0, to that of each other "
    "training, alpha = 1; (c) trace of the Hessian at the solutions, grey: single runs; (d) change of the logarithm "
    "of each measure by the drift of dropout, by its noise, and by both beyond their sum."
)

MEASURES = ("loss", "trace", "top_eigenvalue", "width")


def flatness_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Train in every way from the same initial points, measure, and compare run by run."""
    options = config.flatness
    starts = initial_points(problem, config.runs, config.network.seed)
    check_curvature(problem, starts)
    scales = NoiseScales(config.noises.batch_size, config.noises.label_noise, config.noises.parameter_noise)
    processes = {name: HalfIteration(problem, config.lr, config.seed, name, config.runs) for name in HALVES} | {
        name: HalfIteration(noisy_problem(problem, name, scales), config.lr, config.seed, runs=config.runs)
        for name in options.noises
    }
    solutions = {name: train(process, starts, [config.steps])[-1] for name, process in processes.items()}
    study = flatness(problem, solutions, options.directions, options.rise, probes=options.probes, seed=config.seed)
    effects = half_effects(study.table)
    effects["verdict"] = [_verdict(row) for row in effects.itertuples()]
    means = over_runs(study.table, ["training"], MEASURES)
    against = against_first(logarithms(study.table, MEASURES[1:]), MEASURES[1:])
    text = "\n\n".join(
        [
            f"Solutions after {config.steps} steps from the same {config.runs} initial points. `trace` and "
            "`top_eigenvalue` of Hess R_S; `width`: distance along random filter-normalised directions over which R_S "
            f"stays within {options.rise:g} of its value at the solution.",
            markdown(means, ["training", *MEASURES]),
            "Change of the logarithm of each measure by each half of dropout (two-by-two design, paired by initial "
            "point; interaction: what dropout has beyond the sum):",
            markdown(effects, ["measure", "effect", "change", "verdict"]),
            "Against gradient descent, paired by initial point (change of the logarithm):",
            markdown(against, ["training", *MEASURES[1:]]),
            "Where R_S is lowest on the line from gradient descent (alpha = 0) to (alpha = 1):",
            _valley(study.interpolations),
        ]
    )
    tables = {
        "flatness": study.table,
        "flatness_effects": effects,
        "flatness_curves": study.curves,
        "flatness_interpolation": study.interpolations,
    }
    return Section(
        "Flatness of solutions",
        tables,
        {"flatness": Captioned(flatness_figure(study, effects), CAPTION)},
        text,
        _conclusion(effects),
    )


def _verdict(row: Any) -> str:
    """What may be said of the change of a logarithm."""
    if np.isnan(row.change):
        return "not defined"
    return "larger" if row.change_low > 0 else "smaller" if row.change_high < 0 else "unresolved"


def _conclusion(effects: pd.DataFrame) -> str:
    return "\n".join(
        f"- {row.effect} on the {row.measure.replace('_', ' ')}: {row.verdict}, {_change(row)}."
        for row in effects.itertuples()
    )


def _change(row: Any) -> str:
    if np.isnan(row.change):
        return "as it is not positive, or not known, at some solution and has no logarithm there"
    return f"change of the logarithm {row.change:+.3g} [{row.change_low:.3g}, {row.change_high:.3g}]"


def _valley(segments: pd.DataFrame) -> str:
    """On which side of the segment from gradient descent the loss is lowest, run by run."""
    lines = []
    for name, group in segments.groupby("second", sort=False):
        lowest = group.loc[group.groupby("run").loss.idxmin()].alpha
        lines.append(f"- {name}: {mean_over(lowest)}")
    return "\n".join(lines)


def flatness_figure(study: FlatnessStudy, effects: pd.DataFrame) -> Figure:
    """(a) R_S along random directions, (b) from gradient descent to others, (c) trace, (d) effects of both halves."""
    with drawing():
        figure = Figure(figsize=(PAGE, 5.8), layout="constrained")
        axes = figure.subplots(2, 2)
        names = list(study.table.training.unique())
        curves = study.curves.merge(
            study.table[["training", "run", "loss"]], on=["training", "run"], suffixes=("", "_0")
        )
        curves = curves.assign(loss=curves.loss - curves.loss_0)
        rise = over_runs(curves, ["training", "distance"], ["loss"])
        segments = over_runs(study.interpolations, ["second", "alpha"], ["loss"])
        for k, name in enumerate(names):
            band(axes[0, 0], rise[rise.training == name], "distance", "loss", k, name)
            if name != names[0]:
                band(axes[0, 1], segments[segments.second == name], "alpha", "loss", k, name)
            values = study.table[study.table.training == name]
            mean = mean_over(values.trace)
            axes[1, 0].plot(k + np.linspace(-0.2, 0.2, len(values)), values.trace, "o", color="0.7", markersize=2)
            axes[1, 0].errorbar(k, mean.value, mean.half, marker=MARKERS[k], color=COLOURS[k], capsize=2)
        axes[0, 0].set_title("(a) along random directions", loc="left")
        axes[0, 0].set_xlabel("filter-normalised distance")
        axes[0, 0].set_ylabel("rise of $R_S$")
        axes[0, 1].set_title("(b) from gradient descent to ...", loc="left")
        axes[0, 1].set_xlabel("$\\alpha$")
        axes[0, 1].set_ylabel("$R_S$")
        axes[0, 1].set_yscale("log")
        axes[0, 1].set_ylim(0.7 * segments.loss.min(), 1.4 * segments.loss.max())
        axes[1, 0].set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes[1, 0].set_ylabel("trace of Hess $R_S$")
        axes[1, 0].set_title("(c) trace at the solutions", loc="left")
        _effects(axes[1, 1], effects)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        return figure


def _effects(axis: Axes, effects: pd.DataFrame) -> None:
    measures = list(effects.measure.unique())
    for k, (effect, rows) in enumerate(effects.groupby("effect", sort=False)):
        axis.errorbar(
            np.arange(len(measures)) + 0.2 * (k - 1),
            rows.change,
            np.array([rows.change - rows.change_low, rows.change_high - rows.change]),
            linestyle="",
            marker=MARKERS[k],
            color=COLOURS[k],
            capsize=2,
            label=effect,
        )
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set_xticks(range(len(measures)), [measure.replace("_", " ") for measure in measures])
    axis.set_ylabel("change of the logarithm")
    axis.set_title("(d) effects of drift and noise", loc="left")
    legend_above(axis, columns=3, room=0.15)
