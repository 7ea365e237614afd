"""Flatness of solutions, and the part of dropout that makes them flat: its drift or its noise.

The measures are

- trace and largest eigenvalue of Hess R_S,
- width along random filter-normalised directions (Li, Xu, Taylor, Studer, Goldstein, NeurIPS 2018): the distance over
  which R_S stays below its value at the solution plus a given rise; 1 is the length of the filters themselves,
- R_S on the segment between two solutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.experiments.landscape_sections.base import LandscapeSection, check_probes
from smesolve.experiments.landscape_sections.comparisons import against_first, known_or_unresolved, wider_sides
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.experiments.shared.settings import check_choices
from smesolve.figures import PAGE, SEQUENCE, Figure, band, drawing, legend_above
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.flatness import (
    check_curvature,
    factorial_effects,
    filter_normalised_directions,
    interpolation,
    interval_width,
    logarithms,
    loss_along,
)
from smesolve.landscape.noises import NOISES, NoiseScales, noisy_problem
from smesolve.landscape.operators import loss_hessian_operator
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.landscape.trace_estimation import trace
from smesolve.landscape.training import ABLATIONS, AblatedIteration, train
from smesolve.problem.problem import Problem
from smesolve.validation import (
    check_instance,
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_parameters,
    check_positive,
    check_seed,
)

__all__ = ["Flatness", "FlatnessSettings", "FlatnessStudy", "flatness"]

CAPTION = (
    "Means over runs with 95% intervals: (a) rise of the loss against the filter-normalised distance from the "
    "solutions; (b) loss on the line from the solution of gradient descent, alpha = 0, to that of each other "
    "training, alpha = 1; (c) trace of the Hessian at the solutions, grey: single runs; (d) change of the logarithm "
    "of each measure by the drift of dropout, by its noise, and by both beyond their sum."
)

MEASURES = ("loss", "trace", "top_eigenvalue", "width")

DISTANCES = tuple(np.linspace(-1, 1, 21))
ALPHAS = tuple(np.linspace(-0.5, 1.5, 21))


@dataclass(frozen=True)
class FlatnessSettings:
    """Flatness of solutions.

    Args:
        noises: trainings in addition to gradient descent, dropout and its ablations, with the scales of the section
            noises.
        directions: random filter-normalised directions per solution.
        rise: rise of the loss that ends the width along a direction.
        probes: vectors for the trace of the Hessian.
    """

    noises: list[str] = field(default_factory=lambda: ["mini-batch", "parameter noise"])
    directions: int = 20
    rise: float = 0.05
    probes: int = 100

    def __post_init__(self) -> None:
        check_choices("flatness.noises", self.noises, NOISES, least=0)
        check_integer("flatness.directions", self.directions)
        check_positive("flatness.rise", self.rise)
        check_probes("flatness.probes", self.probes)


@dataclass(frozen=True, repr=False)
class FlatnessStudy(ReportedResult):
    """Flatness of the solutions of several trainings."""

    table: pd.DataFrame
    """training, run, loss, trace, top_eigenvalue, width (mean over directions, NaN if R_S never rises that far
    along one of them)."""
    curves: pd.DataFrame
    """training, run, distance, loss: mean of R_S over the directions at that distance."""
    interpolations: pd.DataFrame
    """first, second, run, alpha, loss: R_S at (1 - alpha) first + alpha second."""

    def effects(self) -> pd.DataFrame:
        """Return the effects of drift and noise on each measure; no row without all of `ABLATIONS`."""
        if not set(ABLATIONS) <= set(self.table.training):
            return pd.DataFrame(columns=["measure", "effect", "change", "change_low", "change_high", "verdict"])
        effects = factorial_effects(self.table)
        effects["verdict"] = [_verdict(row) for row in effects.itertuples()]
        return effects

    def conclusion(self) -> str:
        """Return the effects of drift and noise, and the wider side of each valley, as a list in Markdown."""
        changes = [
            f"- {row.effect} on the {row.measure.replace('_', ' ')}: {row.verdict}, {_change(row)}."
            for row in self.effects().itertuples()
        ]
        sides = [
            f"- On the line to {row.second} the valley is wider on the side of {row.wider}"
            f" (asymmetry {known_or_unresolved(row, 'asymmetry')})."
            if row.wider != "unresolved"
            else f"- On the line to {row.second} it is unresolved which side of the valley is wider."
            for row in wider_sides(self.interpolations).itertuples()
        ]
        return "\n".join(changes + sides)

    @drawing()
    def plot(self) -> Figure:
        """Draw R_S (a) along random directions, (b) from gradient descent to others, (c) the trace, (d) the effects."""
        figure = Figure(figsize=(PAGE, 5.8), layout="constrained")
        axes = figure.subplots(2, 2)
        names = list(self.table.training.unique())
        curves = self.curves.merge(self.table[["training", "run", "loss"]], on=["training", "run"], suffixes=("", "_0"))
        curves = curves.assign(loss=curves.loss - curves.loss_0)
        rise = over_runs(curves, ["training", "distance"], ["loss"])
        segments = over_runs(self.interpolations, ["second", "alpha"], ["loss"])
        for k, name in enumerate(names):
            band(axes[0, 0], rise[rise.training == name], "distance", "loss", k, name)
            if name != names[0]:
                band(axes[0, 1], segments[segments.second == name], "alpha", "loss", k, name)
            values, style = self.table[self.table.training == name], SEQUENCE[k]
            mean = mean_over(values.trace)
            axes[1, 0].plot(k + np.linspace(-0.2, 0.2, len(values)), values.trace, "o", color="0.7", markersize=2)
            axes[1, 0].errorbar(k, mean.value, mean.half, marker=style.marker, color=style.colour, capsize=2)
        axes[0, 0].set_title("(a) along random directions", loc="left")
        axes[0, 0].set(xlabel="filter-normalised distance", ylabel="rise of $R_S$")
        axes[0, 1].set_title("(b) from gradient descent to ...", loc="left")
        axes[0, 1].set(xlabel="$\\alpha$", ylabel="$R_S$", yscale="log")
        axes[0, 1].set_ylim(0.7 * segments.loss.min(), 1.4 * segments.loss.max())
        axes[1, 0].set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes[1, 0].set_ylabel("trace of Hess $R_S$")
        axes[1, 0].set_title("(c) trace at the solutions", loc="left")
        _draw_effects(axes[1, 1], self.effects())
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        return figure


@entry_point
def flatness(
    problem: Problem,
    solutions: Mapping[str, Tensor],
    directions: int = 20,
    rise: float = 0.05,
    distances: Sequence[float] = DISTANCES,
    alphas: Sequence[float] = ALPHAS,
    probes: int = 100,
    seed: int = 0,
) -> FlatnessStudy:
    """Measure the flatness of R_S at solutions.

    Args:
        problem: problem with the loss R_S, the same for all solutions.
        solutions: training -> parameters (B, D), where run b has the same initial point in every training. Effects of
            drift and noise need the names in `smesolve.landscape.training.ABLATIONS`.
        directions: random filter-normalised directions per solution.
        rise: rise of R_S that ends the width.
        distances: distances from the solution at which the curves are evaluated.
        alphas: positions of the interpolation between the first training and each other training.
        probes: vectors for the trace.
        seed: seed of directions and vectors; in every training, run b has the same directions up to their filter norms.
    """
    check_instance("problem", problem, Problem, "a Problem, such as a DropoutProblem")
    solutions = check_mapping(
        "solutions", solutions, lambda name, states: check_parameters(name, states, problem, ("B",))
    )
    check_integer("directions", directions)
    check_positive("rise", rise)
    distances = check_list("distances", distances, check_number, distinct=True)
    alphas = check_list("alphas", alphas, check_number, distinct=True)
    check_integer("probes", probes)
    check_seed("seed", seed)
    first, reference = next(iter(solutions.items()))
    results = []
    for name, states in solutions.items():
        result = _measured(problem, name, states, directions, rise, distances, probes, seed)
        if name != first:
            result["interpolation"] = _interpolated(problem, first, name, reference, states, alphas)
        results.append(result)
    return _study(results)


@torch.no_grad()
def _measured(
    problem: Problem,
    name: str,
    states: Tensor,
    directions: int,
    rise: float,
    distances: Sequence[float],
    probes: int,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Return the measures and the curves of the solutions (B, D) of one training."""
    rows, curves = [], []
    for run, theta in enumerate(states):
        rays = filter_normalised_directions(problem, theta, directions, seed + run)
        base = problem.loss(theta)
        hessian = loss_hessian_operator(problem, theta)
        fixed = {"training": name, "run": run}
        measures = {
            "loss": float(base),
            "trace": trace(hessian, probes, seed + run).value,
            "top_eigenvalue": float(leading_eigenpairs(hessian, 1, tol=1e-4).values[0]),
            "width": float(interval_width(problem.loss, theta, rays, base + rise).mean()),
        }
        rows.append(fixed | measures)
        values = loss_along(problem, theta, rays, distances).mean(0).cpu().numpy()
        curves.append(pd.DataFrame(fixed | {"distance": distances, "loss": values}))
    return {"table": pd.DataFrame(rows), "curves": pd.concat(curves, ignore_index=True)}


