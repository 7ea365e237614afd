"""Small keep_prob: higher moments and tails, which second moments do not show.

At small keep_prob the noise consists of rare large steps. A diffusion replaces them by many small ones: it keeps mean
and variance, but not the third and fourth moments if lr is of the order of keep_prob^2. Jumps at rate 1/lr keep these
moments as long as lr << keep_prob. Two models are studied:

- the scalar model of dropout (`scalar_dropout`) at lr = multiple keep_prob^2, whose moments E u^j decay at rates that
  are known exactly;
- the network, measured at lr = multiple keep_prob/lambda_max(Hess L_S(theta0)), which is the same in the scalar model:
  mean, central moments and quantiles of an observable over paths of the iteration and of each equation. The 95%
  intervals are Student's with a correction for skewness for moments, and (exact, binomial) order statistics for
  quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from smesolve.comparison.exact import scalar_dropout
from smesolve.comparison.gradient_flow import relaxation_time
from smesolve.confidence import CONFIDENCE, NORMAL_QUANTILE, student_quantile
from smesolve.entry_point import entry_point
from smesolve.experiments.shared.cells import Cell, Ensembles, run_cells
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, SamplingSettings, check_study
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, markdown
from smesolve.experiments.shared.settings import check_one
from smesolve.figures import DROPOUT, ORDERS, PAGE, Figure, drawing, log_ticks
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import Observable, named_observables
from smesolve.sampling.ensemble import collect_paths, without_divergence_warnings
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.orders import Order, equation_name
from smesolve.validation import check_keep_prob, check_list, check_number, check_positive

__all__ = ["SmallKeepProb", "SmallKeepProbResult", "SmallKeepProbSettings", "small_keep_prob"]

COMPARED: tuple[Order, ...] = (1, 2, 3, "poisson")
EQUATIONS = {equation_name(order): order for order in COMPARED}
"""The equations by their names in tables."""

STYLES = {
    "iteration": DROPOUT,
    **{f"order {order}": ORDERS[order] for order in (1, 2, 3)},
    "poisson": ORDERS["poisson"],
}

DEGREES = (2, 3, 4)
"""Degrees of the moments."""

SCALAR_STEPS = 20
"""Steps over which the rates of the scalar model are computed; the rates do not depend on their number."""

CAPTION = (
    "Panels 1 to 3: relative error of the rate at which E u^j of the scalar model decays, exact. Panel 4: the "
    "outermost quantile with a finite interval over that of the iteration; the network, measured."
)


@dataclass(frozen=True)
class SmallKeepProbSettings(SamplingSettings):
    """Higher moments and tails at small keep_prob.

    Args:
        keep_probs: probabilities that a neuron is kept.
        multiple: learning rate in units of keep_prob^2; for the network in units of keep_prob/lambda_max.
        relaxations: horizon of the network in relaxation times 1/lambda_max.
        probabilities: probabilities of the quantiles.
        observables: the observable, in a list: loss, modified_loss, squared_norm, or a coordinate such as theta[0].
    """

    keep_probs: list[float] = field(default_factory=lambda: [0.8, 0.3, 0.1, 0.03, 0.01])
    multiple: float = 0.5
    relaxations: float = 1.0
    probabilities: list[float] = field(default_factory=lambda: [0.5, 0.9, 0.99, 0.999])
    observables: list[str] = field(default_factory=lambda: ["loss"])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "observables")
        check_positive("multiple", self.multiple)
        check_list("probabilities", self.probabilities, _check_probability, distinct=True)


@dataclass(frozen=True, repr=False)
class SmallKeepProbResult(ReportedResult):
    """Moments and quantiles of iteration and equations at small keep_prob."""

    table: pd.DataFrame
    """One row per keep_prob, process ("iteration", "order 1", "order 2", "order 3", "poisson") and statistic of the
    observable ("mean", "moment 2" to "moment 4", which are central, "quantile 0.99"): lr, value with low, high, and
    `differs`: whether its interval lies outside that of the iteration; None for the iteration itself."""

    rates: pd.DataFrame
    """One row per keep_prob, equation and degree j: lr, and the relative error of the rate at which E u^j of the
    scalar model decays, `relative`; exact."""

    observable: str

    @drawing()
    def plot(self) -> Figure:
        """Draw errors of decay rates for each degree, and the outermost quantile relative to the iteration."""
        outermost = _outermost(self.table)
        figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
        *panels, last = figure.subplots(1, len(DEGREES) + 1)
        for axis, degree in zip(panels, DEGREES, strict=True):
            for process, part in self.rates[self.rates.degree == degree].groupby("process", sort=False):
                axis.plot(part.keep_prob, part.relative, **STYLES[str(process)].line_options, label=str(process))
            axis.set_title(rf"$E\,u^{degree}$, scalar model, exact")
            axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        panels[0].set_ylabel("relative error of the decay rate")
        tails = self.table[self.table.statistic == outermost]
        scale = tails[tails.process == "iteration"].set_index("keep_prob").value
        for number, (process, part) in enumerate(tails.groupby("process", sort=False)):
            unit = part.keep_prob.map(scale)
            value, low, high = part.value / unit, part.low / unit, part.high / unit
            seen = np.isfinite(low) & np.isfinite(high)
            last.errorbar(
                (part.keep_prob * 1.08 ** (number - 2))[seen], value[seen],
                np.array([(value - low)[seen], (high - value)[seen]]), **STYLES[str(process)].line_options,
                markersize=3, linewidth=0.8, label=str(process),
            )  # fmt: skip
        last.set_title(f"{outermost} of {self.observable}")
        last.set_ylabel("over that of the iteration")
        for axis in (*panels, last):
            log_ticks(axis, self.rates.keep_prob)
            axis.set_xlabel("keep_prob")
        handles = [line.lines[0] for line in last.containers]
        figure.legend(handles, [line.get_label() for line in last.containers], loc="outside upper center", ncols=5)
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        smallest = self.rates.keep_prob.min()
        fourth = self.rates.query("keep_prob == @smallest and degree == 4").set_index("process").relative
        second = self.rates.query("keep_prob == @smallest and degree == 2").relative.abs().max()
        rates = ", ".join(f"{process} {error:+.1%}" for process, error in fourth.items())
        lines = [
            f"- Scalar model, keep_prob {smallest:g}: the rate of the fourth moment is off by {rates}; that of the "
            f"second by at most {second:.1%}."
        ]
        tails = self.table[self.table.statistic == _outermost(self.table)].query("keep_prob == @smallest")
        tails = tails.set_index("process")
        for process in EQUATIONS:
            part = self.table[self.table.process == process]
            low, value, high = (tails[name][process] / tails.value["iteration"] for name in ("low", "value", "high"))
            lines.append(
                f"- Network, {process}: {part.differs.astype(bool).sum()} of {len(part)} statistics lie outside the "
                f"iteration's interval, the others are not resolved; {tails.statistic.iloc[0]} at keep_prob "
                f"{smallest:g} is {value:.3f} [{low:.3f}, {high:.3f}] times that of the iteration."
            )
        return "\n".join(lines)


@entry_point
def small_keep_prob(
    problem: DropoutProblem,
    theta0: Tensor,
    keep_probs: Sequence[float],
    multiple: float = 0.5,
    relaxations: float = 1.0,
    observable: str | Observable = "loss",
    probabilities: Sequence[float] = (0.5, 0.9, 0.99, 0.999),
    effort: SamplingEffort = EFFORT,
) -> SmallKeepProbResult:
    """Measure moments and quantiles of the iteration and of the equations with and without jumps.

    Args:
        problem: network and data; its own keep_prob is not used.
        theta0: start (D,).
        keep_probs: different probabilities that a neuron is kept.
        multiple: learning rate in units of keep_prob^2; for the network in units of keep_prob/lambda_max, which is the
            same in the scalar model.
        relaxations: horizon of the network in relaxation times 1/lambda_max(Hess L_S(theta0)).
        observable: the observable whose distribution is measured.
        probabilities: different probabilities of the quantiles.
        effort: paths, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments.

    Cost: relaxations/(keep_prob multiple) steps per path of the iteration and of each equation.
    """
    theta0 = check_study(problem, theta0, effort, DropoutProblem)
    keep_probs = check_list("keep_probs", keep_probs, check_keep_prob, distinct=True)
    probabilities = check_list("probabilities", probabilities, _check_probability, distinct=True)
    check_positive("multiple", multiple)
    check_positive("relaxations", relaxations)
    (name,) = named_observables(problem, [observable])
    cells = _cells(problem, theta0, keep_probs, multiple, relaxations, observable, probabilities, effort)
    return _combined(run_cells(cells, progress=effort.progress), keep_probs, multiple, name)


def _check_probability(name: str, value: Any) -> float:
    return check_number(name, value, 0.0, 1.0)


def _cells(
    problem: DropoutProblem,
    theta0: Tensor,
    keep_probs: Sequence[float],
    multiple: float,
    relaxations: float,
    observable: str | Observable,
    probabilities: Sequence[float],
    effort: SamplingEffort,
) -> list[Cell]:
    """Return one cell per keep_prob and process."""

    def rows(head: dict[str, Any], here: DropoutProblem, steps: int) -> list[dict[str, Any]]:
        """Return the statistics of one process at one keep_prob."""
        (function,) = named_observables(here, [observable]).values()
        process, lr = head["process"], head["lr"]
        # The iteration and the equations have different streams; each process also has a seed of its own.
        seed = int(np.random.SeedSequence([effort.seed, list(STYLES).index(process)]).generate_state(1)[0])
        if process == "iteration":
            chain: Any = DropoutIteration(here, lr, seed)
        else:
            chain = integration(ModifiedEquation(here, lr, EQUATIONS[process]), theta0, "small_noise_rk4", lr, seed)
        with without_divergence_warnings():  # the table shows them
            (end,) = collect_paths(chain, theta0, effort.paths, [steps], effort.workers)
        values = function(end).double().cpu().numpy()
        return [head | row for row in statistics_of(values, probabilities)]

    cells = []
    for keep_prob in keep_probs:
        here = problem.with_keep_prob(keep_prob)
        relaxation = relaxation_time(here, theta0)
        steps = max(1, round(relaxations / (multiple * keep_prob)))
        lr = relaxations * relaxation / steps
        for process, order in {"iteration": None, **EQUATIONS}.items():
            orders = [] if order is None else [order]
            measured = Ensembles(here, theta0, lr, [steps * lr], orders, effort.paths, control="none", compared=False)
            head = {"keep_prob": keep_prob, "lr": lr, "process": process}
            cells.append(Cell(f"keep_prob {keep_prob!r}, {process}", partial(rows, head, here, steps), [measured]))
    return cells


def statistics_of(values: np.ndarray, probabilities: Sequence[float]) -> list[dict[str, Any]]:
    """Return mean, central moments and quantiles of independent values, with 95% intervals.

    Intervals of moments are Student's for the mean of (value - mean)^j, lengthened by its skewness. Intervals of
    quantiles are bounded by order statistics, and infinite if there are too few values.
    """
    rows, count = [], len(values)
    finite = bool(np.isfinite(values).all())
    centre = values.mean() if finite else np.nan
    for name, powers in [("mean", values), *((f"moment {j}", (values - centre) ** j) for j in DEGREES)]:
        mean, spread = powers.mean(), powers.std(ddof=1)
        skewness = abs(stats.skew(powers)) if finite and spread > 0 else 0.0
        shift = (2 * NORMAL_QUANTILE**2 + 1) / 6 * skewness / count**0.5
        half = spread / count**0.5 * (float(student_quantile(count - 1)) + shift)
        rows.append({"statistic": name, "value": mean, "low": mean - half, "high": mean + half})
    ordered = np.concatenate([[-np.inf], np.sort(values), [np.inf]])
    for probability in probabilities:
        low, high = stats.binom(count, probability).ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).astype(int)
        value = np.quantile(values, probability) if finite else np.nan
        bounds = {"low": ordered[low], "high": ordered[min(high + 1, count + 1)]}
        rows.append({"statistic": f"quantile {probability:g}", "value": value} | bounds)
    return rows


def decay_rates(keep_probs: Sequence[float], multiple: float) -> pd.DataFrame:
    """Return relative errors of the rates at which moments of the scalar model decay at lr = multiple keep_prob^2."""
    rows = []
    for keep_prob in keep_probs:
        lr = multiple * keep_prob**2
        forms = scalar_dropout(keep_prob, lr, SCALAR_STEPS * lr)
        for process, order in EQUATIONS.items():
            for degree in DEGREES:
                exact, found = (np.log(abs(forms[key].moments[degree - 1])) for key in (None, order))
                head = {"keep_prob": keep_prob, "lr": lr, "process": process, "degree": degree}
                rows.append(head | {"relative": found / exact - 1})
    return pd.DataFrame(rows)


def _combined(results: list[Any], keep_probs: Sequence[float], multiple: float, observable: str) -> SmallKeepProbResult:
    table = pd.DataFrame([row for rows in results for row in rows])
    keys = ["keep_prob", "statistic"]
    iteration = table[table.process == "iteration"].set_index(keys)[["low", "high"]]
    beside = table.join(iteration.add_suffix("_iteration"), on=keys)
    apart = (beside.low > beside.high_iteration) | (beside.high < beside.low_iteration)
    table["differs"] = [
        None if one == "iteration" else bool(is_apart) for one, is_apart in zip(table.process, apart, strict=True)
    ]
    return SmallKeepProbResult(table, decay_rates(keep_probs, multiple), observable)


@experiment("scaling", "small-keep-prob")
class SmallKeepProb(NetworkExperiment[SmallKeepProbSettings]):
    """Third and fourth moments and tails at small keep_prob, with and without jumps."""

    Settings = SmallKeepProbSettings
    title = "Learning-rate scaling: small keep_prob"
    example = "examples/scaling_small_keep_prob.yaml --out results/scaling_small_keep_prob"

    def cells(self) -> list[Cell]:
        """Return one cell per keep_prob and process."""
        s = self.settings
        given = s.keep_probs, s.multiple, s.relaxations, s.observables[0], s.probabilities, s.effort
        return _cells(self.dropout_problem, self.theta0, *given)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of rates, moments and tails."""
        s = self.settings
        result = _combined(results, s.keep_probs, s.multiple, s.observables[0])
        tables = {"table": result.table, "rates": result.rates}
        figures = {"small_keep_prob": Captioned(result.plot(), CAPTION)}
        text = _report(result, s.multiple)
        return [Section(f"Moments and tails of {plain(result.observable)}", tables, figures, text, result.conclusion())]


def _outermost(table: pd.DataFrame) -> str:
    """Return the name of the outermost quantile with finite intervals; the first one if there is none."""
    quantiles = table[table.statistic.str.startswith("quantile")]
    bounded = np.isfinite(quantiles.high - quantiles.low).groupby(quantiles.statistic, sort=False).all()
    return str([*bounded.index[:1], *bounded.index[bounded]][-1])


def _report(result: SmallKeepProbResult, multiple: float) -> str:
    verdicts = {True: "yes", False: "not resolved", None: ""}
    table = result.table.assign(differs=[verdicts[one] for one in result.table.differs])
    columns = ["keep_prob", "lr", "process", "statistic", "value", "low", "high", "differs"]
    return join(
        f"Scalar model: exact decay rates at lr = {multiple:g} keep_prob^2. Network: lr = {multiple:g} keep_prob over "
        "the largest curvature. `differs`: the interval lies outside the interval of the iteration.",
        markdown(result.rates, ["keep_prob", "lr", "process", "degree", "relative"]),
        "## Network",
        markdown(table, columns),
    )
