"""The scaling rule of a training, derived from its modified equation, and how far the iteration follows it.

A step averages the gradients of kappa draws: of masks, of batches, or of both. Its learning rate and its betas are
changed by powers of kappa that leave the modified equation of order 1 unchanged (`smesolve.symbolic.scaling_rule`).
How far the iteration follows is measured. With the mean M(kappa) of an observable at the horizon and M_0 at the start,

    relative change R = (M(kappa) - M(1)) / |M(1) - M_0|.                                                       (1)

Each mean is taken over runs of its own. All paths start at one point, so M_0 has no error. With s the sign of
M(1) - M_0, the standard error of R is to first order

    SE(R) = sqrt(SE(M(kappa))^2 + (1 + s R)^2 SE(M(1))^2) / |M(1) - M_0|.                                       (2)

For plain SGD, kappa batches of b samples, each with its own masks, are one batch of kappa b samples. The report also
gives the noise scale B = tr Sigma / |grad L_S|^2 at the start: noise dominates the averaged gradient where kappa << B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.comparison.optimizer_rules import OptimizerRule, optimizer_rules
from smesolve.confidence import student_quantile
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell, Ensembles, run_cells
from smesolve.experiments.shared.error_curves import curve
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.optimizers import start_of, trained_by
from smesolve.experiments.shared.reach import follows, reach
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, SamplingSettings, check_study
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, interval, markdown
from smesolve.experiments.shared.settings import TrainingSettings, check_one
from smesolve.figures import PAGE, SEQUENCE, Figure, drawing, log_ticks
from smesolve.landscape.noise_scale import noise_scale
from smesolve.problem.iteration import iterate
from smesolve.problem.observables import Observable, named_observables
from smesolve.problem.problem import Problem
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_integer, check_list, check_positive, check_tolerance

__all__ = ["Rule", "RuleSettings", "ScalingRuleStudy", "Source", "scaling_rule_study"]

CAPTION = (
    "|relative change| of the mean at the horizon against kappa, draws that a step averages, with 95% intervals, "
    "hollow if the interval contains 0; one panel per noise. Dotted grey: the tolerance; vertical: the noise scale."
)

GROUP = ["noise", "keep_prob", "lr", "rule"]
"""Columns that identify a curve."""


@dataclass(frozen=True)
class RuleSettings(SamplingSettings):
    """Scaling rule of a training.

    Args:
        training: optimiser, loss and noise: sgd, adam, adamw or rmsprop.
        keep_probs: probabilities that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rates with one draw per step, each of which divides the horizon.
        horizon: last time T; training takes T/lr steps with one draw per step.
        kappas: draws (masks and batches) that a step averages, larger than 1; each divides T/lr.
        tolerance: largest relative change at which the iteration counts as following.
        observables: the observable, in a list: loss, squared_norm, or a coordinate such as theta[0].
        draws: number of gradients from which the noise scale is estimated.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    keep_probs: list[float] = field(default_factory=lambda: [0.8])
    lrs: list[float] = field(default_factory=lambda: [0.05])
    horizon: float = 1.6
    kappas: list[int] = field(default_factory=lambda: [2, 4, 8, 16])
    tolerance: float = 0.05
    observables: list[str] = field(default_factory=lambda: ["loss"])
    draws: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one(self, "observables")
        _check_kappas(self.lrs, self.kappas, self.horizon)
        check_integer("draws", self.draws, 4)
        if self.training.shuffle:
            raise SmesolveError("training.shuffle has no noise that a step could average; leave it out.")


def _check_kappas(lrs: Sequence[float], kappas: Any, horizon: float) -> list[int]:
    """Return increasing numbers of draws, each of which divides the number of steps at each learning rate."""
    checked = sorted(set(check_list("kappas", kappas, lambda name, value: check_integer(name, value, 2))))
    for lr in lrs:
        for kappa in checked:
            grid_steps(horizon, kappa * lr, "horizon", f"{kappa} lr (kappas)")
    return checked