@torch.no_grad()
def _interpolated(
    problem: Problem, first: str, second: str, reference: Tensor, states: Tensor, alphas: Sequence[float]
) -> pd.DataFrame:
    """Return R_S on the segments between the solutions (B, D) of two trainings."""
    lines = interpolation(problem, reference, states, alphas).cpu().numpy()
    segments = [
        pd.DataFrame({"first": first, "second": second, "run": run, "alpha": alphas, "loss": line})
        for run, line in enumerate(lines)
    ]
    return pd.concat(segments, ignore_index=True)


def _study(results: Sequence[Mapping[str, pd.DataFrame]]) -> FlatnessStudy:
    table, curves = (pd.concat([result[key] for result in results], ignore_index=True) for key in ("table", "curves"))
    segments = [result["interpolation"] for result in results if "interpolation" in result]
    return FlatnessStudy(table, curves, pd.concat(segments, ignore_index=True) if segments else pd.DataFrame())


class Flatness(LandscapeSection[FlatnessSettings]):
    """Trainings from the same initial points, whose solutions are measured and compared run by run."""

    name = "flatness"

    def cells(self) -> list[Cell]:
        """Return one cell per training."""
        s, options, problem = self.settings, self.options, self.problem
        check_curvature(problem, self.starts)
        scales: NoiseScales = s.noises.scales  # type: ignore[attr-defined]  # options of another section
        processes = {name: self.iteration(name) for name in ABLATIONS} | {
            name: AblatedIteration(noisy_problem(problem, name, scales), s.lr, s.seed, runs=s.runs)
            for name in options.noises
        }
        first = next(iter(processes))

        @cache
        def solutions(name: str) -> Tensor:
            return train(processes[name], self.starts, [s.steps])[-1]

        def measure(name: str) -> dict[str, pd.DataFrame]:
            states = solutions(name)
            result = _measured(
                problem, name, states, options.directions, options.rise, DISTANCES, options.probes, s.seed
            )
            if name != first:
                result["interpolation"] = _interpolated(problem, first, name, solutions(first), states, ALPHAS)
            return result

        return [
            Cell(f"flatness, {name}", partial(measure, name), self.ensembles(process.problem))
            for name, process in processes.items()
        ]

    def summarise(self, results: list[Any]) -> Section:
        """Return the effects of drift and noise, and the comparison with gradient descent."""
        study = _study(results)
        effects = study.effects()
        means = over_runs(study.table, ["training"], MEASURES)
        lines = wider_sides(study.interpolations)
        against = against_first(logarithms(study.table, MEASURES[1:]), MEASURES[1:])
        text = join(
            f"Solutions after {self.settings.steps} steps from the same {self.settings.runs} initial points. `trace` "
            "and `top_eigenvalue` of Hess R_S; `width`: distance along random filter-normalised directions over which "
            f"R_S stays within {self.options.rise:g} of its value at the solution.",
            markdown(means, ["training", *MEASURES]),
            "Change of the logarithm of each measure by drift and noise of dropout (two-by-two design, paired by "
            "initial point; interaction: the change by dropout beyond the sum):",
            markdown(effects, ["measure", "effect", "change", "verdict"]),
            "Against gradient descent, paired by initial point (change of the logarithm):",
            markdown(against, ["training", *MEASURES[1:]]),
            "On the line from gradient descent (alpha = 0) to each other training (alpha = 1): `barrier`, the rise of "
            "R_S between both above the higher one of them; `asymmetry`, ln R_S(alpha = 1.5) - ln R_S(alpha = -0.5), "
            "which is negative where the valley is wider on the side of the other training.",
            markdown(lines, ["second", "barrier", "asymmetry", "wider"]),
        )
        tables = {
            "flatness": study.table,
            "flatness_effects": effects,
            "flatness_curves": study.curves,
            "flatness_interpolation": study.interpolations,
        }
        figures = {"flatness": Captioned(study.plot(), CAPTION)}
        return Section("Flatness of solutions", tables, figures, text, study.conclusion())


