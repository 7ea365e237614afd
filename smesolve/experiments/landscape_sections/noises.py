"""Alignment of the Hessian of one loss with the covariance of each noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pandas as pd
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.experiments.landscape_sections.base import LandscapeSection, check_probes
from smesolve.experiments.landscape_sections.comparisons import known_or_unresolved, resolved_counts
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import check_choices
from smesolve.figures import PAGE, Figure, band, drawing, symlog_steps
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.hessian_alignment import alignment, check_dimension, sampled_alignment
from smesolve.landscape.noise_samples import random_noise
from smesolve.landscape.noises import NOISES, NoiseScales, noisy_problem
from smesolve.landscape.operators import covariance_operator, loss_hessian_operator
from smesolve.landscape.training import AblatedIteration, check_steps, checkpoints, train
from smesolve.problem.problem import Problem
from smesolve.validation import (
    check_instance,
    check_integer,
    check_mapping,
    check_not_negative,
    check_parameters,
    check_positive,
    check_seed,
)

__all__ = ["Noises", "NoisesSettings", "noise_alignment", "noises_figure"]

CAPTION = (
    "Against the step of training, one line per noise, means over runs with their 95% bands: (a) cosine of the "
    "Hessian and the covariance at common points, (b) ratio to isotropic noise there, (c) cosine along the noise's "
    "own runs. Grey: largest 97.5% quantile for random eigenvectors in (a) and (c), 1 in (b)."
)

KEYS = ["noise", "points", "step"]
COLUMNS = ("cosine", "null_mean", "null_high", "ratio", "score", "loss")


@dataclass(frozen=True)
class NoisesSettings:
    """Alignment of other noises.

    Args:
        names: names of the noises; the points on the runs of the first one are the common points.
        batch_size: samples of a mini-batch.
        label_noise: standard deviation of the normals that are added to the targets.
        parameter_noise: standard deviation of the normals that are added to the parameters.
        checkpoints: points along training: the start, then evenly spaced in the logarithm of the step.
        draws: draws of a noise whose covariance is not known in closed form.
        probes: vectors for the traces at one point.
    """

    names: list[str] = field(
        default_factory=lambda: ["dropout", "mini-batch", "dropout and mini-batch", "parameter noise", "label noise"]
    )
    batch_size: int = 50
    label_noise: float = 0.5
    parameter_noise: float = 0.02
    checkpoints: int = 5
    draws: int = 200
    probes: int = 60

    def __post_init__(self) -> None:
        check_choices("noises.names", self.names, NOISES)
        check_integer("noises.batch_size", self.batch_size)
        check_not_negative("noises.label_noise", self.label_noise)
        check_not_negative("noises.parameter_noise", self.parameter_noise)
        check_integer("noises.checkpoints", self.checkpoints, 2)
        check_integer("noises.draws", self.draws, 5)
        check_probes("noises.probes", self.probes)

    @property
    def scales(self) -> NoiseScales:
        """Scales of the noises."""
        return NoiseScales(self.batch_size, self.label_noise, self.parameter_noise)


@entry_point
def noise_alignment(
    problems: Mapping[str, Problem],
    starts: Tensor,
    lr: float,
    steps: Sequence[int],
    draws: int = 400,
    probes: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the alignment of Hess R_S with the covariance of each noise.

    It is measured along the training with each noise, and at common points on the runs of the first problem, where only
    the noises differ.

    Args:
        problems: problems by name, all with the same network and loss.
        starts: initial points (B, D), one per run.
        lr: learning rate.
        steps: increasing step numbers of the measurements.
        draws: draws of a noise whose covariance is not known in closed form.
        probes: vectors for the traces.
        seed: seed of draws and vectors.

    Returns:
        One row per noise, run, step and `points` ("own" or "common"): the columns of `alignment`, and the loss.
    """

    def problem(name: str, value: Any) -> Problem:
        return check_instance(name, value, Problem, "a Problem, such as a DropoutProblem")

    problems = check_mapping("problems", problems, problem)
    starts = check_parameters("starts", starts, next(iter(problems.values())), ("B",))
    check_positive("lr", lr)
    steps = check_steps("steps", steps)
    check_integer("draws", draws, 5)
    check_integer("probes", probes)
    check_seed("seed", seed)
    return _together(run_cells(_cells(problems, starts, lr, steps, draws, probes, seed)), problems)


def _cells(
    problems: Mapping[str, Problem], starts: Tensor, lr: float, steps: Sequence[int], draws: int, probes: int, seed: int
) -> list[Cell]:
    """Return one cell per noise."""

    @cache
    def states(name: str) -> Tensor:
        return train(AblatedIteration(problems[name], lr, seed, runs=len(starts)), starts, steps)

    def measure(name: str) -> pd.DataFrame:
        rows = []
        for points in ("own",) if name == common else ("own", "common"):
            for step, row in zip(steps, states(name if points == "own" else common), strict=True):
                for run, theta in enumerate(row):
                    fixed = {"noise": name, "points": points, "run": run, "step": step}
                    fixed["loss"] = float(problems[name].loss(theta))
                    rows.append(fixed | _alignment(problems[name], theta, draws, probes, seed + run))
        return pd.DataFrame(rows)

    common = next(iter(problems))
    return [Cell(f"noises, {name}", partial(measure, name)) for name in problems]