@dataclass(frozen=True, repr=False)
class ScalingRuleStudy(ReportedResult):
    """How far the iteration follows the scaling rules of its optimiser."""

    rules: tuple[OptimizerRule, ...]
    """The derived rules."""
    table: pd.DataFrame
    """One row per noise, keep_prob, lr, rule and kappa: `scaled_lr`, the learning rate with kappa draws per step,
    `relative` change with `relative_low`, `relative_high`, `resolved`, and `follows`: True, False, or None if the
    interval contains the tolerance."""
    noises: pd.DataFrame
    """One row per noise and keep_prob: `noise_scale` at the start with its interval."""
    tolerance: float

    def reach(self) -> pd.DataFrame:
        """Return up to which kappa the iteration follows, one row per noise, keep_prob, lr and rule.

        Columns: `noise_scale`; `holds`, the largest kappa up to which every change is within the tolerance; `fails`,
        the smallest kappa with a change beyond it; and `kappa`, with `kappa_low`, `kappa_high`, where the change,
        interpolated on log scales, reaches the tolerance. NaN outside the measured range.
        """
        rows = [
            dict(zip(GROUP, values, strict=True)) | reach(group, self.tolerance, below=1.0)
            for values, group in self.table.groupby(GROUP, sort=False, dropna=False)
        ]
        return pd.DataFrame(rows).merge(self.noises, on=["noise", "keep_prob"], how="left")

    @drawing()
    def plot(self) -> Figure:
        """Draw relative changes against kappa, one panel per noise."""
        noises = list(self.table.noise.unique())
        several = {name for name in ("keep_prob", "lr") if self.table[name].nunique() > 1}
        figure = Figure(figsize=(PAGE * (0.5 if len(noises) == 1 else 1), 2.9), layout="constrained")
        axes = figure.subplots(1, len(noises), squeeze=False, sharey=True)[0]
        for axis, noise in zip(axes, noises, strict=True):
            curves = self.table[self.table.noise == noise].groupby(GROUP[1:], sort=False, dropna=False)
            for number, (values, part) in enumerate(curves):
                named = dict(zip(GROUP[1:], values, strict=True))
                label = ", ".join([str(named["rule"]), *(f"{name} {named[name]:g}" for name in sorted(several))])
                curve(axis, part.kappa, part, SEQUENCE[number % len(SEQUENCE)], label)
            for scale in self.noises[self.noises.noise == noise].noise_scale:
                if self.table.kappa.min() <= scale <= self.table.kappa.max():
                    axis.axvline(scale, color="0.7", linewidth=0.6)
            axis.axhline(self.tolerance, color="0.5", linestyle=":")
            log_ticks(axis, self.table.kappa)
            axis.set(yscale="log", xlabel=r"draws per step $\kappa$")
            axis.set_title(noise, loc="left")
            axis.legend(loc="best", fontsize=6)
        axes[0].set_ylabel("|relative change| of the mean")
        return figure

    def conclusion(self) -> str:
        """Return the derived rules, and how far the iteration follows each of them."""
        lines = [
            f"- Derived: {rule.regime}, the equation of order 1 stays the same with {rule}." for rule in self.rules
        ]
        if len(self.rules) > 1:
            lines.append(
                "- In between no powers of kappa leave it unchanged, as second moments contain the squares of gradient "
                "and noise. Where noise dominates, the noise of the second moments themselves, which grows with kappa, "
                "is neglected."
            )
        for row in self.reach().to_dict("records"):
            holds, fails = row["holds"], row["fails"]
            words = f"follows up to kappa = {holds:g}" if np.isfinite(holds) else "follows at no kappa that was tried"
            words += f", no longer at {fails:g}" if np.isfinite(fails) else ""
            if np.isfinite(row["kappa"]):
                words += f"; its change reaches the tolerance at kappa = {interval(row, 'kappa')}"
            under = row["noise"] + ("" if np.isnan(row["keep_prob"]) else f", keep_prob {row['keep_prob']:g}")
            lines.append(
                f"- {under}, lr {row['lr']:g}, noise scale {interval(row, 'noise_scale')}: by the {row['rule']} rule "
                f"the iteration {words}."
            )
        return "\n".join(lines)


class Source(NamedTuple):
    """A noise, and the training with it."""

    noise: str
    """Name of the noise, such as "masks and batches", "masks" or "batches"."""
    keep_prob: float
    """NaN if it is not known."""
    trained: Problem
    start: Tensor