def _verdict(row: Any) -> str:
    """Return the verdict on the change of a logarithm."""
    if np.isnan(row.change):
        return "not defined"
    return "larger" if row.change_low > 0 else "smaller" if row.change_high < 0 else "unresolved"


def _change(row: Any) -> str:
    """Return the change of a logarithm in words."""
    if np.isnan(row.change):
        return "because it is not positive, or not known, at some solution and has no logarithm there"
    return f"change of the logarithm {row.change:+.3g} [{row.change_low:.3g}, {row.change_high:.3g}]"


def _draw_effects(axis: Axes, effects: pd.DataFrame) -> None:
    measures = list(effects.measure.unique())
    for k, (effect, rows) in enumerate(effects.groupby("effect", sort=False)):
        axis.errorbar(
            np.arange(len(measures)) + 0.2 * (k - 1),
            rows.change,
            np.array([rows.change - rows.change_low, rows.change_high - rows.change]),
            linestyle="",
            marker=SEQUENCE[k].marker,
            color=SEQUENCE[k].colour,
            capsize=2,
            label=effect,
        )
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set_xticks(range(len(measures)), [measure.replace("_", " ") for measure in measures])
    axis.set_ylabel("change of the logarithm")
    axis.set_title("(d) effects of drift and noise", loc="left")
    if measures:
        legend_above(axis, columns=3, room=0.15)
