"""Section "noises": how the covariance of each noise aligns with the Hessian of one loss."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.figures import PAGE, drawing
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.alignment import check_dimension
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.noises import NoiseScales, noise_alignment, noisy_problem
from smesolve.landscape.training import initial_points
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import band, checkpoints, known_or_unresolved, symlog_steps

__all__ = ["noises_figure", "noises_section"]

CAPTION = (
    "Against the step of training, one line for each noise, means over runs with their 95% bands: (a) cosine of the "
    "Hessian and the covariance at common points, (b) ratio to isotropic noise there, (c) cosine along the noise's "
    "own runs. Grey: largest 97.5% quantile for random eigenvectors in (a) and (c), 1 in (b)."
)

KEYS = ["noise", "points", "step"]
COLUMNS = ("cosine", "null_mean", "null_high", "ratio", "score", "loss")


def noises_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Train under each noise, measure at the checkpoints, and rank the noises by their alignment."""
    options = config.noises
    if not options.names:
        raise SmesolveError("noises.names is empty; name at least one, for example [dropout, mini-batch].")
    check_dimension(problem.dim)
    scales = NoiseScales(options.batch_size, options.label_noise, options.parameter_noise)
    problems = {name: noisy_problem(problem, name, scales) for name in options.names}
    steps = checkpoints(config.steps, options.checkpoints)
    starts = initial_points(problem, config.runs, config.network.seed)
    table = noise_alignment(problems, starts, config.lr, steps, options.draws, options.probes, config.seed)
    means = over_runs(table, KEYS, COLUMNS)
    common = means[means.points == "common"]
    shown = ("noise", "cosine", "null_mean", "null_high", "ratio", "score")
    resolved = (
        table.groupby(["noise", "points"], sort=False)
        .verdict.agg(lambda column: f"{(column == 'aligned').sum()}/{len(column)}")
        .unstack("points")
        .reset_index()
    )
    parts = [
        "H = Hess R_S, the same for all noises. `common`: at the points of the runs of the first noise, so that "
        f"differences are those of the noises; `own`: along each noise's own runs. Mini-batches of "
        f"{scales.batch_size}, "
        f"label noise {scales.label_noise:g}, parameter noise {scales.parameter_noise:g}; {options.draws} draws, and "
        "unbiased estimators, for a covariance that is known by draws alone.",
    ]
    for step in (steps[0], steps[-1]):
        rows = common[common.step == step].sort_values("cosine", ascending=False)
        parts += [f"At the common points, step {step}:", markdown(rows, shown)]
    parts += ["Resolved alignments, of all runs and steps:", markdown(resolved, resolved.columns)]
    return Section(
        "Alignment of other noises",
        {"noises": table},
        {"noises": Captioned(noises_figure(table), CAPTION)},
        "\n\n".join(parts),
        _conclusion(rows, table),
    )


def _conclusion(last: pd.DataFrame, table: pd.DataFrame) -> str:
    """Cosines at the last of the common points, largest first."""
    lines = []
    for row in last.itertuples():
        runs = table[(table.noise == row.noise) & (table.points == row.points) & (table.step == row.step)]
        lines.append(
            f"- {row.noise}: cosine with the Hessian {known_or_unresolved(row, 'cosine')} at "
            f"step {row.step}; alignment resolved in {(runs.verdict == 'aligned').sum()} of {len(runs)} runs."
        )
    return "\n".join(lines)


def noises_figure(table: pd.DataFrame) -> Figure:
    """(a) cosine at common points, (b) ratio to isotropic noise there, (c) cosine along each noise's own runs."""
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
                axis.set_yscale("log")
                axis.set_ylabel("$D\\,\\mathrm{tr}(H\\Sigma)/(\\mathrm{tr}H\\,\\mathrm{tr}\\Sigma)$")
            axis.set_title(f"({letter}) {points} points", loc="left")
            symlog_steps(axis)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
        return figure
