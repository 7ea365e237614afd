"""Certify the weak order, with an error budget."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from smesolve.comparison.leading_constants import MAX_DIM, MAX_DRAWS, draws_are_masks
from smesolve.comparison.outcomes import Status, Verdict
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.confidence import CONFIDENCE, NORMAL_QUANTILE, with_interval
from smesolve.experiments.shared.markdown import join, plain, table_of
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, formatted
from smesolve.experiments.shared.weak_error_experiment import WeakErrorExperiment
from smesolve.experiments.shared.weak_error_parts import (
    at_horizon,
    bias_format,
    by_defects,
    divergence,
    largest_errors,
    measured_in_words,
    number,
    slope_in_words,
    slopes,
)
from smesolve.problem.kinks import kinks
from smesolve.problem.problem import Problem
from smesolve.solver.orders import equation_name, orders_in_words, sorted_orders

__all__ = ["WeakError"]

CAPTION = (
    "|error| at the horizon against the learning rate, one panel per observable. Points with their intervals, "
    "hollow if not resolved; dashed: fits; thin: predicted leading terms; dotted: noise floor."
)


@experiment("weak-error")
class WeakError(WeakErrorExperiment):
    """Certify the weak order, with an error budget."""

    title = "Weak error of the stochastic modified equation"
    example = "examples/weak_order.yaml --rel_tol 0.1 --out results/weak_order"
    writes = "tables (CSV), figures (PNG and PDF), fit.csv (slopes and constants with intervals), blocks.journal"
    predicts = True

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the certificate of weak order with its error budget."""
        study = self.result(results)
        conclusion = join(
            f"Weak orders at the horizon T = {study.horizon:g}, with {CONFIDENCE:.0%} intervals:",
            _certified(study),
            self.other_estimator.conclusion(study, self.beside(results)),
            divergence(study),
        )
        tables = {"table": study.table, "fit": study.fit()}
        figures = {"weak_error": Captioned(study.plot(), CAPTION)}
        text = join(self._text(study), self.other_estimator.text(study, self.beside(results)))
        return [Section("Orders", tables, figures, text, conclusion.strip())]

    def _text(self, study: WeakErrorStudy) -> str:
        return join(
            measured_in_words(study, self.settings),
            slopes(study),
            "## Error budget at the horizon",
            *_budget(study),
            _tails(study),
            "## Points that are not resolved",
            _unresolved(study),
            "## Predicted and measured constants",
            "Leading constant c of error = c lr^order + O(lr^(order + 1)), fitted at the learning rates of the slope "
            "with p = order: a limit where the verdict is certified, elsewhere only a fit. The prediction is an "
            "integral along the gradient flow (for a network with kinks the slope of Euler's method in its step, with "
            "its half-width) and uses no Monte Carlo.",
            _constants(study),
            _not_predicted(
                study.fit(), self.problem, kinks(self.problem, self.theta0), self.design.jumping_observables
            ),
            "## Largest error over the times",
            largest_errors(study),
        )


VERDICTS = {
    Verdict.NOT_RESOLVED: "and nothing is said about the order",
    Verdict.LOCAL_SLOPE: " between two learning rates: only this local slope is known",
    Verdict.CERTIFIED: ", certified: the interval contains this order and neither of its neighbours",
    Verdict.TOO_WIDE: (
        ", not certified: the interval does not distinguish this order from its neighbours; more learning rates or a "
        "smaller rel_tol shorten it"
    ),
    Verdict.ANOTHER_ORDER: ", which does not contain this order",
    Verdict.NOT_ASYMPTOTIC: (
        ", but the leading constant does not have the predicted sign: these learning rates are too large for the slope "
        "to say something about the order"
    ),
}
"""Words that follow a slope, by the verdict on its fit."""


def _certified(study: WeakErrorStudy) -> str:
    """Return slopes and constants in words."""
    lines = []
    for row in study.fit().itertuples():
        slope, interval = slope_in_words(row)
        head = f"- {equation_name(row.order).capitalize()}, {plain(row.observable)}"
        text = f"{head}: slope {slope} {interval}{VERDICTS[row.verdict]}"
        if np.isfinite(row.constant) and np.isfinite(row.predicted_constant):
            text += (
                f"; leading constant {with_interval(row.constant, row.constant_low, row.constant_high)}, predicted "
                f"without Monte Carlo: {_predicted(row, '.3g')}"
            )
        lines.append(f"{text}.")
    final = at_horizon(study)
    return "\n".join([*lines, f"- {final.resolved.sum()} of {len(final)} errors are resolved."])


DEFECT_BUDGET = "error = sum of the defects ± Monte Carlo ± bound on the bias."

