"""Section "variance_principle": noise variance against flatness and curvature, on both data sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smesolve.experiments.shared.figures import PAGE, drawing
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.training import HalfIteration, initial_points, train
from smesolve.landscape.variance_principle import VariancePrinciple, check_options, variance_principle
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_section import COLOURS, MARKERS, known_or_unresolved, logarithmic

__all__ = ["variance_figure", "variance_section"]

CAPTION = (
    "One marker and colour for each run, one column for each data set. Above: interval flatness along principal "
    "directions of the data against their variance; below: variance along Hessian eigenvectors against their "
    "eigenvalue. Titles: slope of the log-log line and rank correlation with 95% intervals."
)

KEYS = ["data", "relation", "factor"]


def variance_section(problem: DropoutProblem, config: LandscapeConfig) -> Section:
    """Train, draw both data sets from each run, and fit the relations."""
    options = config.variance_principle
    check_options(problem, options.draws, options.directions, options.loss)
    starts = initial_points(problem, config.runs, config.network.seed)
    states = train(HalfIteration(problem, config.lr, config.seed, runs=config.runs), starts, [config.steps])[-1]
    study = variance_principle(
        problem, states, config.lr, options.draws, options.directions, options.factors, options.loss, config.seed + 1
    )
    table = _summary(study)
    shown = ("data", "relation", "factor", "slope", "rank_correlation", "verdict")
    text = "\n\n".join(
        [
            f"After {config.steps} steps: {options.draws} points of each data set, {options.directions} directions. "
            "`flatness`: interval flatness F_v along the principal directions of the data against their variance, for "
            "each threshold `factor` of the loss; `projection`: variance of the data along the leading Hessian "
            "eigenvectors against their eigenvalue. `slope` of the log-log line and Spearman's rank correlation, one "
            "value a run. The principle says: flatness falls (slope < 0), projected variance grows (slope > 0).",
            markdown(table, shown),
            _ablation(study.slopes),
        ]
    )
    tables = {"variance_principle": study.points, "variance_principle_slopes": study.slopes}
    return Section(
        "Variance principle",
        tables,
        {"variance_principle": Captioned(variance_figure(study), CAPTION)},
        text,
        _conclusion(table),
    )


def _summary(study: VariancePrinciple) -> pd.DataFrame:
    slopes = study.slopes.fillna({"factor": 0.0})
    table = over_runs(slopes, KEYS, ["slope", "rank_correlation"])
    expected = np.where(table.relation == "flatness", -1, 1)
    nearest = np.where(expected < 0, -table.slope_high, table.slope_low)
    opposite = np.where(expected < 0, -table.slope_low, table.slope_high)
    table["verdict"] = np.where(nearest > 0, "seen", np.where(opposite < 0, "opposite", "unresolved"))
    table["factor"] = table.factor.map(lambda factor: f"{factor:g}" if factor else "")
    return table


def _conclusion(table: pd.DataFrame) -> str:
    return "\n".join(
        f"- {row.data}, {row.relation}{f' with threshold {row.factor}' if row.factor else ''}: {row.verdict}, slope "
        f"{known_or_unresolved(row, 'slope')}."
        for row in table.itertuples()
    )


def _ablation(slopes: pd.DataFrame) -> str:
    """How much the slope of the flatness depends on the threshold, run by run."""
    flatness = slopes[slopes.relation == "flatness"]
    lines = []
    for data, group in flatness.groupby("data", sort=False):
        wide = group.pivot(index="run", columns="factor", values="slope")
        low, high = wide.columns.min(), wide.columns.max()
        if low < high:
            change = pd.DataFrame({"data": data, "change": wide[high] - wide[low]})
            row = over_runs(change, ["data"], ["change"]).iloc[0]
            resolved = "" if row.change_low > 0 or row.change_high < 0 else ", which is unresolved"
            lines.append(
                f"- {data}: from threshold {low:g} to {high:g} the slope changes by {row.change:+.3g} "
                f"[{row.change_low:.3g}, {row.change_high:.3g}]{resolved}."
            )
    return "\n".join(lines)


def variance_figure(study: VariancePrinciple) -> Figure:
    """Columns: both data sets; rows: flatness against variance, variance against curvature. One colour a run."""
    with drawing():
        figure = Figure(figsize=(PAGE, 5.4), layout="constrained")
        axes = figure.subplots(2, 2)
        factors = sorted(study.points.factor.dropna().unique())
        middle = factors[len(factors) // 2]
        summary = _summary(study).set_index(KEYS)
        for column, data in enumerate(study.points.data.unique()):
            rows = study.points[study.points.data == data]
            part = rows[(rows.relation == "flatness") & (rows.factor == middle)]
            _scatter(axes[0, column], f"({'ab'[column]}) {data}", part, summary.loc[data, "flatness", f"{middle:g}"])
            axes[0, column].set_xlabel("variance $T_i$ along principal direction")
            axes[0, column].set_ylabel(f"interval flatness $F_{{v_i}}$ (threshold {middle:g})")
            part = rows[rows.relation == "projection"]
            _scatter(axes[1, column], f"({'cd'[column]}) {data}", part, summary.loc[data, "projection", ""])
            axes[1, column].set_xlabel("Hessian eigenvalue $H_i$")
            axes[1, column].set_ylabel("variance along its eigenvector")
        return figure


def _scatter(axis: Axes, title: str, rows: pd.DataFrame, fit: pd.Series) -> None:
    for run, group in rows.groupby("run"):
        usable = group[(group.x > 0) & (group.y > 0)]
        look = run % len(COLOURS)
        style = {"marker": MARKERS[look], "color": COLOURS[look], "markersize": 2.5, "alpha": 0.7}
        axis.plot(usable.x, usable.y, linestyle="", **style)
    logarithmic(axis)
    axis.set_title(
        f"{title}: slope {fit.slope:.2f} [{fit.slope_low:.2f}, {fit.slope_high:.2f}]\nrank correlation "
        f"{fit.rank_correlation:.2f} [{fit.rank_correlation_low:.2f}, {fit.rank_correlation_high:.2f}]",
        loc="left",
    )
