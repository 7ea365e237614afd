"""Tables and words on weak errors for the experiments compare and weak-error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from smesolve.comparison.sorted_tables import in_sorted_orders
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.confidence import CONFIDENCE
from smesolve.experiments.shared.markdown import table_of
from smesolve.experiments.shared.section import formatted
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings
from smesolve.solver.orders import equation_name, orders_in_words

__all__ = [
    "at_horizon",
    "bias_format",
    "by_defects",
    "divergence",
    "largest_errors",
    "measured_in_words",
    "number",
    "slope_in_words",
    "slopes",
]

INTERVALS = (
    f"Intervals are {CONFIDENCE:.0%} intervals for one point each. The solver's bias (estimated from paths at "
    "dt and dt/2 with common noise) is subtracted from the error, whose interval includes that of the bias. An error "
    "whose interval contains 0 is not resolved: it may have either sign and nothing is claimed about it."
)


BY_DEFECTS = (
    f"Intervals are {CONFIDENCE:.0%} intervals for one point each. Errors are summed up along the discrete run, from "
    "the defects of single steps. To the Monte Carlo interval of an error a bound on the bias of this estimate is "
    "added, which falls faster with the learning rate than the error. An error whose interval contains 0 is not "
    "resolved: it may have either sign and nothing is claimed about it."
)


def by_defects(study: WeakErrorStudy) -> bool:
    """Return whether the errors are estimated by defects."""
    return bool((study.table.estimator == "defects").all())


def measured_in_words(study: WeakErrorStudy, settings: WeakErrorSettings) -> str:
    """Return the compared processes, the numbers of paths, and the meaning of the intervals."""
    table = study.table
    lrs = ", ".join(f"{lr:g}" for lr in table.lr.unique())
    times = f"{table.time.nunique()} times up to" if table.time.nunique() > 1 else "time"
    return (
        f"All paths start from one theta0 (network.seed {settings.network.seed}). "
        f"Compared: the discrete dropout iteration and its modified equation of "
        f"{orders_in_words(table.order)}, at "
        f"{times} T = {study.horizon:g}, for learning rates {lrs}. "
        f"{_sampled(study, settings)}"
    )


def _sampled(study: WeakErrorStudy, settings: WeakErrorSettings) -> str:
    """Return the numbers of paths, and the meaning of the intervals."""
    table = study.table
    counts = pd.concat([table.discrete_paths, table.sde_paths])
    paths = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    aim = (
        ""
        if settings.rel_tol is None
        else f"; paths were added, up to {settings.max_paths} for rel_tol = {settings.rel_tol:g}"
    )
    if by_defects(study):
        return f"Estimator: defects. Paths: {paths}{aim}.\n\n{BY_DEFECTS}"
    steps = ", ".join(
        f"{dt:g} ({equation_name(order)}, lr {lr:g})"
        for (order, lr), dt in table.groupby(["order", "lr"], sort=False).solver_dt.first().items()
    )
    schemes = " and ".join(table.scheme.unique())
    return (
        f"Estimator: difference of means. Paths on each side: {paths}{aim}; control variates: {settings.control}. "
        f"Scheme {schemes} with dt = {steps}.\n\n{INTERVALS}"
    )


def divergence(study: WeakErrorStudy) -> str:
    """Return the numbers of diverged paths."""
    diverged = study.table[study.table.diverged > 0].drop_duplicates(["order", "lr"])
    if by_defects(study):
        lost = [f"- {row.diverged} paths of {row.paths} diverged: lr {row.lr:g}." for row in diverged.itertuples()]
        return "\n".join(dict.fromkeys(lost)) or "No path diverged."
    lines = [
        f"- {row.diverged} paths diverged: {equation_name(row.order)}, lr {row.lr:g} ({row.discrete_diverged} of "
        f"{row.discrete_paths} of dropout, {row.sde_diverged} of {row.sde_paths} of the SME). No mean over the others "
        "is taken."
        for row in diverged.itertuples()
    ]
    return "\n".join(lines) or "No path diverged."


def bias_format(study: WeakErrorStudy) -> str:
    """Return the format of the bias of an error: the bias of the solver, or the bound for defects."""
    return "± {bias:.1e}" if by_defects(study) else "{solver_bias:+.1e} ± {solver_bias_half_width:.1e}"


def at_horizon(study: WeakErrorStudy) -> pd.DataFrame:
    """Return the rows at the horizon, the largest learning rate of each observable first."""
    keys = ["observable", "lr", "order"]
    return in_sorted_orders(study.at_horizon(), keys, ascending=[True, False, True])


def slopes(study: WeakErrorStudy) -> str:
    """Return the table of the slopes."""
    if study.table.lr.nunique() < 2:
        return "The study has one learning rate. A slope needs two of them, and a certified order takes four or more."
    fit = study.fit()
    table = table_of(
        ["order", "observable", "slope", "95% interval", "verdict", "points", "p-value of the fit", "left out"],
        (
            [
                row.order,
                row.observable,
                *slope_in_words(row),
                row.verdict,
                row.points,
                number(row.p_value, ".2f"),
                row.left_out or "none",
            ]
            for row in fit.itertuples()
        ),
    )
    note = (
        "Slopes p of error = c lr^p (1 + d lr + ...) by weighted least squares, the terms beyond d bounded by the "
        "size that the errors allow (two points: of c lr^p, the local slope between them); a slope needs two resolved "
        "points of one sign. `verdict`: certified if the interval contains the nominal order and neither of its "
        "neighbours. p-value 1.00: as many parameters as points, so the fit is not tested."
    )
    return f"{table}\n\n{note}"


def slope_in_words(row: Any) -> tuple[str, str]:
    """Return the slope of a row of the fit, and its interval."""
    if not np.isfinite(row.slope):
        return "not resolved", ""
    return f"{row.slope:.3f}", f"[{row.slope_low:.3f}, {row.slope_high:.3f}]"


def largest_errors(study: WeakErrorStudy) -> str:
    """Return the table of the largest errors over the times."""
    table = formatted(
        study.maximum(),
        {
            "observable": "{observable}",
            "lr": "{lr:g}",
            "order": "{order}",
            "max error": "{error:.2e}",
            "95% interval": "[{low:.2e}, {high:.2e}]",
            "near time": "{time:g}",
            "resolved": "{resolved}",
        },
    )
    meaning = (
        "max_k |E g(theta_k) - E g(Theta_(k lr))| over the times of the study; intervals hold for all times at once."
    )
    return f"{meaning}\n\n{table}"


def number(value: float, form: str) -> str:
    """Return a number in a format, "-" if it is not finite."""
    return format(value, form) if np.isfinite(value) else "-"