DIFFERENCE_BUDGET = (
    "error = difference of the means - solver bias ± Monte Carlo of dropout ± Monte Carlo of the SME ± interval of the "
    "solver bias. The squares of the half-widths are added. `stderr_reduction`: factor by which control "
    "variates shorten the Monte Carlo interval."
)


def _budget(study: WeakErrorStudy) -> list[str]:
    """Return in words and in a table the errors at the horizon, and everything that adds to their intervals."""
    head = {"observable": "{observable}", "lr": "{lr:g}", "order": "{order}", "error": "{error:+.3e}"}
    bias = bias_format(study)
    if by_defects(study):
        intro = DEFECT_BUDGET
        parts = {"Monte Carlo ±": "{half_width:.1e}", "bias": bias, "paths": "{paths}", "kurtosis": "{kurtosis:.3g}"}
    else:
        intro = DIFFERENCE_BUDGET
        parts = {
            "dropout ±": "{discrete_half_width:.1e}",
            "SME ±": "{sde_half_width:.1e}",
            "solver bias": bias,
            "solver_dt": "{solver_dt:g}",
            "paths dropout / SME": "{discrete_paths} / {sde_paths}",
            "kurtosis": "{kurtosis:.3g}",
            "stderr_reduction": "{stderr_reduction:.3g}",
        }
    return [intro, formatted(at_horizon(study), head | parts | {"resolved": "{resolved}"})]


def _tails(study: WeakErrorStudy) -> str:
    final = at_horizon(study)
    heavy = final[[Status(reason).heavy_tailed for reason in final.reason]]
    if heavy.empty:
        return "No mean depends on a few paths: the intervals are reliable."
    points = "; ".join(f"{equation_name(r.order)}, lr {r.lr:g}, {plain(r.observable)}" for r in heavy.itertuples())
    return f"Heavy tails, for which these paths do not determine the mean: {points}."


def _unresolved(study: WeakErrorStudy) -> str:
    lines = [
        f"- {equation_name(row.order)}, lr = {row.lr:g}, {plain(row.observable)}: {row.reason}"
        + (" (resolved, but wider than rel_tol)" if row.resolved else "")
        for row in at_horizon(study).itertuples()
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
                number(row.constant, ".4g"),
                f"[{row.constant_low:.4g}, {row.constant_high:.4g}]" if np.isfinite(row.constant) else "",
                _predicted(row, ".4g"),
                number(row.constant / row.predicted_constant if row.predicted_constant else np.nan, ".3f"),
            ]
            for row in study.fit().itertuples()
        ),
    )


def _not_predicted(fit: pd.DataFrame, problem: Problem, kinked: Sequence[str], jumping: Collection[str] = ()) -> str:
    """Return why theory predicts no constant, for the orders without a prediction.

    Args:
        fit: the fits.
        problem: what is trained.
        kinked: names of the operations with kinks in the loss.
        jumping: names of the observables that jump.
    """
    if jumping:
        others = _not_predicted(fit[~fit.observable.isin(jumping)], problem, kinked)
        names = f"{' and '.join(map(plain, jumping))} {'jumps' if len(jumping) == 1 else 'jump'}"
        return join(f"No constant is predicted where derivatives leave something out: {names}.", others)
    orders = sorted_orders(fit[fit.predicted_constant.isna()].order)
    known = [order for order in orders if order != 3]
    third = "" if known == orders else "No constant of order 3 is predicted: it needs the fourth cumulant of the noise."
    if not known:
        return third
    if not problem.has_closed_form:
        reason = "mean gradient and covariance are known only by sampling"
    elif not problem.autonomous:
        reason = "the integral is known for problems that do not depend on time"
    elif kinked:
        taken = "the integral needs third derivatives" if 2 in known else "it needs derivatives of the gradient"
        reason = f"{taken}, which a network with kinks does not have"
    elif not draws_are_masks(problem):
        reason = "the integral needs third derivatives along every draw, and is computed for draws of masks only"
    else:
        reason = (
            f"the integral needs third derivatives along every draw of the masks, and is computed for at most "
            f"{MAX_DIM} parameters and {MAX_DRAWS} draws; this problem has {problem.dim} and "
            f"{problem.draw_count:.4g}"
        )
    return join(f"No constant of {orders_in_words(known)} is predicted: {reason}.", third)


def _predicted(row: Any, form: str) -> str:
    """Return the predicted constant, with its half-width if it has one."""
    half = f" ± {NORMAL_QUANTILE * row.predicted_stderr:.1g}" if row.predicted_stderr > 0 else ""
    return number(row.predicted_constant, form) + half