@entry_point
def scaling_rule_study(
    problem: Problem,
    theta0: Tensor,
    lrs: Sequence[float],
    kappas: Sequence[int],
    horizon: float,
    tolerance: float = 0.05,
    observable: str | Observable = "loss",
    draws: int = 1024,
    effort: SamplingEffort = EFFORT,
) -> ScalingRuleStudy:
    """Measure how far the iteration follows the scaling rules of its optimiser.

    Args:
        problem: a `Training` by SGD, Adam, AdamW or RMSprop, or a problem for plain SGD.
        theta0: start (D,), or the state of the optimiser (S,), which must be warm for Adam and RMSprop.
        lrs: learning rates with one draw per step.
        kappas: draws that a step averages, larger than 1; each kappa lr divides the horizon.
        horizon: last time T; training takes T/lr steps with one draw per step.
        tolerance: largest relative change at which the iteration counts as following.
        observable: the observable whose mean at the horizon is compared.
        draws: number of gradients from which the noise scale is estimated.
        effort: paths, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, an optimiser without a derived rule, a kappa at which a beta is negative.

    Cost: horizon/lr gradients per path, for each lr, rule and kappa.
    """
    theta0 = check_study(problem, theta0, effort)
    if not problem.autonomous:
        raise SmesolveError(
            f"problem must not depend on time, got a {type(problem).__name__}; train it without a schedule."
        )
    lrs, horizon = check_list("lrs", lrs, check_positive), check_positive("horizon", horizon)
    checked = _check_kappas(lrs, kappas, horizon)
    check_tolerance("tolerance", tolerance)
    check_integer("draws", draws, 4)
    sources = [Source("noise", np.nan, problem, theta0)]
    cells = _cells(sources, lrs, checked, horizon, observable, draws, effort)
    return _combined(optimizer_rules(problem), run_cells(cells, progress=effort.progress), tolerance, effort.paths)


def _cells(
    sources: Sequence[Source],
    lrs: Sequence[float],
    kappas: Sequence[int],
    horizon: float,
    observable: str | Observable,
    draws: int,
    effort: SamplingEffort,
) -> list[Cell]:
    """Return one cell per noise scale, and one cell per mean."""
    (name,) = named_observables(sources[0].trained, [observable])

    def mean(head: dict[str, Any], made: Problem, state: Tensor, lr: float, steps: int, seed: int) -> dict[str, Any]:
        saved: dict[str, Any] = {"save": [0, steps], "workers": effort.workers}
        found = iterate(made, state, lr, steps, effort.paths, seed, observables=[observable], **saved)
        start, end = found.to_dict("records")
        change = end["mean"] - start["mean"]
        return head | {"scaled_lr": lr, "mean": end["mean"], "stderr": end["stderr"], "change": change}

    def scale(source: Source) -> dict[str, Any]:
        problem = source.trained.trained
        found = noise_scale(problem, source.trained.parameters(source.start), draws, effort.seed).scale
        return {"noise": source.noise, "keep_prob": source.keep_prob} | found.columns("noise_scale")

    cells = []
    for source in sources:
        called = source.noise + ("" if np.isnan(source.keep_prob) else f", keep_prob {source.keep_prob!r}")
        cells.append(Cell(f"noise scale, {called}", partial(scale, source)))
        for lr in sorted(set(lrs), reverse=True):
            steps = round(horizon / lr)
            runs = [("", 1, source.trained, source.start, lr)]
            for rule in optimizer_rules(source.trained):
                for kappa in kappas:
                    runs.append((rule.name, kappa, *rule.applied(source.trained, source.start, lr, kappa)))
            for number, (rule_name, kappa, made, state, scaled) in enumerate(runs):
                head = {"noise": source.noise, "keep_prob": source.keep_prob, "lr": lr, "rule": rule_name}
                taken = steps // kappa
                run = partial(mean, head | {"kappa": kappa}, made, state, scaled, taken, effort.seed + number)
                ensembles = [Ensembles(made, state, scaled, [taken * scaled], (), effort.paths, control="none")]
                key = f"{name}, {called}, lr {lr!r}, {rule_name or 'one draw'}, kappa {kappa}"
                cells.append(Cell(key, run, ensembles))
    return cells


