"""Section "alignment": Hessian against noise covariance along training, beside its null model."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import PAGE, drawing
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.alignment import AlignmentStudy, alignment_along, check_dimension, check_eigenpairs
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.training import HalfIteration, initial_points, train
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import (
    band,
    checkpoints,
    known_or_unresolved,
    legend_above,
    signed,
    symlog_steps,
)

__all__ = ["alignment_figure", "alignment_section"]

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


def alignment_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Train, measure at the checkpoints, and say what is resolved."""
    check_dimension(problem.dim)
    check_eigenpairs(problem, config.alignment.eigenpairs)
    steps = checkpoints(config.steps, config.alignment.checkpoints)
    starts = initial_points(problem, config.runs, config.network.seed)
    states = train(HalfIteration(problem, config.lr, config.seed, runs=config.runs), starts, steps)
    study = alignment_along(
        problem,
        states,
        steps,
        probes=config.alignment.probes,
        eigenpairs=config.alignment.eigenpairs,
        seed=config.seed,
    )
    means = over_runs(study.table, ["covariance", "step"], COLUMNS)
    last = means[means.step == steps[-1]]
    shown = ("covariance", "cosine", "null_mean", "null_high", "ratio", "score", "share")
    verdicts = study.table.groupby(["covariance", "step"], sort=False).verdict.agg(
        lambda column: f"{(column == 'aligned').sum()}/{len(column)}"
    )
    aligned = verdicts.unstack("covariance").reset_index()
    text = "\n\n".join(
        [
            "Cosine tr(H Σ)/(|H||Σ|) of H = Hess L_S with each covariance; `null_mean`, `null_high`: mean and 97.5% "
            "quantile for random eigenvectors with the same eigenvalues; `ratio` D tr(H Σ)/(tr H tr Σ), 1 for "
            "isotropic noise; `score`: standard deviations of the null above its mean; `share` of the trace of the "
            "full-batch Σ. "
            f"At step {steps[-1]}:",
            markdown(last, shown),
            "Runs whose alignment is resolved (the interval of the score lies beyond the null's 97.5% quantile), by "
            "step:",
            markdown(aligned, aligned.columns),
            "### Why the alignment changes",
            _explanation(study.table),
        ]
    )
    return Section(
        "Alignment of Hessian and noise",
        {"alignment": study.table},
        {"alignment": Captioned(alignment_figure(study), CAPTION)},
        text,
        _conclusion(study.table, means),
    )


def _conclusion(table: pd.DataFrame, means: pd.DataFrame) -> str:
    """Alignment of each whole covariance at the last step."""
    last = means[means.step == means.step.max()].set_index("covariance")
    lines = []
    for name in last.index.intersection(["full batch", "batch of one"]):
        row, runs = last.loc[name], table[(table.covariance == name) & (table.step == table.step.max())]
        null = (
            "" if np.isnan(row.null_high) else f", where random eigenvectors reach {row.null_high:.2g} in 2.5% of cases"
        )
        lines.append(
            f"- Σ of the {name}, step {row.step:g}: cosine with the Hessian {known_or_unresolved(row, 'cosine')}"
            f"{null}; resolved in {(runs.verdict == 'aligned').sum()} of {len(runs)} runs."
        )
    return "\n".join(lines)


def _explanation(table: pd.DataFrame) -> str:
    """The change of the cosine, term by term and run by run, in the initial phase and after it."""
    wide = table.pivot(index=["run", "step"], columns="covariance", values=["part", "cosine", "share"])
    share = wide["share", "gradient term"].groupby("step").mean()
    steps = list(share.index)
    # The phases are told apart by the mechanism and not by the cosine itself, whose changes are tested.
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
                f"- {term}: share of tr Σ from {shares[0]} to {shares[1]}; cosine of the term alone from {own[0]} to "
                f"{own[1]}; change of its part: {signed(part, 'a rise', 'a fall')}."
            )
        cross = (to["part"] - at["part"]).eval("`full batch` - `gradient term` - `pair term`")
        lines.append(f"- cross term: change of its part: {signed(mean_over(cross), 'a rise', 'a fall')}.")
    return "\n".join(lines)


def alignment_figure(study: AlignmentStudy) -> Figure:
    """(a) cosines with the null of the full-batch Σ, (b) ratios, (c) parts of the cosine by term, (d) overlap."""
    means = over_runs(study.table, ["covariance", "step"], COLUMNS)
    groups = dict(list(means.groupby("covariance", sort=False)))
    with drawing():
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
        band(axes[1, 1], groups["full batch"], "step", "overlap", 0, "leading eigenvectors")
        axes[1, 1].plot(
            groups["full batch"].step,
            groups["full batch"].overlap_null_high,
            color="0.5",
            label="null 97.5%",
        )
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
