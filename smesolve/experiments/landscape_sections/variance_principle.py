"""Variance principle: the noise is larger along sharper directions of the loss.

Two relations are tested on two data sets of `noise_samples`, random trajectories and random gradients:

    flatness    along the principal directions v_i of the data, variances T_i:   F_{v_i} falls as T_i grows          (1)
    projection  along the leading eigenvectors u_i of the Hessian:  Var(u_i . data) grows with the eigenvalue H_i    (2)

with the interval flatness F_v of `interval_flatness`. Feng, Tu (PNAS 2021) write (1) as T_i ~ F_i^-psi, and find psi
about 4 for mini-batches, at the threshold e of the loss. Here psi is minus the slope of ln T on ln F.

Both relations are summarised by the slope of a straight line through (log x, log y) and by Spearman's rank correlation.
The points of one data set are dependent, so neither has an interval from one data set; intervals are over independent
data sets. Under the null hypothesis, directions independent of the other quantity, all pairings are equally likely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from scipy import stats
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.experiments.landscape_sections.base import LandscapeSection
from smesolve.experiments.landscape_sections.comparisons import known_or_unresolved
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.figures import PAGE, SEQUENCE, Figure, drawing, logarithmic
from smesolve.landscape.estimates import over_runs
from smesolve.landscape.flatness import interval_flatness
from smesolve.landscape.noise_samples import principal_directions, random_gradients, random_trajectories
from smesolve.landscape.operators import dropout_problem, hessian_operator, loss_hessian_operator
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.problem.dropout import DropoutProblem
from smesolve.validation import (
    check_choice,
    check_integer,
    check_list,
    check_number,
    check_parameters,
    check_positive,
    check_seed,
)

__all__ = ["VariancePrinciple", "VarianceSettings", "VarianceStudy", "variance_principle"]

CAPTION = (
    "One marker and colour per run, one column per data set. Above: interval flatness along principal "
    "directions of the data against their variance; below: variance along Hessian eigenvectors against their "
    "eigenvalue. Titles: slope of the log-log line and rank correlation with 95% intervals."
)

KEYS = ["data", "relation", "factor"]
LOSSES = ("loss", "modified_loss")


@dataclass(frozen=True)
class VarianceSettings:
    """Variance principle.

    Args:
        draws: points of each data set: consecutive steps, and gradients at one point.
        directions: principal directions of the data, and leading Hessian eigenvectors.
        factors: thresholds of the interval flatness in units of the loss at the centre.
        loss: loss whose flatness and Hessian are measured: loss (without dropout, as in the papers) or modified_loss.
    """

    draws: int = 1000
    directions: int = 30
    factors: list[float] = field(default_factory=lambda: [1.5, 2.0, 4.0])
    loss: str = "loss"

    def __post_init__(self) -> None:
        check_integer("variance_principle.draws", self.draws, 8)
        check_integer("variance_principle.directions", self.directions, 3)
        check_list("variance_principle.factors", self.factors, _check_factor, distinct=True)
        check_choice("variance_principle.loss", self.loss, LOSSES)


@dataclass(frozen=True, repr=False)
class VarianceStudy(ReportedResult):
    """Both relations on both data sets, for several runs."""

    points: pd.DataFrame
    """run, data, relation, factor (NaN for projections), index, x, y: T_i and F_{v_i}, or H_i and variance. H_i is NaN
    if it cannot be distinguished from 0; directions without variance are left out."""
    table: pd.DataFrame
    """run, data, relation, factor, slope, rank_correlation, p_value (Spearman's, two-sided), points, and psi for the
    flatness."""

    @drawing()
    def plot(self) -> Figure:
        """Draw flatness against variance above, variance against curvature below, one column for each data set."""
        figure = Figure(figsize=(PAGE, 5.4), layout="constrained")
        axes = figure.subplots(2, 2)
        factors = sorted(self.points.factor.dropna().unique())
        middle = factors[len(factors) // 2]
        summary = self.means().set_index(KEYS)
        for column, data in enumerate(self.points.data.unique()):
            rows = self.points[self.points.data == data]
            part = rows[(rows.relation == "flatness") & (rows.factor == middle)]
            _scatter(axes[0, column], f"({'ab'[column]}) {data}", part, summary.loc[data, "flatness", f"{middle:g}"])
            axes[0, column].set_xlabel("variance $T_i$ along principal direction")
            axes[0, column].set_ylabel(f"interval flatness $F_{{v_i}}$ (threshold {middle:g})")
            part = rows[rows.relation == "projection"]
            _scatter(axes[1, column], f"({'cd'[column]}) {data}", part, summary.loc[data, "projection", ""])
            axes[1, column].set(xlabel="Hessian eigenvalue $H_i$", ylabel="variance along its eigenvector")
        return figure

    def means(self) -> pd.DataFrame:
        """Return means over the runs, with verdicts."""
        slopes = self.table.fillna({"factor": 0.0})
        table = over_runs(slopes, KEYS, ["slope", "rank_correlation", "psi"])
        expected = np.where(table.relation == "flatness", -1, 1)
        nearest = np.where(expected < 0, -table.slope_high, table.slope_low)
        opposite = np.where(expected < 0, -table.slope_low, table.slope_high)
        table["verdict"] = np.where(nearest > 0, "seen", np.where(opposite < 0, "opposite", "unresolved"))
        table["factor"] = table.factor.map(lambda factor: f"{factor:g}" if factor else "")
        return table

    def conclusion(self) -> str:
        """Return the verdict on each relation, as a list in Markdown."""
        return "\n".join(
            f"- {row.data}, {row.relation}{f' with threshold {row.factor}' if row.factor else ''}: {row.verdict}, "
            f"slope {known_or_unresolved(row, 'slope')}."
            for row in self.means().itertuples()
        )


@entry_point
def variance_principle(
    problem: DropoutProblem,
    starts: Tensor,
    lr: float,
    draws: int = 1000,
    directions: int = 30,
    factors: Sequence[float] = (1.5, 2.0, 4.0),
    loss: str = "loss",
    seed: int = 0,
) -> VarianceStudy:
    """Measure both relations on both data sets, for trained networks.

    Args:
        problem: dropout problem.
        starts: parameters (B, D) of trained networks, one per run.
        lr: learning rate of the trajectories.
        draws: number of points of each data set.
        directions: number of principal directions and Hessian eigenvectors.
        factors: thresholds of the interval flatness, in units of the loss at the centre.
        loss: loss whose flatness and Hessian are measured: "loss" (R_S, as in the papers) or "modified_loss" (L_S).
        seed: seed of the masks.
    """
    starts = check_parameters("starts", starts, dropout_problem(problem), ("B",))
    check_positive("lr", lr)
    check_integer("draws", draws)
    check_integer("directions", directions)
    factors = check_list("factors", factors, _check_factor, distinct=True)
    check_choice("loss", loss, LOSSES)
    _check_sizes("", draws, directions, problem)
    check_seed("seed", seed)
    measure = partial(
        _at_run,
        problem,
        lambda: starts,
        cache(lambda: random_trajectories(problem, starts, lr, draws, seed)),
        draws=draws,
        directions=directions,
        factors=factors,
        loss=loss,
        seed=seed,
    )
    return _study([measure(run) for run in range(len(starts))])


def _check_factor(name: str, factor: Any) -> float:
    """Return a threshold in units of the loss."""
    return check_number(name, factor, 1.0, remedy="it is a threshold in units of the loss at the centre")


def _check_sizes(prefix: str, draws: int, directions: int, problem: DropoutProblem) -> None:
    """Refuse numbers of draws and directions that are inconsistent with each other or with the problem."""
    if draws <= directions:
        raise invalid(f"{prefix}draws", f"exceed directions = {directions}", draws, "fewer draws span fewer directions")
    if directions >= problem.dim:
        raise invalid(f"{prefix}directions", f"be below the number of parameters D = {problem.dim}", directions)


@torch.no_grad()
def _at_run(
    problem: DropoutProblem,
    starts: Callable[[], Tensor],
    trajectories: Callable[[], Tensor],
    run: int,
    *,
    draws: int,
    directions: int,
    factors: Sequence[float],
    loss: str,
    seed: int,
) -> pd.DataFrame:
    """Return the points of one run."""
    function = getattr(problem, loss)
    operator = loss_hessian_operator if loss == "loss" else hessian_operator
    start, trajectory = starts()[run], trajectories()[:, run]
    sets = {
        "random trajectory": (trajectory[-1], trajectory),
        "random gradients": (start, random_gradients(problem, start, draws, seed + run)),
    }
    points = []
    for name, (centre, data) in sets.items():
        variances, vectors = principal_directions(data, directions)
        for factor in factors:
            flatness = interval_flatness(function, centre, vectors, factor)
            points.append(_points(run, name, "flatness", factor, variances, flatness))  # (1)
        pairs = leading_eigenpairs(operator(problem, centre), directions)
        projections = (data - data.mean(0)) @ torch.from_numpy(pairs.vectors).to(data)
        variance = projections.square().sum(0) / (len(data) - 1)
        # The sign of an eigenvalue that is 0 up to rounding is arbitrary, and so is its logarithm.
        resolved = np.where(np.abs(pairs.values) > pairs.residuals, pairs.values, np.nan)
        points.append(_points(run, name, "projection", np.nan, resolved, variance.cpu().numpy()))  # (2)
    return pd.concat(points, ignore_index=True)


def _points(run: int, data: str, relation: str, factor: float, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    fixed = {"run": run, "data": data, "relation": relation, "factor": factor}
    return pd.DataFrame(fixed | {"index": np.arange(len(x)), "x": x, "y": y})


def _study(results: Sequence[pd.DataFrame]) -> VarianceStudy:
    """Return the points of all runs, and the relation in each data set of each run."""
    table = pd.concat(results, ignore_index=True)
    keys = ["run", *KEYS]
    rows = [
        dict(zip(keys, values, strict=True)) | _relation(group.x.to_numpy(), group.y.to_numpy())
        for values, group in table.groupby(keys, sort=False, dropna=False)
    ]
    slopes = pd.DataFrame(rows)
    slopes["psi"] = (-slopes.inverse_slope).where(slopes.relation == "flatness")
    return VarianceStudy(table, slopes.drop(columns="inverse_slope"))


def _relation(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return slopes of log y on log x and of log x on log y, and Spearman's correlation, where both are positive."""
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[usable], y[usable]
    if len(x) < 3:
        unknown: dict[str, float] = dict.fromkeys(("slope", "inverse_slope", "rank_correlation", "p_value"), np.nan)
        return unknown | {"points": len(x)}
    ranks = stats.spearmanr(x, y)
    slope, inverse = (float(np.polyfit(np.log(a), np.log(b), 1)[0]) for a, b in ((x, y), (y, x)))
    return {
        "slope": slope,
        "inverse_slope": inverse,
        "rank_correlation": float(ranks.statistic),
        "p_value": float(ranks.pvalue),
        "points": len(x),
    }


class VariancePrinciple(LandscapeSection[VarianceSettings]):
    """Training, both data sets of each run, and the fitted relations."""

    name = "variance_principle"

    def cells(self) -> list[Cell]:
        """Return a cell that trains, and one cell per run."""
        s, options, problem = self.settings, self.options, self.problem
        _check_sizes("variance_principle.", options.draws, options.directions, problem)
        training, trained = self.training(self.iteration(), [s.steps])
        seed = s.seed + 1  # the masks of training are those of s.seed

        def solutions() -> Tensor:
            return trained()[-1]

        measure = partial(
            _at_run,
            problem,
            solutions,
            cache(lambda: random_trajectories(problem, solutions(), s.lr, options.draws, seed)),
            seed=seed,
            **vars(options),
        )
        return [training, *(Cell(f"variance_principle, run {run}", partial(measure, run)) for run in range(s.runs))]

    def summarise(self, results: list[Any]) -> Section:
        """Return which relation holds in which data set."""
        study, options = _study(results[1:]), self.options
        table = study.means()
        shown = ("data", "relation", "factor", "slope", "rank_correlation", "verdict")
        text = join(
            f"After {self.settings.steps} steps: {options.draws} points of each data set, {options.directions} "
            "directions. `flatness`: interval flatness F_v along the principal directions of the data against their "
            "variance, for each threshold `factor` of the loss; `projection`: variance of the data along the leading "
            "Hessian eigenvectors against their eigenvalue. `slope` of the log-log line and Spearman's rank "
            "correlation, one value for each run. The principle says: flatness falls (slope < 0), projected variance "
            "grows (slope > 0).",
            markdown(table, shown),
            "`psi`, for variance ~ flatness^-psi: the slope of the logarithm of the variance on that of the flatness, "
            "with its sign changed. Feng, Tu (PNAS 2021) find about 4 for mini-batches, at the threshold e.",
            markdown(table[table.relation == "flatness"], ["data", "factor", "psi"]),
            _ablation(study.table),
        )
        tables = {"variance_principle": study.points, "variance_principle_slopes": study.table}
        figures = {"variance_principle": Captioned(study.plot(), CAPTION)}
        return Section("Variance principle", tables, figures, text, study.conclusion())


def _ablation(slopes: pd.DataFrame) -> str:
    """Return how the slope of the flatness depends on the threshold, run by run."""
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


def _scatter(axis: Axes, title: str, rows: pd.DataFrame, fit: pd.Series) -> None:
    for run, group in rows.groupby("run"):
        usable = group[(group.x > 0) & (group.y > 0)]
        style = SEQUENCE[run % len(SEQUENCE)]
        axis.plot(usable.x, usable.y, linestyle="", marker=style.marker, color=style.colour, markersize=2.5, alpha=0.7)
    logarithmic(axis)
    axis.set_title(
        f"{title}: slope {fit.slope:.2f} [{fit.slope_low:.2f}, {fit.slope_high:.2f}]\nrank correlation "
        f"{fit.rank_correlation:.2f} [{fit.rank_correlation_low:.2f}, {fit.rank_correlation_high:.2f}]",
        loc="left",
    )