def _combined(
    rules: Sequence[OptimizerRule], results: Sequence[dict[str, Any]], tolerance: float, paths: int
) -> ScalingRuleStudy:
    """Return the tables, with relative changes by eq. (1) and their intervals by eq. (2)."""
    noises = pd.DataFrame([row for row in results if "noise_scale" in row])
    means = pd.DataFrame([row for row in results if "mean" in row])
    one = means[means.kappa == 1].drop(columns=["rule", "kappa", "scaled_lr"])
    table = means[means.kappa > 1].merge(one, on=["noise", "keep_prob", "lr"], suffixes=("", "_one"))
    change = table.change_one.abs()
    table["relative"] = (table["mean"] - table.mean_one) / change  # (1)
    # (2): the mean with one draw is in the denominator as well
    of_one = table.stderr_one * (1 + np.sign(table.change_one) * table.relative)
    half = float(student_quantile(paths - 1)) * np.hypot(table.stderr, of_one) / change
    table["relative_low"], table["relative_high"] = table.relative - half, table.relative + half
    table["resolved"] = table.relative.abs() > half
    table["follows"] = follows(table, tolerance)
    columns = [*GROUP, "kappa", "scaled_lr", "mean", "stderr", "relative", "relative_low", "relative_high"]
    return ScalingRuleStudy(tuple(rules), table[[*columns, "resolved", "follows"]], noises, tolerance)


@experiment("scaling", "rule")
class Rule(NetworkExperiment[RuleSettings]):
    """The scaling rule of an optimiser, derived, and up to which kappa the iteration follows it."""

    Settings = RuleSettings
    title = "Learning-rate scaling: rule"
    example = "examples/scaling_rule.yaml --out results/scaling_rule"

    def sources(self) -> list[Source]:
        """Return the noises, together and each by itself, with the training under each of them."""
        s = self.settings
        alone = dataclasses.replace(s.training, batch_size=None, replacement=False)
        chosen: dict[tuple[str, float], TrainingSettings] = {}
        for keep_prob in s.keep_probs:
            if keep_prob < 1 and s.training.batch_size:
                chosen["masks and batches", keep_prob] = s.training
            if keep_prob < 1:
                chosen["masks", keep_prob] = alone
        if s.training.batch_size:
            chosen["batches", 1.0] = s.training
        if not chosen:
            raise SmesolveError(
                "keep_probs must have a number below 1, or training.batch_size be given: there is no noise to average."
            )
        sources = []
        for (noise, keep_prob), training in chosen.items():
            trained = trained_by(self.problem_of(keep_prob, training), training, s.lrs)
            sources.append(Source(noise, keep_prob, trained, start_of(trained, training, s.lrs, s.network.seed)))
        return sources

    def cells(self) -> list[Cell]:
        """Return one cell per noise scale, and one cell per mean."""
        s = self.settings
        kappas = sorted(set(s.kappas))
        return _cells(self.sources(), s.lrs, kappas, s.horizon, s.observables[0], s.draws, s.effort)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of the rules."""
        result = _combined(optimizer_rules(self.problem), results, self.settings.tolerance, self.settings.paths)
        tables = {"table": result.table, "reach": result.reach()}
        figures = {"rule": Captioned(result.plot(), CAPTION)}
        return [Section("Scaling rule", tables, figures, _report(result, self.settings), result.conclusion())]

    def caveats(self) -> str:
        """Return nothing: no weak order is measured."""
        return ""


def _report(result: ScalingRuleStudy, settings: RuleSettings) -> str:
    batch = f" of {settings.training.batch_size} samples" if settings.training.batch_size else ""
    return join(
        f"A step averages kappa draws, each with its own masks and its own batch{batch}. Change of the mean "
        f"{settings.observables[0]} at the horizon, after T/(kappa lr) steps at the changed learning rate, T = "
        f"{settings.horizon:g}, compared with one draw per step, relative to its change since the start, over "
        f"{settings.paths} paths each; the iteration follows where the whole interval is inside the tolerance "
        f"{result.tolerance:g}. The noise scale tr Sigma / |grad L_S|^2 is that of one draw at the start.",
        "## Noise scale, and where the rules fail",
        markdown(result.reach(), [*GROUP, "noise_scale", "holds", "fails", "kappa"]),
        "## Each kappa",
        markdown(
            result.table,
            ["noise", "keep_prob", "lr", "rule", "kappa", "scaled_lr", "relative", "follows"],
            headers={"scaled_lr": "lr of kappa draws", "relative": "relative change"},
        ),
    )
