"""Alignment of Hessian and noise covariance along training, compared with its null model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.experiments.landscape_sections.base import LandscapeSection, check_probes
from smesolve.experiments.landscape_sections.comparisons import known_or_unresolved, resolved_counts, signed
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.experiments.shared.settings import check_choices
from smesolve.figures import PAGE, Figure, band, drawing, legend_above, symlog_steps
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.hessian_alignment import COVARIANCES, alignment, check_dimension, overlap
from smesolve.landscape.operators import dropout_problem, hessian_operator
from smesolve.landscape.training import checkpoints
from smesolve.problem.dropout import DropoutProblem
from smesolve.validation import check_integer, check_list, check_parameters, check_seed

__all__ = ["Alignment", "AlignmentSettings", "AlignmentStudy", "alignment_along"]

CAPTION = (
    "Against the step of training, means over runs with their 95% bands: (a) cosine of the Hessian and each "
    "covariance, grey: 97.5% quantile for random eigenvectors; (b) ratio to isotropic noise, grey: 1; (c) parts of "
    "the cosine of the full-batch covariance; (d) overlap of leading eigenvectors, grey: 97.5% quantile for random "
    "ones."
)

COLUMNS = (
    "cosine", "null_mean", "null_low", "null_high", "ratio", "score", "share", "part", "trace", "loss", "modified_loss",
    "overlap", "overlap_null_high",
)  # fmt: skip


@dataclass(frozen=True)
class AlignmentSettings:
    """Alignment of Hessian and noise covariance along training.

    Args:
        checkpoints: points along training: the start, then evenly spaced in the logarithm of the step.
        probes: vectors for the traces at one point.
        eigenpairs: leading eigenvectors whose overlap is measured.
    """

    checkpoints: int = 10
    probes: int = 150
    eigenpairs: int = 10

    def __post_init__(self) -> None:
        check_integer("alignment.checkpoints", self.checkpoints, 2)
        check_probes("alignment.probes", self.probes)
        check_integer("alignment.eigenpairs", self.eigenpairs)


@dataclass(frozen=True, repr=False)
class AlignmentStudy(ReportedResult):
    """Alignment along a training run."""

    table: pd.DataFrame
    """One row per run, step and covariance: the columns of `alignment`, the losses, and for the first covariance the
    columns of `overlap`."""

    def means(self) -> pd.DataFrame:
        """Return the means over the runs."""
        return over_runs(self.table, ["covariance", "step"], COLUMNS)

    def conclusion(self) -> str:
        """Return the alignment of each whole covariance at the last step in words."""
        means, step = self.means(), self.table.step.max()
        last = means[means.step == step].set_index("covariance")
        lines = []
        for name in last.index.intersection(["full batch", "batch of one"]):
            row, runs = last.loc[name], self.table[(self.table.covariance == name) & (self.table.step == step)]
            high = row.null_high
            null = "" if np.isnan(high) else f", where random eigenvectors reach {high:.2g} in 2.5% of cases"
            lines.append(
                f"- Σ of the {name}, step {step:g}: cosine with the Hessian {known_or_unresolved(row, 'cosine')}"
                f"{null}; resolved in {(runs.verdict == 'aligned').sum()} of {len(runs)} runs."
            )
        return "\n".join(lines)

    @drawing()
    def plot(self) -> Figure:
        """Draw (a) cosines with the null of the full-batch Σ, (b) ratios, (c) parts of the cosine, (d) the overlap."""
        groups = dict(list(self.means().groupby("covariance", sort=False)))
        figure = Figure(figsize=(PAGE, 5.2), layout="constrained")
        axes = figure.subplots(2, 2)
        for k, (name, group) in enumerate(groups.items()):
            band(axes[0, 0], group, "step", "cosine", k, name)
            band(axes[0, 1], group, "step", "ratio", k, name)
        for name, line in (("full batch", "-"), ("batch of one", ":")):
            if name in groups:
                null = groups[name]
                axes[0, 0].plot(null.step, null.null_high, color="0.5", linestyle=line, label=f"null 97.5%, {name}")
        axes[0, 1].axhline(1, color="0.5", linewidth=0.8)
        axes[0, 1].set_yscale("log")
        for k, name in enumerate(("full batch", "gradient term", "pair term")):
            if name in groups:
                band(axes[1, 0], groups[name], "step", "part", k, name)
        first = next(iter(groups.values()))  # the covariance whose eigenvectors are compared
        band(axes[1, 1], first, "step", "overlap", 0, "leading eigenvectors")
        axes[1, 1].plot(first.step, first.overlap_null_high, color="0.5", label="null 97.5%")
        axes[1, 1].set_ylim(bottom=0)
        titles = (
            ("cosine of H and covariance", "$\\alpha$"),
            ("ratio to isotropic noise", "$D\\,\\mathrm{tr}(H\\Sigma)/(\\mathrm{tr}H\\,\\mathrm{tr}\\Sigma)$"),
            ("parts of the full-batch cosine", "part of $\\alpha$"),
            ("overlap of leading eigenvectors", "mean squared cosine"),
        )
        for axis, letter, (title, label) in zip(axes.flat, "abcd", titles, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
            axis.set_ylabel(label)
            symlog_steps(axis)
            legend_above(axis)
        return figure


@entry_point
def alignment_along(
    problem: DropoutProblem,
    states: Tensor,
    steps: Sequence[int],
    covariances: Sequence[str] = tuple(COVARIANCES),
    probes: int = 200,
    eigenpairs: int = 10,
    seed: int = 0,
) -> AlignmentStudy:
    """Measure the alignment of Hess L_S with the noise at the states of training runs.

    Args:
        problem: the trained problem.
        states: parameters (T, B, D) of B runs, as `iterate` returns them.
        steps: the T step numbers.
        covariances: names in `COVARIANCES`; shares refer to the first one, and so does the overlap.
        probes: vectors for the traces at one state.
        eigenpairs: number of eigenvectors whose overlap is measured.
        seed: seed of the vectors.
    """
    states = check_parameters("states", states, dropout_problem(problem), ("T", "B"))
    steps = check_list("steps", steps, lambda name, step: check_integer(name, step, 0), size=len(states), distinct=True)
    covariances = check_choices("covariances", covariances, COVARIANCES)
    check_integer("probes", probes)
    _check_eigenpairs("eigenpairs", eigenpairs, problem)
    check_seed("seed", seed)
    frames = [
        _at_step(problem, points, step, covariances, probes, eigenpairs, seed)
        for step, points in zip(steps, states, strict=True)
    ]
    return AlignmentStudy(pd.concat(frames, ignore_index=True))


def _check_eigenpairs(name: str, eigenpairs: int, problem: DropoutProblem) -> None:
    """Refuse eigenvectors that span all directions, D or more of them."""
    if check_integer(name, eigenpairs) >= problem.dim:
        raise invalid(name, f"be below the number of parameters D = {problem.dim}", eigenpairs)


def _at_step(
    problem: DropoutProblem,
    points: Tensor,
    step: int,
    covariances: Sequence[str],
    probes: int,
    eigenpairs: int,
    seed: int,
) -> pd.DataFrame:
    """Return the rows of all runs (B, D) at one step."""
    frames = []
    for run, theta in enumerate(points):
        hessian = hessian_operator(problem, theta)
        operators = {name: COVARIANCES[name](problem, theta) for name in covariances}
        frame = alignment(hessian, operators, probes, seed)
        frame.insert(0, "run", run)
        frame.insert(0, "step", step)
        frame["loss"] = float(problem.loss(theta))
        frame["modified_loss"] = float(problem.modified_loss(theta))
        first = frame.covariance == covariances[0]
        for key, value in overlap(hessian, operators[covariances[0]], eigenpairs).items():
            frame.loc[first, key] = value
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


class Alignment(LandscapeSection[AlignmentSettings]):
    """Train, and measure the alignment at checkpoints."""

    name = "alignment"

    def cells(self) -> list[Cell]:
        """Return a cell that trains, and one cell per checkpoint."""
        options, problem = self.options, self.problem
        check_dimension(problem.dim)
        _check_eigenpairs("alignment.eigenpairs", options.eigenpairs, problem)
        steps = checkpoints(self.settings.steps, options.checkpoints)
        training, trained = self.training(self.iteration(), steps)

        def measure(k: int) -> pd.DataFrame:
            given = tuple(COVARIANCES), options.probes, options.eigenpairs, self.settings.seed
            return _at_step(problem, trained()[k], steps[k], *given)

        return [training, *(Cell(f"alignment, step {step}", partial(measure, k)) for k, step in enumerate(steps))]

    def summarise(self, results: list[Any]) -> Section:
        """Return the resolved alignments at the last step, and the reason why the alignment changes."""
        study = AlignmentStudy(pd.concat(results[1:], ignore_index=True))
        means, step = study.means(), int(study.table.step.max())
        aligned = resolved_counts(study.table, "step", "covariance")
        shown = ("covariance", "cosine", "null_mean", "null_high", "ratio", "score", "share")
        text = join(
            "Cosine tr(H Σ)/(|H||Σ|) of H = Hess L_S with each covariance; `null_mean`, `null_high`: mean and 97.5% "
            "quantile for random eigenvectors with the same eigenvalues; `ratio` D tr(H Σ)/(tr H tr Σ), 1 for "
            "isotropic noise; `score`: standard deviations of the null above its mean; `share` of the trace of the "
            f"full-batch Σ. At step {step}:",
            markdown(means[means.step == step], shown),
            "Runs whose alignment is resolved (the interval of the score lies beyond the 97.5% quantile of the null), "
            "by step:",
            markdown(aligned, aligned.columns),
            "### Why the alignment changes",
            _explanation(study.table),
        )
        tables = {"alignment": study.table}
        figures = {"alignment": Captioned(study.plot(), CAPTION)}
        return Section("Alignment of Hessian and noise", tables, figures, text, study.conclusion())


def _explanation(table: pd.DataFrame) -> str:
    """Return the change of the cosine, term by term and run by run, in the initial phase and after it."""
    wide = table.pivot(index=["run", "step"], columns="covariance", values=["part", "cosine", "share"])
    share = wide["share", "gradient term"].groupby("step").mean()
    steps = list(share.index)
    # The phases are defined by the mechanism and not by the cosine itself, whose changes are tested.
    turn = next((step for step in steps[1:-1] if share[step] < share[steps[0]] / 2), steps[-1])
    lines = [
        "Σ = gradient term + pair term + cross term. The gradient term, v Σ_k g_k g_k^T with g_k the blocks of grad "
        "L_S, vanishes at critical points of L_S, and so does the cross term; the pair term, made of products of two "
        "neurons' contributions, stays. Parts are tr(H Σ_term)/(|H||Σ|): they add up to the cosine of Σ. The initial "
        f"phase ends where the gradient term has lost half its share of tr Σ: step {turn}.",
    ]
    for begin, end in [(steps[0], turn), (turn, steps[-1])] if turn < steps[-1] else [(steps[0], steps[-1])]:
        at, to = wide.xs(begin, level="step"), wide.xs(end, level="step")
        change = mean_over(to["cosine", "full batch"] - at["cosine", "full batch"])
        lines.append(
            f"\nFrom step {begin} to {end} the change of the cosine of Σ is {signed(change, 'a rise', 'a fall')}:\n"
        )
        for term in ("gradient term", "pair term"):
            shares = [mean_over(part["share", term]) for part in (at, to)]
            own = [mean_over(state["cosine", term]) for state in (at, to)]
            part = mean_over(to["part", term] - at["part", term])
            lines.append(
                f"- {term}: share of tr Σ from {shares[0]} to {shares[1]}; cosine of the term itself from {own[0]} to "
                f"{own[1]}; change of its part: {signed(part, 'a rise', 'a fall')}."
            )
        cross = (to["part"] - at["part"]).eval("`full batch` - `gradient term` - `pair term`")
        lines.append(f"- cross term: change of its part: {signed(mean_over(cross), 'a rise', 'a fall')}.")
    return "\n".join(lines)
