"""Reports in Markdown: what was measured, what is resolved, and nothing that is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from smesolve.comparison.confidence import CONFIDENCE, NORMAL_QUANTILE
from smesolve.comparison.leading_error import MAX_DIM, MAX_DRAWS
from smesolve.comparison.outcomes import Status
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.kinks import kinks
from smesolve.problem.problem import Problem
from smesolve.study.configuration import StudyConfig
from smesolve.study.markdown import join, picture, plain, table_of
from smesolve.study.problems import described, outside_theorems

__all__ = ["comparison_report", "weak_error_report"]

INTERVALS = (
    f"Intervals are {CONFIDENCE:.0%} intervals for one point each. That of an error adds the solver's bias (estimated "
    "from paths at dt and dt/2 with common noise, with its own interval) to the Monte Carlo interval. An error "
    "whose interval holds 0 is not resolved: it may have either sign and nothing is claimed about it."
)


def comparison_report(study: WeakErrorStudy, config: StudyConfig, problem: Problem, warnings: Sequence[str]) -> str:
    """Dropout against its modified equation, in words and tables."""
    return join(
        "# Dropout against its stochastic modified equation",
        "## Conclusion",
        f"Errors at the horizon T = {study.horizon:g}, mean under the SME minus mean under dropout, with their "
        f"{CONFIDENCE:.0%} intervals:",
        _resolved(study),
        outside_theorems(config, problem),
        _warnings(study, warnings),
        picture(
            "(a) means over time, (b) errors of the means over time, (c) distribution over paths at the horizon, (d) "
            "|error| at the horizon against the learning rate. Hollow: not resolved.",
            "comparison",
        ),
        "## What was measured",
        _measured(study, config, problem),
        f"## At the horizon T = {study.horizon:g}",
        _horizon_table(study),
        "## Order: error against learning rate",
        _slopes(study),
        "## Largest error over the times",
        _maximum(study),
        "## Distribution of the observables at the horizon",
        _distributions(study),
        "## Files",
        "`report.html`: this report in one file, with configuration, seed and versions. `table.csv`: every order, "
        "learning rate, time and observable. `comparison.png`, `comparison.pdf`: the figure. "
        "`manifest.json`: configuration, seed, versions, command, wall time.",
    )


def weak_error_report(study: WeakErrorStudy, config: StudyConfig, problem: Problem, warnings: Sequence[str]) -> str:
    """The certificate of weak order with its error budget."""
    return join(
        "# Weak error of the stochastic modified equation",
        "## Conclusion",
        f"Weak orders at the horizon T = {study.horizon:g}, with {CONFIDENCE:.0%} intervals:",
        _certified(study),
        outside_theorems(config, problem),
        _warnings(study, warnings),
        picture(
            "|error| at the horizon against the learning rate, one panel for each observable. Points with their "
            "intervals, hollow where not resolved; dashed: fits; thin: predicted leading terms; dotted: noise floor.",
            "weak_error",
        ),
        "## What was measured",
        _measured(study, config, problem),
        "## Orders",
        _slopes(study),
        "## Error budget at the horizon",
        "error = difference of the means ± Monte Carlo of dropout ± Monte Carlo of the SME ± solver bias. The two "
        "Monte Carlo half-widths add in squares, the bias is added in full. `stderr_reduction`: factor by which "
        "control variates shorten the Monte Carlo interval.",
        _budget(study),
        _tails(study),
        "## Points that are not resolved",
        _unresolved(study),
        "## Predicted and measured constants",
        "Leading constant c of error = c lr^order + O(lr^(order + 1)), fitted at the learning rates of the slope "
        "with p = order: a limit where the verdict is certified, elsewhere no more than a fit. The prediction is an "
        "integral along the gradient flow (for a network with kinks the slope of Euler's method in its step, with its "
        "half-width) and uses no Monte Carlo.",
        _constants(study),
        _not_predicted(study.fit(), config, problem),
        "## Largest error over the times",
        _maximum(study),
        "## Files",
        "`report.html`: this report in one file, with configuration, seed and versions. `table.csv`: every order, "
        "learning rate, time and observable. `fit.csv`: slopes and constants. "
        "`weak_error.png`, `weak_error.pdf`: the figure. `manifest.json`: configuration, seed, versions, command, wall "
        "time.",
    )


def _measured(study: WeakErrorStudy, config: StudyConfig, problem: Problem) -> str:
    table = study.table
    orders = " and ".join(str(order) for order in sorted(table.order.unique()))
    steps = ", ".join(
        f"{dt:g} (order {order}, lr {lr:g})"
        for (order, lr), dt in table.groupby(["order", "lr"], sort=False).dt.first().items()
    )
    lrs = ", ".join(f"{lr:g}" for lr in table.lr.unique())
    counts = pd.concat([table.discrete_paths, table.sde_paths])
    paths = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    aim = (
        ""
        if config.rel_tol is None
        else f"; paths were added, up to {config.max_paths} for rel_tol = {config.rel_tol:g}"
    )
    return (
        f"{described(config, problem)} All paths start from one theta0 (network.seed {config.network.seed}).\n\n"
        f"Compared: the discrete dropout iteration and its modified equation of order {orders}, at "
        f"{table.time.nunique()} times up to T = {study.horizon:g}, for learning rates {lrs}. Paths on each side: "
        f"{paths}{aim}; control variates: {config.control}; seed {config.seed}. Scheme {table.scheme.iloc[0]} with "
        f"dt = {steps}.\n\n{INTERVALS}"
    )


def _warnings(study: WeakErrorStudy, warnings: Sequence[str]) -> str:
    lines = [f"- Warning: {text}" for text in warnings]
    diverged = study.table[study.table.diverged > 0].drop_duplicates(["order", "lr"])
    lines += [
        f"- {row.diverged} paths diverged: order {row.order}, lr {row.lr:g} ({row.discrete_diverged} of "
        f"{row.discrete_paths} of dropout, {row.sde_diverged} of {row.sde_paths} of the SME). No mean over the others "
        "is taken."
        for row in diverged.itertuples()
    ]
    return "\n".join(["## Warnings", "", *lines]) if lines else "No path diverged."


def _final(study: WeakErrorStudy) -> pd.DataFrame:
    rows = study.table[np.isclose(study.table.time, study.horizon)]
    return rows.sort_values(["observable", "lr", "order"], ascending=[True, False, True], kind="stable")


def _horizon_table(study: WeakErrorStudy) -> str:
    return table_of(
        [
            "observable",
            "lr",
            "order",
            "dropout",
            "SME",
            "error",
            "95% interval",
            "Monte Carlo ±",
            "solver bias",
            "resolved",
        ],
        (
            [
                row.observable,
                f"{row.lr:g}",
                row.order,
                f"{row.discrete:.6g}",
                f"{row.sde:.6g}",
                f"{row.error:+.2e}",
                f"[{row.low:+.2e}, {row.high:+.2e}]",
                f"{row.half_width:.1e}",
                f"{row.solver_bias:+.1e} ± {row.solver_bias_half_width:.1e}",
                "yes" if row.resolved else f"no: {row.reason}",
            ]
            for row in _final(study).itertuples()
        ),
    )


def _resolved(study: WeakErrorStudy) -> str:
    final = _final(study)
    lines = []
    for (order, observable), group in final.groupby(["order", "observable"]):
        yes = ", ".join(
            f"lr = {row.lr:g}: {row.error:+.2e} [{row.low:+.2e}, {row.high:+.2e}]"
            for row in group[group.resolved].itertuples()
        )
        no = group[~group.resolved]
        text = f"- Order {order}, {plain(observable)}: " + (f"resolved at {yes}" if yes else "resolved nowhere")
        if len(no):
            text += "; not resolved at " + ", ".join(f"lr = {r.lr:g} ({r.reason})" for r in no.itertuples())
        lines.append(text + ".")
    for (observable, lr), pair in final.groupby(["observable", "lr"], sort=False):
        if set(pair.order) == {1, 2}:
            lines.append(f"- {plain(observable)}, lr = {lr:g}: {_nearer(pair.set_index('order'))}")
    return "\n".join(lines)


VERDICTS = {
    "not resolved": "and nothing is said about the order",
    "local slope": " between two learning rates: no more than this local slope is known",
    "certified": ", certified: the interval holds this order and neither of its neighbours",
    "too wide": (
        ", not certified: the interval does not tell this order from its neighbours; more learning rates or a smaller "
        "rel_tol shorten it"
    ),
    "another order": ", which does not hold this order",
    "not asymptotic": (
        ", but the leading constant has not the sign that is predicted: these learning rates are too large for the "
        "slope to say something of the order"
    ),
}
"""What follows a slope, by the verdict on its fit."""


def _certified(study: WeakErrorStudy) -> str:
    """Slopes and constants in words."""
    lines = []
    for row in study.fit().itertuples():
        slope, interval = _slope(row)
        text = f"- Order {row.order}, {plain(row.observable)}: slope {slope} {interval}{VERDICTS[row.verdict]}"
        if np.isfinite(row.constant) and np.isfinite(row.predicted_constant):
            text += (
                f"; leading constant {row.constant:.3g} [{row.constant_low:.3g}, {row.constant_high:.3g}], predicted "
                f"without Monte Carlo: {_predicted(row, '.3g')}"
            )
        lines.append(f"{text}.")
    final = _final(study)
    return "\n".join([*lines, f"- {final.resolved.sum()} of {len(final)} errors are resolved."])


def _nearer(pair: pd.DataFrame) -> str:
    """Which order is nearer to dropout, where the intervals of the two sizes do not overlap."""
    if not all(Status(reason).has_interval for reason in pair.reason):
        return "which order is nearer to dropout is not resolved."
    half = (pair.high - pair.low) / 2
    low, high = (pair.error.abs() - half).clip(lower=0), pair.error.abs() + half
    for near, far in ((2, 1), (1, 2)):
        if high[near] < low[far]:
            factor = f"{low[far] / high[near]:.2g}"
            return f"order {near} is nearer to dropout than order {far}, by a factor of at least {factor}."
    return "which order is nearer to dropout is not resolved."


def _slopes(study: WeakErrorStudy) -> str:
    fit = study.fit()
    table = table_of(
        ["order", "observable", "slope", "95% interval", "verdict", "points", "p-value of the fit", "left out"],
        (
            [
                row.order,
                row.observable,
                *_slope(row),
                row.verdict,
                row.points,
                _number(row.p_value, ".2f"),
                row.left_out or "none",
            ]
            for row in fit.itertuples()
        ),
    )
    note = (
        "Slopes p of error = c lr^p (1 + d lr + ...) by weighted least squares, the terms beyond d bounded by what the "
        "errors leave room for (two points: of c lr^p, the local slope between them); a slope needs two resolved "
        "points of one sign. `verdict`: certified where the interval holds the nominal order and neither of its "
        "neighbours. p-value 1.00: as many parameters as points, so the fit is not tested."
    )
    return f"{table}\n\n{note}"


def _slope(row: tuple) -> tuple[str, str]:
    if not np.isfinite(row.slope):
        return "not resolved", ""
    return f"{row.slope:.3f}", f"[{row.slope_low:.3f}, {row.slope_high:.3f}]"


def _maximum(study: WeakErrorStudy) -> str:
    table = table_of(
        ["observable", "lr", "order", "max error", "95% interval", "near time", "resolved"],
        (
            [
                row.observable,
                f"{row.lr:g}",
                row.order,
                f"{row.error:.2e}",
                f"[{row.low:.2e}, {row.high:.2e}]",
                f"{row.time:g}",
                "yes" if row.resolved else "no",
            ]
            for row in study.maximum().itertuples()
        ),
    )
    meaning = (
        "max_k |E g(theta_k) - E g(Theta_(k lr))| over the times of the study; intervals hold for all times at once."
    )
    return f"{meaning}\n\n{table}"


def _distributions(study: WeakErrorStudy) -> str:
    rows = []
    for (lr, order), observables in study.samples.items():
        for observable, values in observables.items():
            process = "dropout" if order is None else f"SME order {order}"
            if not np.isfinite(values).all():
                rows.append([observable, f"{lr:g}", process, "diverged", *[""] * 4])
                continue
            quantiles = [f"{q:.5g}" for q in np.quantile(values, [0.05, 0.5, 0.95])]
            rows.append(
                [observable, f"{lr:g}", process, f"{values.mean():.5g}", f"{values.std(ddof=1):.3g}", *quantiles]
            )
    rows.sort(key=lambda row: row[0])
    table = table_of(["observable", "lr", "process", "plain mean", "standard deviation", "5%", "median", "95%"], rows)
    counts = {len(values) for observables in study.samples.values() for values in observables.values()}
    return f"{table}\n\nPlain statistics of the first {max(counts)} paths: here no control variate is used."


def _budget(study: WeakErrorStudy) -> str:
    return table_of(
        [
            "observable",
            "lr",
            "order",
            "error",
            "dropout ±",
            "SME ±",
            "solver bias",
            "dt",
            "paths dropout / SME",
            "kurtosis",
            "stderr_reduction",
            "resolved",
        ],
        (
            [
                row.observable,
                f"{row.lr:g}",
                row.order,
                f"{row.error:+.3e}",
                f"{row.discrete_half_width:.1e}",
                f"{row.sde_half_width:.1e}",
                f"{row.solver_bias:+.1e} ± {row.solver_bias_half_width:.1e}",
                f"{row.dt:g}",
                f"{row.discrete_paths} / {row.sde_paths}",
                f"{row.kurtosis:.3g}",
                f"{row.stderr_reduction:.3g}",
                "yes" if row.resolved else "no",
            ]
            for row in _final(study).itertuples()
        ),
    )


def _tails(study: WeakErrorStudy) -> str:
    final = _final(study)
    heavy = final[[Status(reason).heavy_tailed for reason in final.reason]]
    if heavy.empty:
        return "No mean rests on a few paths: the intervals can be believed."
    points = "; ".join(f"order {r.order}, lr {r.lr:g}, {plain(r.observable)}" for r in heavy.itertuples())
    return f"Heavy tails, where a sample of these paths does not show the mean: {points}."


def _unresolved(study: WeakErrorStudy) -> str:
    lines = [
        f"- order {row.order}, lr = {row.lr:g}, {plain(row.observable)}: {row.reason}"
        + (" (resolved, but wider than rel_tol)" if row.resolved else "")
        for row in _final(study).itertuples()
        if row.reason
    ]
    return "\n".join(lines) or "None: every error at the horizon is resolved."


def _constants(study: WeakErrorStudy) -> str:
    return table_of(
        ["order", "observable", "measured", "95% interval", "predicted", "measured / predicted"],
        (
            [
                row.order,
                row.observable,
                _number(row.constant, ".4g"),
                f"[{row.constant_low:.4g}, {row.constant_high:.4g}]" if np.isfinite(row.constant) else "",
                _predicted(row, ".4g"),
                _number(row.constant / row.predicted_constant if row.predicted_constant else np.nan, ".3f"),
            ]
            for row in study.fit().itertuples()
        ),
    )


def _not_predicted(fit: pd.DataFrame, config: StudyConfig, problem: Problem) -> str:
    """Why theory gives no constant, where it gives none."""
    orders = sorted(fit[fit.predicted_constant.isna()].order.unique())
    if not orders:
        return ""
    if not problem.has_closed_form:
        reason = "mean gradient and covariance are known by sampling alone"
    elif not problem.autonomous:
        reason = "the integral is known for problems that do not depend on time"
    elif kinks(problem, problem.initial(config.network.seed)):
        reason = "the integral takes third derivatives, which a network with kinks does not have"
    else:
        reason = (
            f"the integral takes third derivatives along every draw of the masks, and is formed for at most "
            f"{MAX_DIM} parameters and {MAX_DRAWS} draws; here are {problem.dim} and "
            f"{problem.draw_count:.4g}"
        )
    return f"No constant of order {' and '.join(map(str, orders))} is predicted: {reason}."


def _predicted(row: tuple, form: str) -> str:
    """The predicted constant, with its half-width where it has one."""
    half = f" ± {NORMAL_QUANTILE * row.predicted_stderr:.1g}" if row.predicted_stderr > 0 else ""
    return _number(row.predicted_constant, form) + half


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"