def _alignment(problem: Problem, theta: Tensor, draws: int, probes: int, seed: int) -> dict[str, Any]:
    """Return the columns of `alignment` for the noise of a problem at one point."""
    hessian = loss_hessian_operator(problem, theta)
    if problem.linear_noise:
        table = alignment(hessian, {"noise": covariance_operator(problem, theta)}, probes, seed)
        row: dict[str, Any] = table.drop(columns="covariance").iloc[0].to_dict()
        return row
    return sampled_alignment(hessian, random_noise(problem, theta, draws, seed), probes, seed)


def _together(results: Sequence[pd.DataFrame], problems: Mapping[str, Problem]) -> pd.DataFrame:
    """Return one table; the points of the first noise count as its own and as the common points."""
    table = pd.concat(results, ignore_index=True)
    own = table[table.noise == next(iter(problems))]
    return pd.concat([table, own.assign(points="common")], ignore_index=True)


class Noises(LandscapeSection[NoisesSettings]):
    """Training under each noise, with the noises ranked by their alignment at checkpoints."""

    name = "noises"

    def cells(self) -> list[Cell]:
        """Return one cell per noise."""
        s, options = self.settings, self.options
        check_dimension(self.problem.dim)
        cells = _cells(self._problems, self.starts, s.lr, self._steps, options.draws, options.probes, s.seed)
        return [
            Cell(cell.key, cell.run, self.ensembles(problem))
            for cell, problem in zip(cells, self._problems.values(), strict=True)
        ]

    @property
    def _steps(self) -> list[int]:
        return checkpoints(self.settings.steps, self.options.checkpoints)

    @property
    def _problems(self) -> dict[str, Problem]:
        return {name: noisy_problem(self.problem, name, self.options.scales) for name in self.options.names}

    def summarise(self, results: list[Any]) -> Section:
        """Return the noises ranked by their alignment at the common points."""
        options, scales = self.options, self.options.scales
        table = _together(results, self._problems)
        means = over_runs(table, KEYS, COLUMNS)
        common = means[means.points == "common"]
        resolved = resolved_counts(table, "noise", "points")
        parts = [
            "H = Hess R_S, the same for all noises. `common`: at the points of the runs of the first noise, so that "
            "differences are those of the noises; `own`: along the runs of each noise. Mini-batches of "
            f"{scales.batch_size}, label noise {scales.label_noise:g}, parameter noise {scales.parameter_noise:g}; "
            f"{options.draws} draws, and unbiased estimators, for a covariance that is known only from draws.",
        ]
        shown = ("noise", "cosine", "null_mean", "null_high", "ratio", "score")
        for step in (self._steps[0], self._steps[-1]):
            rows = common[common.step == step].sort_values("cosine", ascending=False)
            parts += [f"At the common points, step {step}:", markdown(rows, shown)]
        parts += ["Resolved alignments, of all runs and steps:", markdown(resolved, resolved.columns)]
        tables = {"noises": table}
        figures = {"noises": Captioned(noises_figure(table), CAPTION)}
        return Section("Alignment of other noises", tables, figures, join(*parts), _conclusion(rows, table))


def _conclusion(last: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return the cosines at the last of the common points, largest first, in words."""
    lines = []
    for row in last.itertuples():
        runs = table[(table.noise == row.noise) & (table.points == row.points) & (table.step == row.step)]
        lines.append(
            f"- {row.noise}: cosine with the Hessian {known_or_unresolved(row, 'cosine')} at "
            f"step {row.step}; alignment resolved in {(runs.verdict == 'aligned').sum()} of {len(runs)} runs."
        )
    return "\n".join(lines)


def noises_figure(table: pd.DataFrame) -> Figure:
    """Draw (a) the cosine at common points, (b) the ratio to isotropic noise there, (c) the cosine along own runs."""
    means = over_runs(table, KEYS, COLUMNS)
    with drawing():
        figure = Figure(figsize=(PAGE, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        panels = (("common", "cosine"), ("common", "ratio"), ("own", "cosine"))
        for axis, letter, (points, column) in zip(axes, "abc", panels, strict=True):
            for k, name in enumerate(means.noise.unique()):
                band(axis, means[(means.noise == name) & (means.points == points)], "step", column, k, name)
            highest = means[means.points == points].groupby("step").null_high.max()
            if column == "cosine":
                axis.plot(highest.index, highest, color="0.5", linewidth=0.8, label="null 97.5% (largest)")
                axis.set_ylim(0, 1.02)
                axis.set_ylabel("$\\alpha$ = cosine of H and covariance")
            else:
                axis.axhline(1, color="0.5", linewidth=0.8)
                axis.set(yscale="log", ylabel="$D\\,\\mathrm{tr}(H\\Sigma)/(\\mathrm{tr}H\\,\\mathrm{tr}\\Sigma)$")
            axis.set_title(f"({letter}) {points} points", loc="left")
            symlog_steps(axis)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
        return figure
